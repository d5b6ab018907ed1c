"""What --to may name, and what may be lost there: a student that `distill` wrote, and nothing else."""

import json
from pathlib import Path

import pytest

from pkd_tune.workflows.checks import Problems, check_student_folder
from pkd_tune.workflows.distill import publish


def write_student(folder: Path, seed: int) -> Path:
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps({"distillation": {}, "training": {"seed": seed}}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def problems_of(target: Path) -> list[str]:
    problems = Problems()
    check_student_folder(target, problems)
    return problems.found


def test_a_student_is_replaced_and_a_new_or_empty_folder_filled(tmp_path: Path) -> None:
    write_student(tmp_path / "old", seed=1)
    (tmp_path / "empty").mkdir()
    for name in ("old", "empty", "new"):
        assert problems_of(tmp_path / name) == []
        unfinished = write_student(tmp_path / ".unfinished", seed=2)
        wanted = contents(unfinished)
        publish(unfinished, tmp_path / name)
        assert contents(tmp_path / name) == wanted
        assert not unfinished.exists()


@pytest.mark.parametrize("other", ["notes.txt", "result.json", "no result.json"])
def test_nothing_else_is_lost(tmp_path: Path, other: str) -> None:
    target = write_student(tmp_path / "there", seed=1)
    match other:
        case "notes.txt":
            (target / other).write_text("mine")
        case "result.json":  # of another program
            (target / other).write_text("{}")
        case _:
            (target / "result.json").unlink()
    before = contents(target)
    said = f"--to {target}: it is not empty; give a new folder, or empty this one"
    assert problems_of(target) == [said]
    unfinished = write_student(tmp_path / ".unfinished", seed=2)
    with pytest.raises(OSError, match="not empty"):
        publish(unfinished, target)
    assert contents(target) == before
    assert unfinished.is_dir()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert problems_of(tmp_path / "file") == [f"--to {tmp_path / 'file'}: is a file; give a new folder"]
