"""Files of a run that were damaged, emptied or removed: healed, or named in one line; never a silent wrong number."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file

import pkd_tune
from pkd_tune.files import read_json
from pkd_tune.workflows.finished_run import SearchRun


@pytest.fixture
def again(tiny_search: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], SearchRun]:
    """Returns the command of the shared search, which has ended, in a copy of its folder, the working folder."""
    monkeypatch.chdir(shutil.copytree(tiny_search, tmp_path / "home"))

    def run() -> SearchRun:
        return pkd_tune.search(
            task="mrpc",
            gpus=0,
            teacher="tiny",
            depths=(3, 1),
            space="space.toml",
            control_trials=0,
            seeds=0,
            quiet=True,
        )

    return run


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 400] = bytes(400)
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_winner_and_a_damaged_teacher_are_made_again(
    again: Callable[[], SearchRun], caplog: pytest.LogCaptureFixture
) -> None:
    run = Path("results/MRPC/tiny")
    before = read_json(run / "summary.json")
    (teacher,) = Path("data/models/finetuned/MRPC").glob("tiny-4-layer-????????????????")
    deep, flat = (
        run / f"checkpoints/{s['layers']}-layer-pkd-trial-{s['trial']:04}.safetensors" for s in before["students"]
    )
    whole = load_file(deep), load_file(flat)
    (teacher / "tokenizer.json").unlink()
    flip(deep)
    flat.write_bytes(flat.read_bytes()[:100])
    after = again().summary
    assert f"{teacher.resolve()}: tokenizer.json changed or gone; fine-tuning again" in caplog.messages
    assert [m.endswith("as before") for m in caplog.messages].count(True) == 2
    assert (teacher / "tokenizer.json").is_file()
    for path, weights in zip((deep, flat), whole, strict=True):
        assert all((tensor == weights[name]).all() for name, tensor in load_file(path).items())
    for record in ("metrics", "search_score"):
        assert [s[record] for s in after["students"]] == [s[record] for s in before["students"]]
    assert after["teacher"]["metrics"] == before["teacher"]["metrics"]
