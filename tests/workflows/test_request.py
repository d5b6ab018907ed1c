"""What a search says that its students start from, when its teacher is fine-tuned already."""

from pathlib import Path

import pytest
from requests_of import search_request

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.encoders.modeling import load_classifier, save_classifier
from pkd_tune.workflows.request import choose_depths


def test_a_search_records_that_students_start_from_the_finetuned_teacher(
    tiny_data: Path, tiny_space: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny, given = tiny_data / "models/pretrained/tiny", str(tmp_path / "given")
    save_classifier(load_classifier(tiny, TASKS["MRPC"].labels, seed=0), tiny, tmp_path / "given")
    usual = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--space", str(tiny_space)]
    caplog.set_level("INFO")
    usual += ["--out", str(tmp_path / "results")]

    def init(*flags: str) -> str:
        return search_request(*usual, *flags).config.data.init

    assert init("--teacher", "tiny") == "pretrained"
    assert init("--teacher", given, "--student", "tiny") == "pretrained"
    assert caplog.text == ""
    assert init("--teacher", given) == "teacher"
    assert "note: the teacher given is fine-tuned already" in caplog.text
    with pytest.raises(UserError, match=r"--student .*: is fine-tuned already"):
        init("--teacher", "tiny", "--student", given)


def test_a_search_needs_a_teacher_with_shallower_students() -> None:
    assert choose_depths(None, 2) == (1,)
    with pytest.raises(UserError, match="give one of 2 layers or more"):
        choose_depths(None, 1)
