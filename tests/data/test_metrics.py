"""Metrics by hand, and how they make a task's score."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.metrics import constant_score, majority_score, predictions, score

MNLI, STSB = TASKS["MNLI"], TASKS["STS-B"]


def score_dev(
    name: str, predicted: Sequence[float] | np.ndarray, labels: Sequence[float] | np.ndarray
) -> dict[str, float]:
    return score(TASKS[name], {"dev": predicted}, {"dev": labels})


def majority_of(name: str, labels: Sequence[float] | np.ndarray) -> dict[str, float]:
    return majority_score(TASKS[name], {"dev": labels})


def test_mrpc_score_is_the_mean_of_f1_and_accuracy_by_hand() -> None:
    # Class 1: 2 found, 1 missed, 1 wrongly found: precision 2/3, recall 2/3, F1 2/3. Right: 3 of 5.
    scores = score_dev("MRPC", [1, 1, 0, 1, 0], [1, 1, 1, 0, 0])
    assert list(scores) == ["f1", "accuracy", "score"]
    assert scores["f1"] == pytest.approx(200 / 3)
    assert scores["accuracy"] == pytest.approx(60)
    assert scores["score"] == pytest.approx((200 / 3 + 60) / 2)


def test_f1_is_that_of_class_1() -> None:
    # Class 0 has F1 80, class 1 has 0.
    assert score_dev("MRPC", [0, 0, 0], [0, 0, 1])["f1"] == 0


def test_matthews_by_hand() -> None:
    # TP 2, TN 1, FP 1, FN 1: (2*1 - 1*1) / sqrt(3 * 3 * 2 * 2) = 1/6.
    scores = score_dev("CoLA", np.array([1, 1, 0, 1, 0]), np.array([1, 1, 1, 0, 0]))
    assert scores == {"matthews": pytest.approx(100 / 6), "score": pytest.approx(100 / 6)}


@pytest.mark.parametrize(("predictions", "labels"), [([1, 1, 1], [0, 1, 1]), ([0, 1, 1], [1, 1, 1]), ([1, 1], [1, 1])])
@pytest.mark.parametrize("name", ["CoLA", "MRPC", "RTE"])
def test_a_single_class_scores_without_warnings(name: str, predictions: list[int], labels: list[int]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_dev(name, predictions, labels)
    assert all(math.isfinite(value) for value in scores.values())
    if name == "CoLA":
        assert scores["matthews"] == 0


def test_f1_without_any_class_1_is_0_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_dev("MRPC", [0, 0], [0, 0]) == {"f1": 0, "accuracy": 100, "score": 50}


@pytest.mark.parametrize(("predictions", "labels"), [([1], [1, 0]), ([], []), ([[1]], [[1]])])
def test_score_refuses_rows_that_do_not_match(predictions: list[int], labels: list[int]) -> None:
    with pytest.raises(ValueError, match="of the same length"):
        score_dev("RTE", predictions, labels)


def test_majority_scores_are_the_published_baselines() -> None:
    # MRPC's dev split has 279 equivalent pairs of 408; WNLI's 40 entailed ones are not the majority of 71.
    mrpc = majority_of("MRPC", [1] * 279 + [0] * 129)
    assert round(mrpc["accuracy"], 1) == 68.4
    assert round(mrpc["f1"], 1) == 81.2
    assert round(majority_of("WNLI", [0] * 40 + [1] * 31)["score"], 1) == 56.3
    assert majority_of("CoLA", np.array([1] * 721 + [0] * 322))["score"] == 0


def test_the_best_constant_prediction_by_f1_may_be_the_rarer_class() -> None:
    # QQP's dev split has 14,885 duplicates of 40,430: all of them called that, precision is 0.368 and recall 1.
    labels = {"dev": [1] * 14885 + [0] * 25545}
    precision = 14885 / 40430
    assert constant_score(TASKS["QQP"], labels) == pytest.approx(50 * (2 * precision / (precision + 1) + precision))
    assert majority_score(TASKS["QQP"], labels)["score"] == pytest.approx(50 * (1 - precision))
    assert constant_score(TASKS["RTE"], {"dev": [1, 0, 0]}) == pytest.approx(200 / 3)
    assert constant_score(MNLI, {"dev": [0, 2], "dev_mm": [2, 1]}) == pytest.approx(50)


def test_majority_tie_goes_to_the_lower_class() -> None:
    assert majority_of("MRPC", [1, 0, 1, 0])["f1"] == 0


def test_majority_is_one_class_for_all_dev_splits() -> None:
    # Class 2 is the most frequent of both together, though 0 is that of the first.
    labels = {"dev": [0, 0, 2], "dev_mm": [2, 2, 1, 1], "test": None}
    scores = majority_score(MNLI, labels)
    assert scores["accuracy"] == pytest.approx(100 / 3)
    assert scores["accuracy_mm"] == pytest.approx(50)


def test_mnli_score_is_the_mean_of_matched_and_mismatched() -> None:
    # 1 of 1 and 1 of 4 right: the mean of the two is 62.5, of all examples it would be 40.
    scores = score(MNLI, {"dev_mm": [0, 0, 0, 0], "dev": [2]}, {"dev": [2], "dev_mm": [0, 1, 1, 2]})
    assert scores == {"accuracy": 100, "accuracy_mm": 25, "score": 62.5}
    assert list(scores) == ["accuracy", "accuracy_mm", "score"]


def test_macro_f1_by_hand_and_as_the_score() -> None:
    # F1 of class 0: 2 of 3 found, none wrong: 0.8; of 1: 1 found of 1, 1 wrong: 2/3; class 2 does not occur.
    task = replace(MNLI, metrics=("macro_f1", "accuracy"), score="first", splits=MNLI.splits[:2])
    scores = score(task, {"dev": [0, 0, 1, 1]}, {"dev": [0, 0, 0, 1]})
    assert scores == pytest.approx(
        {"macro_f1": 100 * (0.8 + 2 / 3) / 2, "accuracy": 75, "score": 100 * (0.8 + 2 / 3) / 2}
    )


def test_pearson_and_spearman_by_hand() -> None:
    # Deviations (-2,-1,3) and (-1,0,1): Pearson 5/sqrt(14*2). Ranks (1,2,3) twice: Spearman 1.
    scores = score_dev("STS-B", [1.0, 2.0, 6.0], [2.0, 3.0, 4.0])
    assert scores["pearson"] == pytest.approx(500 / math.sqrt(28))
    assert scores["spearman"] == pytest.approx(100)
    assert scores["score"] == pytest.approx((500 / math.sqrt(28) + 100) / 2)
    # Ranks (1.5,1.5,3) and (1,2,3): covariance 1.5, variances 1.5 and 2.
    assert score_dev("STS-B", [1.0, 1.0, 6.0], [2.0, 3.0, 4.0])["spearman"] == pytest.approx(150 / math.sqrt(3))


@pytest.mark.parametrize(
    ("predicted", "labels"), [([2.5] * 3, [0.0, 1.0, 5.0]), ([1.0, 2.0], [4.0, 4.0]), ([1.0], [2.0])]
)
def test_correlation_with_a_constant_is_0_without_warnings(predicted: list[float], labels: list[float]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = score_dev("STS-B", np.array(predicted, np.float32), np.array(labels, np.float32))
        assert scores == {"pearson": 0, "spearman": 0, "score": 0}
        assert majority_of("STS-B", labels)["score"] == 0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=3), st.floats(0.5, 20), st.floats(-9, 9))
def test_a_correlation_ignores_scale_and_offset(pairs: list[tuple[int, int]], scale: float, offset: float) -> None:
    values, labels = np.array(pairs, float).T / 10
    before, after = score_dev("STS-B", values, labels), score_dev("STS-B", values * scale + offset, labels)
    assert after == pytest.approx(before, abs=1e-6)
    assert all(-100.001 <= value <= 100.001 for value in before.values())


@pytest.mark.parametrize(
    ("split", "instead"), [("test", "score train or dev, or submit it to the GLUE server"), ("dev", "score train$")]
)
def test_a_split_without_labels_is_refused_by_name(split: str, instead: str) -> None:
    with pytest.raises(UserError, match=f"MRPC {split} has no labels; {instead}"):
        score(TASKS["MRPC"], {split: [0, 1]}, {"dev": None, "test": None})
    # The hub's placeholders, or an oracle's answers, are no labels of a test split either.
    with pytest.raises(UserError, match="MRPC test has no labels"):
        score(TASKS["MRPC"], {"test": [0, 1]}, {"test": [-1, -1]})


def test_there_is_nothing_to_score_in_a_task_of_test_examples_alone() -> None:
    with pytest.raises(UserError, match="AX has no split with labels"):
        score(TASKS["AX"], {"test": [0]}, {"test": [0]})
    with pytest.raises(UserError, match="AX has no split with labels"):
        majority_score(TASKS["AX"], {"test": None})
    with pytest.raises(UserError, match="MNLI dev_mm has no labels"):
        majority_score(MNLI, {"dev": [0], "dev_mm": None})


def test_every_dev_split_must_be_there() -> None:
    with pytest.raises(ValueError, match="scored on"):
        score(MNLI, {"dev": [0]}, {"dev": [0], "dev_mm": [0]})
    with pytest.raises(ValueError, match="scored on"):
        score(MNLI, {}, {"dev": [0], "dev_mm": [0]})


def test_predictions_are_the_largest_logit_or_the_value_itself() -> None:
    assert predictions(MNLI, np.array([[0.0, 2.0, 1.0], [3.0, 1.0, 2.0]])).tolist() == [1, 0]
    assert predictions(STSB, np.array([[4.5], [-0.25]])).tolist() == [4.5, -0.25]
    with pytest.raises(ValueError, match=r"STS-B needs outputs of shape \(N, 1\), but got \(2, 2\)"):
        predictions(STSB, np.zeros((2, 2)))
