"""Splits by the names that users give them."""

import pytest

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.task import find_split


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


@pytest.mark.parametrize(("task", "name"), [("MRPC", "dev_mm"), ("AX", "validation"), ("MRPC", "valid")])
def test_a_split_that_the_task_lacks_is_refused_with_those_it_has(task: str, name: str) -> None:
    with pytest.raises(UserError, match=f"{task} has no split {name}, only .*test"):
        find_split(TASKS[task], name)
