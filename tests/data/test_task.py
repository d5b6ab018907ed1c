"""Splits by the names that users give them."""

from pathlib import Path

import pytest
from tickets import TASK_FILE, ticket_rows, write_csv, write_tickets

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.task import find_split, find_task, task_of_files


@pytest.mark.parametrize(
    ("task", "name", "split"),
    [
        ("MRPC", "dev", "dev"),
        ("MRPC", "validation", "dev"),
        ("MRPC", "Train", "train"),
        ("MNLI", "validation", "dev"),
        ("MNLI", "validation_mm", "dev_mm"),
        ("MNLI", "dev-mm", "dev_mm"),
        ("MNLI", "validation_matched", "dev"),
        ("MNLI", "dev_mismatched", "dev_mm"),
        ("MNLI", "test-mismatched", "test_mm"),
        ("AX", "test", "test"),
    ],
)
def test_a_split_has_its_own_name_and_those_of_its_sources(task: str, name: str, split: str) -> None:
    assert find_split(TASKS[task], name) is TASKS[task].split(split)


def test_a_splits_own_name_comes_before_those_of_files(tmp_path: Path) -> None:
    task_file = write_tickets(tmp_path, task_file=TASK_FILE.replace("dev.csv", "test.csv") + 'test = "final.csv"\n')
    write_csv(tmp_path / "test.csv", ticket_rows(70))
    write_csv(tmp_path / "final.csv", ticket_rows(7))
    task = find_task(str(task_file))
    assert find_split(task, "test").file == "final.csv"
    assert find_split(task, "final").file == "final.csv"
    assert find_split(task, "validation").file == "test.csv"


def test_a_path_of_an_unknown_user_is_no_task() -> None:
    with pytest.raises(UserError, match=r"~nouser/x\.toml"):
        find_task("~nouser/x.toml")


@pytest.mark.parametrize(("task", "name"), [("MRPC", "dev_mm"), ("AX", "validation"), ("MRPC", "valid")])
def test_a_split_that_the_task_lacks_is_refused_with_those_it_has(task: str, name: str) -> None:
    with pytest.raises(UserError, match=f"{task} has no split {name}, only .*test"):
        find_split(TASKS[task], name)


def test_files_have_the_columns_of_the_task_that_is_predicted(tmp_path: Path) -> None:
    """A folder's train file says whether an example has one text or two, not the file that is predicted."""
    rows = [(f"text {i}", f"more {i}", "ab"[i % 2]) for i in range(20)]
    pair = write_csv(tmp_path / "pairs" / "train.csv", rows, ("text", "text_pair", "label"))
    single = write_csv(tmp_path / "t" / "train.csv", [(a, c) for a, _, c in rows], ("text", "label"))
    assert task_of_files(str(tmp_path / "pairs"), [single], ["a", "b"]).text == ("text", "text_pair")
    assert task_of_files(str(tmp_path / "t"), [pair], ["a", "b"]).text == ("text",)
    (tmp_path / "pairs" / "train.csv").write_text('text,label\n"broken')
    assert task_of_files(str(tmp_path / "pairs"), [single], ["a", "b"]).text == ("text",)  # it need not be there


def test_the_classes_of_files_are_in_the_order_of_the_task_whatever_order_a_model_has(tmp_path: Path) -> None:
    """F1 is of the second one."""
    rows = [(f"text {i}", ("neg", "pos")[i % 2]) for i in range(20)]
    path = write_csv(tmp_path / "t" / "train.csv", rows, ("text", "label"))
    assert find_task(str(tmp_path / "t")).labels == ("neg", "pos")
    for classes in (["pos", "neg"], ["neg", "pos"]):
        assert task_of_files(str(tmp_path / "t"), [path], classes).labels == ("neg", "pos")
