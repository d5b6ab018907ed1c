"""What reports say of the predictions of student and teacher, where test_golden.py does not show it."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.config import UserError
from pkd_tune.files import DEV_PREDICTIONS
from pkd_tune.reporting.dev_predictions import (
    LISTED,
    disagreements,
    read_predictions,
    scatter,
    student_and_teacher,
)
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.page import page
from pkd_tune.reporting.run import read_run

STUDENT = "best/2-layer"
SMALL: dict[str, Any] = {"trials": 4, "depths": (2,), "methods": ("pkd",)}


def text_of(run: Path) -> str:
    return markdown(student_and_teacher(read_run(run)))


def test_disagreements_are_listed_by_who_is_right() -> None:
    rows = [("a", "a", "b"), ("a", "b", "a"), ("a", "b", "c"), ("a", "a", "a"), ("a", "b", "b")]
    table = pd.DataFrame([*rows, *[("a", "a", "b")] * LISTED], columns=["label", "teacher", STUDENT])
    found = {kind: list(rows.index) for kind, rows in disagreements(table, STUDENT)}
    assert found == {
        "only the teacher is right": [0, 5, 6, 7, 8],
        "only the student is right": [1],
        "both are wrong, and differ": [2],
    }


def test_of_a_regression_the_largest_differences_are_listed() -> None:
    table = pd.DataFrame({"label": [0.0] * 20, "teacher": [0.0] * 20, STUDENT: [float(i % 11) for i in range(20)]})
    ((_, rows),) = disagreements(table, STUDENT)
    assert list(rows.index) == [10, 9, 8, 19, 7, 18, 6, 17, 5, 16]


def test_a_confusion_matrix_counts_all_dev_splits(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MNLI" / "minilm", task="MNLI", **SMALL)
    text = text_of(run)
    assert "Confusion matrix of PKD, 2 layers, dev and dev_mm together" in text
    assert "| dev | 9823 |" in text
    assert "| dev_mm | 9823 |" in text
    assert "both wrong, differ" in text  # of two classes there is none
    table = pd.read_csv(run / DEV_PREDICTIONS)
    label = table["label"].iloc[0]
    of_label = table[table["label"] == label]
    classes = read_run(run).search["data"]["task"]["labels"]
    counts = " | ".join(str((of_label[STUDENT] == predicted).sum()) for predicted in classes)
    assert f"| {label} | {counts} |" in text


def test_of_many_classes_the_most_frequent_confusions_are_listed(tmp_path: Path) -> None:
    labels = tuple(f"class {i}" for i in range(13))
    run = write_run(tmp_path / "RTE" / "minilm", task="RTE", labels=labels, **SMALL)
    table = pd.read_csv(run / DEV_PREDICTIONS)
    table.loc[table["label"] == "class 3", STUDENT] = "class 4"
    table.to_csv(run / DEV_PREDICTIONS, index=False)
    text = text_of(run)
    assert "with 13 classes there is no matrix" in text
    assert f"| class 3 | class 4 | {(table['label'] == 'class 3').sum()} | 100% |" in text


def test_texts_and_classes_are_no_markup_in_html(tmp_path: Path) -> None:
    run = write_run(tmp_path / "RTE" / "minilm", task="RTE", labels=("<i>yes", "`no`"), **SMALL)
    html = page("title", student_and_teacher(read_run(run)))
    assert "&lt;b&gt;First&lt;/b&gt; sentence, number" in html.replace("</span>, <span>", ", ")
    assert "<b>First" not in html
    assert "<i>yes" not in html
    assert "<code>no" not in html


def test_a_plot_shows_a_regression(tmp_path: Path) -> None:
    run = write_run(tmp_path / "STS-B" / "minilm", task="STS-B", **SMALL)
    (panel,) = scatter(read_run(run)).panels
    assert [(series.name, len(series.x)) for series in panel.series] == [("teacher", 500), ("student", 500)]
    assert "Confusion" not in text_of(run)
    assert scatter(read_run(write_run(tmp_path / "RTE" / "minilm", task="RTE", **SMALL))).panels == []


def test_without_the_file_there_is_no_section(tmp_path: Path) -> None:
    run = write_run(tmp_path / "RTE" / "minilm", task="RTE", **SMALL)
    (run / DEV_PREDICTIONS).unlink()
    assert student_and_teacher(read_run(run)) == []


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("split,example_id,label,teacher,text_1\n", "no column best/2-layer"),
        (f"split,example_id,label,teacher,{STUDENT},text_1\ndev,0,x,0.1,0.2,\n", "could not convert"),
        ("", "No columns to parse"),
        ('a,b\n"', "EOF inside string"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str, problem: str) -> None:
    path = tmp_path / DEV_PREDICTIONS
    path.write_text(content)
    with pytest.raises(UserError, match=problem) as raised:
        read_predictions(path, [STUDENT], regression=True)
    assert str(path) in str(raised.value)
    assert "remove it, or run the search's command again" in str(raised.value)
