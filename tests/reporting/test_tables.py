"""report.md of a small recorded run, word for word where it matters."""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.glue.tasks import TASKS
from pkd_tune.reporting.records import read_json, read_trials, write_json, write_trials
from pkd_tune.reporting.tables import METRIC_TITLES, metric_titles, report, table, write_report

RUN: dict[str, Any] = {
    "demo": False,
    "search": {
        "data": {"task": "MRPC", "max_length": 128},
        "teacher_trainings": [{"epochs": 4, "learning_rate": 5e-5}],
        "student_training": {"epochs": 4, "batch_size": 32, "seed": 42},
        "depths": [2, 3],
        "trials": 5,
        "seed": 42,
    },
    "space": {
        "alpha": {"low": 0.2, "high": 0.9, "log": False},
        "beta": {"low": 1.0, "high": 1000.0, "log": True},
        "strategy": {"values": ["skip", "last"]},
        "temperature": {"values": [10]},
    },
    "slots": {"device": "cpu", "count": 2},
    "provenance": {
        "command": "python -m pkd_tune.search --task MRPC",
        "started": "2026-01-02T03:04:05+00:00",
        "git": "abc1234",
        "python": "3.11.7",
        "versions": {"torch": "2.13.0"},
        "machine": "Linux x86_64, 2 CPU cores",
    },
}
TEACHER = {
    "name": "minilm",
    "layers": 6,
    "finetuned_here": True,
    "baseline": "most frequent class",
    "majority": {"f1": 81.2, "accuracy": 68.4, "score": 74.8},
    "metrics": {"f1": 86.0, "accuracy": 80.0, "score": 83.0},
    "parameters": 20_000_000,
    "latency_ms": 10.0,
}
STUDENT = {
    "layers": 3,
    "trial": 1,
    "search_score": 80.1,
    "epoch": 3.5,
    "settings": {"alpha": 0.512345, "beta": 100.0, "strategy": "skip", "normalize": True},
    "imitated_layers": [2, 4],
    "folder": "best/3-layer",
    "metrics": {"f1": 84.0, "accuracy": 76.0, "score": 80.0},
    "parameters": 15_000_000,
    "latency_ms": 5.0,
}
SUMMARY = {"teacher": TEACHER, "students": [STUDENT], "latency_on": "2 threads of a x86_64 CPU"}
ROWS = [
    {"depth": 2, "trial": 0, "state": "failed", "score": None, "error": "the loss was not finite"},
    {"depth": 2, "trial": 1, "state": "failed", "score": None, "error": "the loss was not finite"},
    {"depth": 3, "trial": 0, "state": "stopped early", "score": 70.0, "error": None},
    {"depth": 3, "trial": 1, "state": "complete", "score": 80.1, "error": None},
    {"depth": 3, "trial": 2, "state": "interrupted", "score": 75.0, "error": None},
]


def test_the_report_of_a_recorded_run() -> None:
    text = report(RUN, SUMMARY, pd.DataFrame(ROWS))
    assert text.startswith("# MRPC: PKD students of minilm\n")
    for line in (
        "| dev split | F1 | accuracy | mean | parameters | size of teacher | latency | speed-up |",
        "| teacher, 6 layers | 86.0 | 80.0 | 83.0 | 20.0 M | 100% | 10.0 ms | 1.0× |",
        "| best student, 3 layers | 84.0 | 76.0 | 80.0 | 15.0 M | 75% | 5.0 ms | 2.0× |",
        "| most frequent class | 81.2 | 68.4 | 74.8 |  |  |  |  |",
        "| 3 layers | 1 | 80.1 | 0.512 | 100 | skip | yes | 1→2, 2→4 | 3.5 |",
        "| 2 layers | 2 | 0 | 0 | 2 | 0 |",
        "| 3 layers | 3 | 1 | 1 | 0 | 1 |",
        "2 failed with: `the loss was not finite`",
        "- Command: `python -m pkd_tune.search --task MRPC`",
        "- Space: alpha 0.2 to 0.9; beta 1 to 1000 (log); strategy skip or last; temperature 10.",
    ):
        assert line in text.splitlines(), line
    assert "No trial of 2 layers reached the end" in text
    assert "made-up" not in text
    assert "made-up demo corpus, not GLUE's" in report({**RUN, "demo": True}, SUMMARY, pd.DataFrame(ROWS))


def test_a_run_without_a_complete_trial_says_so() -> None:
    text = report(RUN, {**SUMMARY, "students": []}, pd.DataFrame(ROWS[:2]))
    assert "None: no trial was completed." in text
    assert "No trial of 3 layers" in text


def test_a_run_without_any_trial_still_has_a_report(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", RUN)
    write_json(tmp_path / "summary.json", {**SUMMARY, "students": []})
    write_trials(tmp_path / "trials.csv", [])
    assert "| 2 layers | 0 | 0 | 0 | 0 | 0 |" in write_report(tmp_path).read_text()


def test_records_survive_the_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {**RUN, "where": tmp_path})
    assert read_json(tmp_path / "run.json") == {**RUN, "where": str(tmp_path)}
    write_trials(tmp_path / "trials.csv", ROWS)
    assert read_trials(tmp_path / "trials.csv")["state"].tolist() == [row["state"] for row in ROWS]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trials.csv"]


def test_one_metric_needs_no_mean() -> None:
    assert metric_titles({"f1": 1.0, "accuracy": 2.0, "score": 1.5}) == {
        "f1": "F1",
        "accuracy": "accuracy",
        "score": "mean",
    }
    assert metric_titles({"matthews": 1.0, "score": 1.0}) == {"matthews": "Matthews correlation"}
    assert metric_titles({"accuracy": 1.0, "accuracy_mm": 2.0, "score": 1.5}) == {
        "accuracy": "accuracy",
        "accuracy_mm": "accuracy (mm)",
        "score": "mean",
    }


def test_every_metric_of_every_task_has_a_title() -> None:
    metrics = {name + split.suffix for task in TASKS.values() for split in task.splits for name in task.metrics}
    assert metrics >= {"pearson", "spearman", "accuracy_mm"}
    scored = {
        name + task.split(dev).suffix for task in TASKS.values() for dev in task.dev_splits for name in task.metrics
    }
    assert scored <= METRIC_TITLES.keys()


def test_a_table_is_markdown() -> None:
    assert table(["a", "b"], [[1, "x"]]) == "| a | b |\n| :-- | --: |\n| 1 | x |"
