"""Run folders are read and checked."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.config import UserError
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.run import data_folder, find_student, finished_run, is_run, read_rows, read_run, write_rows

ROWS = [{"depth": 2, "state": "failed", "error": 'a, "b"'}, {"depth": 3, "state": "complete", "score": 80.1}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "results" / "MRPC" / "minilm", trials=4)


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = read_json(path)
    change(record)
    write_json(path, record)


def test_a_run_is_read_with_controls_first(folder: Path) -> None:
    run = read_run(folder)
    assert [(student["layers"], student["method"]) for student in run.students] == [
        (depth, method) for depth in (2, 3) for method in ("finetuned", "kd", "pkd")
    ]
    assert run.methods == ["finetuned", "kd", "pkd"]
    assert run.settings == (
        *("alpha", "beta", "temperature", "learning_rate", "strategy", "normalize", "init", "epochs"),
    )
    assert (run.task, run.name, run.demo) == ("MRPC", "minilm", False)
    assert len(run.of_stage("confirm")) == 18
    assert len(run.evaluations)


def test_a_run_that_has_just_begun_is_read_without_tables(folder: Path) -> None:
    for name in ("summary.json", "trials.csv", "evaluations.csv"):
        (folder / name).unlink()
    run = read_run(folder)
    assert (run.teacher, run.students, run.planned) == (None, [], None)
    assert run.trials.empty
    assert run.evaluations.empty


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no-run": (lambda folder: (folder / "run.json").unlink(), "minilm is damaged (no run.json)"),
    "no-trials": (lambda folder: (folder / "trials.csv").unlink(), "minilm is damaged (no trials.csv"),
    "no-evaluations": (lambda folder: (folder / "evaluations.csv").unlink(), "minilm is damaged (no evaluations.csv"),
    "run-key": (
        lambda folder: edit(folder / "run.json", lambda record: record["search"].pop("stages")),
        "run.json is damaged (no search.stages)",
    ),
    "run-part": (
        lambda folder: edit(folder / "run.json", lambda record: record.update(resources=2)),
        "run.json is damaged (no resources.device, resources.count, resources.per_gpu, resources.threads)",
    ),
    "teacher-key": (
        lambda folder: edit(folder / "summary.json", lambda summary: summary["teacher"].pop("examples")),
        "summary.json is damaged (no teacher.examples)",
    ),
    "student-key": (
        lambda folder: edit(folder / "summary.json", lambda summary: summary["students"][1].pop("method")),
        "summary.json is damaged (no method)",
    ),
    "column": (
        lambda folder: read_rows(folder / "trials.csv").drop(columns="stage").to_csv(folder / "trials.csv"),
        "trials.csv is damaged (no stage)",
    ),
}


@pytest.mark.parametrize(("damage", "says"), DAMAGES.values(), ids=DAMAGES)
def test_what_a_run_lacks_is_named_in_one_line(folder: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(folder)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        read_run(folder)
    assert len(error.value.problems) == 1


def test_a_student_is_found_by_depth_and_method(folder: Path) -> None:
    record, summary = finished_run(folder)
    assert record["search"]["data"]["task"]["name"] == "MRPC"
    student = find_student(folder, summary, 3, "kd")
    assert (student["layers"], student["method"]) == (3, "kd")
    with pytest.raises(UserError, match="no such student; it has pkd: 2, 3; kd: 2, 3"):
        find_student(folder, summary, 4, "pkd")
    (folder / "summary.json").unlink()
    with pytest.raises(UserError, match=r"has not ended.*continue it with: python -m pkd_tune\.search"):
        finished_run(folder)


def test_the_data_folder_moves_with_the_run(folder: Path) -> None:
    record, _ = finished_run(folder)
    assert data_folder(folder, record) == folder.parents[2] / "data"


def test_what_is_a_run(tmp_path: Path) -> None:
    assert not is_run(tmp_path)
    (tmp_path / "study.log").touch()
    assert not is_run(tmp_path)
    (tmp_path / "trials.csv").touch()
    assert is_run(tmp_path)


def test_tables_are_read_as_written(tmp_path: Path) -> None:
    write_rows(tmp_path / "trials.csv", ROWS)
    assert read_rows(tmp_path / "trials.csv").equals(pd.DataFrame(ROWS))
    assert [path.name for path in tmp_path.iterdir()] == ["trials.csv"]
    write_rows(tmp_path / "trials.csv", [])
    assert read_rows(tmp_path / "trials.csv").empty
    assert read_rows(tmp_path / "evaluations.csv").empty


def test_a_damaged_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trials.csv").write_text('a,b\n1,"2')
    with pytest.raises(UserError, match=r"trials\.csv is damaged"):
        read_rows(tmp_path / "trials.csv")
