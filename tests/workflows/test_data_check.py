"""What --check says of a task's data."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tickets import ticket_rows, write_csv, write_tickets

from pkd_tune.config import UserError
from pkd_tune.data.loading import load_raw
from pkd_tune.data.tables import read_table
from pkd_tune.data.task import find_task
from pkd_tune.workflows.data_check import check, duplicate_notes, label_table, length_table, understood
from pkd_tune.workflows.options import SearchOptions
from pkd_tune.workflows.request import resolve_search


def test_everything_is_shown(tmp_path: Path, tiny_data: Path) -> None:
    task_file = write_tickets(tmp_path / "t")
    rows = ticket_rows(70, seed=1)
    write_csv(tmp_path / "t" / "dev.csv", [*rows[:-1], ticket_rows(1)[0]])
    options = SearchOptions(task=str(task_file), teacher="tiny", data_dir=tiny_data, gpus=0, max_length=12)
    text = check(resolve_search(options, ""))
    assert "tickets: one of 7 classes (column queue) from subject and body" in text
    assert "macro F1, accuracy; the score is macro F1" in text
    assert "| train | 210 |" in text
    assert "| billing | 30 | 11 |" in text
    assert "truncated at 12" in text
    assert "1 of 70 examples of dev are in train too: its scores are too high" in text


def test_texts_without_labels_are_counted_and_compared_with_every_split(tmp_path: Path, tiny_data: Path) -> None:
    task_file = write_tickets(tmp_path / "t")
    dev, train = read_table(tmp_path / "t" / "dev.csv", ["subject", "body"]), ticket_rows(3)
    more = tmp_path / "more.csv"
    both = [(dev.columns["subject"][0], dev.columns["body"][0]), ("new", "text"), ("new", "text"), train[0][:2]]
    write_csv(more, both, ("subject", "body"))
    options = SearchOptions(task=str(task_file), teacher="tiny", data_dir=tiny_data, gpus=0, unlabeled=more)
    lines = check(resolve_search(options, "")).splitlines()
    assert "| unlabeled | 4 |" in lines
    assert "1 texts of unlabeled repeat another" in lines
    assert "1 texts of unlabeled are in train too" in lines
    assert "1 texts of unlabeled are in dev too: students are trained on texts that they are scored on" in lines
    with pytest.raises(UserError, match="--unlabeled: fine-tuning alone learns nothing from texts without labels"):
        resolve_search(replace(options, methods=("finetuned",)), "")
    more.write_text("subject,body\na,b\n,\n")
    with pytest.raises(UserError, match=r"more\.csv:3: 'subject' and 'body' are empty"):
        resolve_search(options, "")


def test_labels_of_a_regression_are_summed_up(tmp_path: Path) -> None:
    write_csv(tmp_path / "train.csv", [(f"t {i}", str(i)) for i in range(41)], ("text", "label"))
    (tmp_path / "t.toml").write_text('[data]\ntrain = "train.csv"\nkind = "regression"\n')
    task = find_task(str(tmp_path / "t.toml"))
    raw = load_raw(task, tmp_path)
    assert "| labels | lowest | 25 % | median |" in label_table(task, raw)
    assert understood(task)[0] == "t: a number (column label) from text"
    assert duplicate_notes(raw, task) == []


def test_rare_classes_are_one_row_and_absent_ones_are_named(tmp_path: Path) -> None:
    rows = [(f"text {i}", str(i % 50)) for i in range(100)]
    write_csv(tmp_path / "train.csv", rows, ("text", "label"))
    listed = ", ".join(f'"{i}"' for i in range(51))
    (tmp_path / "t.toml").write_text(f'[data]\ntrain = "train.csv"\ndev = "train.csv"\nlabels = [{listed}]\n')
    task = find_task(str(tmp_path / "t.toml"))
    raw = load_raw(task, tmp_path)
    assert "| 11 rarer | 20 | 20 |" in label_table(task, raw)
    assert "no example of train has the class 50" in duplicate_notes(raw, task)


def test_lengths_are_before_truncation() -> None:
    assert "| train | 2 | 8 | 10 | 10 | 25.0% |" in length_table({"train": np.array([1, 2, 3, 10])}, 9)
