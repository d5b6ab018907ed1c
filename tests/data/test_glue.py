"""The table of tasks: that it is consistent, complete, and found by name."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from glue_files import hub_config, layout_of

import pkd_tune
from pkd_tune.config import Task, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.task import find_task, find_trainable


@pytest.mark.parametrize(
    ("spelling", "name"),
    [
        ("MRPC", "MRPC"),
        ("mrpc", "MRPC"),
        ("CoLA", "CoLA"),
        ("cola", "CoLA"),
        ("SST-2", "SST-2"),
        ("sst2", "SST-2"),
        ("sst_2", "SST-2"),
        ("Sst 2", "SST-2"),
        ("rte", "RTE"),
        ("sts-b", "STS-B"),
        ("STSB", "STS-B"),
        ("mnli", "MNLI"),
        ("ax", "AX"),
    ],
)
def test_find_task_accepts_usual_spellings(spelling: str, name: str) -> None:
    assert find_task(spelling).name == name


def test_every_hub_name_finds_its_own_task() -> None:
    assert TASKS
    for task in TASKS.values():
        assert find_task(hub_config(task)) is task


def test_unknown_task_is_one_line_with_known_tasks_and_the_closest() -> None:
    with pytest.raises(UserError) as caught:
        find_task("MPRC")
    (problem,) = caught.value.problems
    assert "\n" not in problem
    assert "did you mean MRPC?" in problem
    assert all(name in problem for name in TASKS)


def test_a_name_like_no_task_gets_no_suggestion() -> None:
    with pytest.raises(UserError, match="no such task") as caught:
        find_task("imagenet-21k")
    assert "did you mean" not in str(caught.value)


def test_a_task_without_training_data_is_refused_where_a_model_is_made() -> None:
    assert find_trainable("mnli") is TASKS["MNLI"]
    with pytest.raises(UserError, match=r"--task ax: AX has only a test split, .* give --task MNLI"):
        find_trainable("ax")


ALL = pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)


@ALL
def test_layout_columns_point_at_the_columns_their_headers_name(task: Task) -> None:
    for split in task.splits:
        layout = layout_of(task, split.name)
        assert (layout.label is None) == (split.part == "test") == bool(split.submission)
        assert (layout.sentence2 is None) == (len(task.text) == 1)
        if layout.header is None:
            assert task.name == "CoLA"
            continue
        columns = (layout.sentence1,) if layout.sentence2 is None else (layout.sentence1, layout.sentence2)
        for column in columns:
            name = layout.header[column].split()[-1].lower()
            assert name.startswith(("sentence", "question", "string"))
            assert not name.endswith("parse")
        if layout.label is not None:
            assert layout.header[layout.label] in ("label", "Quality", "is_duplicate", "gold_label", "score")


@ALL
def test_each_class_has_one_spelling_in_the_files(task: Task) -> None:
    assert len(task.labels) == len(task.raw_labels) == len(set(task.raw_labels))
    assert task.outputs == (1 if task.regression else len(task.labels))
    assert task.regression == (task.name == "STS-B")
    assert (0 <= task.filler <= 5) if task.regression else (task.filler in range(task.outputs))


@ALL
def test_splits_have_names_and_files_of_their_own(task: Task) -> None:
    for names in (
        [split.name for split in task.splits],
        [split.file for split in task.splits],
        [s.hub for s in task.splits],
    ):
        assert len(set(names)) == len(names)
    assert all(task.split(name).part == "dev" for name in task.dev_splits)
    assert all(task.split(name).part == "test" for name in task.test_splits)
    assert task.trainable == bool(task.dev_splits) == ("train" in task.row_counts)
    assert task.model_task is None or TASKS[task.model_task].labels == task.labels


def test_sizes_are_those_of_the_official_files() -> None:
    rows = {task.name: tuple(task.row_counts.values()) for task in TASKS.values()}
    assert rows == {
        "CoLA": (8551, 1043, 1063),
        "SST-2": (67349, 872, 1821),
        "MRPC": (3668, 408, 1725),
        "STS-B": (5749, 1500, 1379),
        "QQP": (363846, 40430, 390965),
        "MNLI": (392702, 9815, 9832, 9796, 9847),
        "QNLI": (104743, 5463, 5463),
        "RTE": (2490, 277, 3000),
        "WNLI": (635, 71, 146),
        "AX": (1104,),
    }


def test_mnli_has_two_dev_and_two_test_splits_of_different_columns() -> None:
    task = TASKS["MNLI"]
    assert task.dev_splits == ("dev", "dev_mm")
    assert task.test_splits == ("test", "test_mm")
    assert [split.file for split in task.splits] == [
        "train.tsv",
        "dev_matched.tsv",
        "dev_mismatched.tsv",
        "test_matched.tsv",
        "test_mismatched.tsv",
    ]
    widths = [len(layout_of(task, split.name).header or ()) for split in task.splits]
    assert widths == [12, 16, 16, 10, 10]
    assert [layout_of(task, split.name).label for split in task.splits] == [11, 15, 15, None, None]


def test_only_the_table_and_the_demo_know_a_task_by_its_name() -> None:
    """The rest of the package does not compare anything with a task's name, nor index or match by it."""
    package = Path(pkd_tune.__file__).parent
    data = package / "data"
    exempt = {data / "glue.py", *(data / "demo").glob("*.py")}
    modules = {*package.rglob("*.py")} - exempt
    assert len(exempt) == 5
    assert len(modules) > 20
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare | ast.Subscript | ast.Match):
                named = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and n.value in TASKS]
                assert not named, f"{path}:{node.lineno} asks for {named}"


def test_class_ids_are_the_hubs() -> None:
    assert TASKS["MRPC"].labels == ("not_equivalent", "equivalent")
    assert TASKS["RTE"].labels == ("entailment", "not_entailment")
    assert TASKS["CoLA"].labels == ("unacceptable", "acceptable")
    assert TASKS["WNLI"].labels == ("not_entailment", "entailment")
    assert TASKS["MNLI"].labels == TASKS["AX"].labels == ("entailment", "neutral", "contradiction")


def test_the_table_needs_only_the_standard_library() -> None:
    heavy = ["numpy", "sklearn", "scipy", "torch", "transformers", "datasets"]
    code = f"import sys, pkd_tune.data.glue; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[]\n"
