import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from pkd_tune.config import UserError
from pkd_tune.glue.tasks import SPLITS, TASKS, find_task, majority_score, score


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
    ],
)
def test_find_task_accepts_usual_spellings(spelling: str, name: str) -> None:
    assert find_task(spelling).name == name


def test_every_hub_name_finds_its_own_task() -> None:
    assert TASKS
    for task in TASKS.values():
        assert find_task(task.hub_name) is task


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


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_layout_columns_point_at_the_columns_their_headers_name(task) -> None:
    for split in SPLITS:
        layout = task.layout(split)
        assert (layout.label is None) == (split == "test")
        assert (layout.sentence2 is None) == (len(task.hub_sentences) == 1)
        if layout.header is None:
            assert task.name == "CoLA"
            continue
        columns = (layout.sentence1,) if layout.sentence2 is None else (layout.sentence1, layout.sentence2)
        for column in columns:
            assert layout.header[column].split()[-1].lower().startswith(("sentence", "question", "string"))
        if layout.label is not None:
            assert layout.header[layout.label] in ("label", "Quality", "is_duplicate")


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_each_class_has_one_spelling_in_the_files(task) -> None:
    assert len(task.labels) == len(task.raw_labels) == len(set(task.raw_labels)) == 2


def test_class_ids_are_the_hubs() -> None:
    assert TASKS["MRPC"].labels == ("not_equivalent", "equivalent")
    assert TASKS["RTE"].labels == ("entailment", "not_entailment")
    assert TASKS["CoLA"].labels == ("unacceptable", "acceptable")
    assert TASKS["WNLI"].labels == ("not_entailment", "entailment")


def test_mrpc_score_is_the_mean_of_f1_and_accuracy_by_hand() -> None:
    # Class 1: 2 found, 1 missed, 1 wrongly found: precision 2/3, recall 2/3, F1 2/3. Right: 3 of 5.
    scores = score(TASKS["MRPC"], [1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    assert list(scores) == ["f1", "accuracy", "score"]
    assert scores["f1"] == pytest.approx(200 / 3)
    assert scores["accuracy"] == pytest.approx(60)
    assert scores["score"] == pytest.approx((200 / 3 + 60) / 2)


def test_f1_is_that_of_class_1() -> None:
    # Class 0 has F1 80, class 1 has 0.
    assert score(TASKS["MRPC"], [0, 0, 0], [0, 0, 1])["f1"] == 0


def test_matthews_by_hand() -> None:
    # TP 2, TN 1, FP 1, FN 1: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2) = 1/6.
    scores = score(TASKS["CoLA"], np.array([1, 1, 0, 1, 0]), np.array([1, 1, 1, 0, 0]))
    assert scores == {"matthews": pytest.approx(100 / 6), "score": pytest.approx(100 / 6)}


@pytest.mark.parametrize(("predictions", "labels"), [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([1, 1], [1, 1])])
@pytest.mark.parametrize("name", ["CoLA", "MRPC", "RTE"])
def test_a_single_class_scores_without_warnings(name: str, predictions: list[int], labels: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score(TASKS[name], predictions, labels)
    assert all(math.isfinite(value) for value in scores.values())
    if name == "CoLA":
        assert scores["matthews"] == 0


def test_f1_without_any_class_1_is_0_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(TASKS["MRPC"], [0, 0], [0, 0]) == {"f1": 0, "accuracy": 100, "score": 50}


@pytest.mark.parametrize(("predictions", "labels"), [([1], [1, 0]), ([], []), ([[1]], [[1]])])
def test_score_refuses_rows_that_do_not_match(predictions: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="one length"):
        score(TASKS["RTE"], predictions, labels)


def test_majority_scores_are_the_published_baselines() -> None:
    # MRPC's dev split has 279 equivalent pairs of 408; WNLI's 40 entailed ones are not the majority of 71.
    mrpc = majority_score(TASKS["MRPC"], [1] * 279 + [0] * 129)
    assert round(mrpc["accuracy"], 1) == 68.4
    assert round(mrpc["f1"], 1) == 81.2
    assert round(majority_score(TASKS["WNLI"], [0] * 40 + [1] * 31)["score"], 1) == 56.3
    assert majority_score(TASKS["CoLA"], np.array([1] * 721 + [0] * 322))["score"] == 0


def test_majority_tie_goes_to_the_lower_class() -> None:
    assert majority_score(TASKS["MRPC"], [1, 0, 1, 0])["f1"] == 0


def test_the_table_needs_only_the_standard_library() -> None:
    heavy = ["numpy", "sklearn", "scipy", "torch", "transformers", "datasets"]
    code = f"import sys, pkd_tune.glue.tasks; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout == b"[]\n"
