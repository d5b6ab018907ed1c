"""What is written of a fine-tuned classifier, and what is refused."""

from pathlib import Path

import pytest

from pkd_tune.encoders.modeling import load_classifier, save_classifier


def test_a_folder_is_replaced_only_where_that_was_said(tiny_data: Path, tmp_path: Path) -> None:
    tiny, target = tiny_data / "models/pretrained/tiny", tmp_path / "there"
    target.mkdir()
    model = load_classifier(tiny, ("no", "yes"), seed=0)
    save_classifier(model, tiny, target)  # onto an empty one
    (target / "notes.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        save_classifier(model, tiny, target)
    assert (target / "notes.txt").read_text() == "mine"
    save_classifier(model, tiny, target, replace=True)
    assert not (target / "notes.txt").exists()
