"""Intervals of differences: what is concluded, how often wrongly, and that fast sums equal scoring each resample."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from pkd_tune.config import Metric, Task
from pkd_tune.data import metrics, significance
from pkd_tune.data.glue import TASKS
from pkd_tune.data.metrics import score, split_metrics
from pkd_tune.data.significance import METRICS, Predicted, half_width, paired_bootstrap, resampled_scores

RTE, MNLI = TASKS["RTE"], TASKS["MNLI"]
RNG = np.random.default_rng(0)
TRUTH = RNG.integers(2, size=200)


def with_errors(share: float, seed: int) -> dict[str, np.ndarray]:
    wrong = np.random.default_rng(seed).random(len(TRUTH)) < share
    return {"dev": np.where(wrong, 1 - TRUTH, TRUTH)}


def test_a_clear_difference_is_seen_and_its_mean_is_that_of_the_scores() -> None:
    ours, theirs = [with_errors(0.05, i) for i in range(3)], [with_errors(0.35, 10 + i) for i in range(3)]
    difference = paired_bootstrap(RTE, ours, theirs, {"dev": TRUTH}, resamples=300)
    means = [np.mean([100 * (model["dev"] == TRUTH).mean() for model in models]) for models in (ours, theirs)]
    assert difference.mean == pytest.approx(means[0] - means[1])
    assert difference.low < difference.mean < difference.high
    assert difference.low > 15
    assert difference.distinguishable
    back = paired_bootstrap(RTE, theirs, ours, {"dev": TRUTH}, resamples=300)
    assert back.mean == pytest.approx(-difference.mean)
    assert back.distinguishable


def test_models_of_the_same_quality_cannot_be_told_apart() -> None:
    ours, theirs = [with_errors(0.2, i) for i in range(3)], [with_errors(0.2, 10 + i) for i in range(3)]
    difference = paired_bootstrap(RTE, ours, theirs, {"dev": TRUTH}, resamples=300)
    assert difference.low < 0 < difference.high
    assert not difference.distinguishable


def test_examples_are_paired_and_seeds_count() -> None:
    """Two models that err on the same examples differ by nothing, however few examples there are; two training runs of
    one of them that differ widely make the interval wide."""
    same = [with_errors(0.3, 1)] * 2
    assert paired_bootstrap(RTE, same, same, {"dev": TRUTH}, resamples=50)[1:] == (0.0, 0.0)
    good_and_bad = [with_errors(0.0, 1), with_errors(0.6, 2)]
    difference = paired_bootstrap(RTE, good_and_bad, same, {"dev": TRUTH}, resamples=300)
    assert difference.high - difference.low > 50


def test_both_dev_splits_of_a_task_are_resampled() -> None:
    labels = {"dev": RNG.integers(3, size=40), "dev_mm": RNG.integers(3, size=60)}
    right = [{name: values.copy() for name, values in labels.items()}] * 2
    wrong = [{name: (values + 1) % 3 for name, values in labels.items()}] * 2
    assert paired_bootstrap(MNLI, right, wrong, labels, resamples=20) == (100.0, 100.0, 100.0)


def scored_one_by_one(
    task: Task, models: Sequence[Predicted], labels: Mapping[str, np.ndarray], resamples: int, seed: int
) -> np.ndarray:
    """The definition: every training is scored on the drawn examples."""
    rng = np.random.default_rng(seed)
    scores = []
    for _ in range(resamples):
        rows = {name: rng.integers(len(values), size=len(values)) for name, values in labels.items()}
        truth = {name: labels[name][rows[name]] for name in labels}
        drawn = [{name: model[name][rows[name]] for name in labels} for model in models]
        scores.append([score(task, model, truth)["score"] for model in drawn])
    return np.array(scores).T


def examples(task: Task, trainings: int) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Labels, and predictions of which a part is wrong; of a regression with ties in both."""
    rng = np.random.default_rng(1)
    labels: dict[str, np.ndarray] = {}
    predicted: list[dict[str, np.ndarray]] = [{} for _ in range(trainings)]
    for size, name in zip((37, 23), task.dev_splits, strict=False):
        noise = rng.random((trainings, size))
        if task.regression:
            labels[name] = rng.integers(26, size=size).astype(np.float32) / 5
            values = np.round(labels[name] + 2 * noise, 1).astype(np.float32)
        else:
            labels[name] = rng.integers(task.outputs, size=size)
            values = np.where(noise < 0.3, rng.integers(task.outputs, size=size), labels[name])
        for training, row in zip(predicted, values, strict=True):
            training[name] = row
    return labels, predicted


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("MRPC", 37 * 5), ("CoLA", 1), ("STS-B", 37 * 5), ("MNLI", 37 * 5), ("MNLI", significance._CHUNK)],
)
def test_the_scores_are_those_of_scoring_every_resample(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", chunk)
    labels, predicted = examples(TASKS[name], 5)
    expected = scored_one_by_one(TASKS[name], predicted, labels, 12, seed=3)
    found = resampled_scores(TASKS[name], predicted, labels, resamples=12, seed=3)
    assert found == pytest.approx(expected, abs=1e-10)


def test_trainings_on_the_same_seeds_are_compared_seed_by_seed() -> None:
    """Seeds matter much, and in the same way to both: 10 examples of 200, which is 5 points, on every seed."""
    chance = [with_errors(share, i)["dev"] for i, share in enumerate((0.1, 0.3, 0.5))]
    wrong = [np.flatnonzero(predicted == TRUTH)[:10] for predicted in chance]
    ours = [{"dev": predicted} for predicted in chance]
    theirs = [{"dev": np.where(np.isin(np.arange(200), w), 1 - p, p)} for w, p in zip(wrong, chance, strict=True)]
    apart = paired_bootstrap(RTE, ours, theirs, {"dev": TRUTH}, resamples=300)
    paired = paired_bootstrap(RTE, ours, theirs, {"dev": TRUTH}, resamples=300, by_seed=True)
    assert apart.mean == paired.mean == pytest.approx(5.0)
    assert not apart.distinguishable
    assert paired.distinguishable
    varied = [{"dev": p} for p in (chance[0], theirs[1]["dev"], chance[2])]  # 5, 0 and 5 points: a variance of 25 / 3
    mixed = paired_bootstrap(RTE, varied, theirs, {"dev": TRUTH}, resamples=300, by_seed=True)
    assert mixed.high - mixed.mean > 4.303 * (25 / 3 / 3) ** 0.5


def test_the_interval_of_two_seeds_worked_out_by_hand() -> None:
    """Scores 80 and 82 against one of 70 that does not vary: a standard error of 1 with one degree of freedom, whose
    97.5 % quantile is 12.706; examples with a standard deviation of 2 add 1.96 · 2."""
    resampled = np.array([-1.0, 1.0]) * np.sqrt(2)  # with n − 1 in the denominator: a standard deviation of 2
    alone = half_width(np.array([80.0, 82.0]), None, resampled, 0.95)
    assert alone == pytest.approx(np.hypot(12.706, 1.96 * 2), abs=1e-3)
    # Two degrees of freedom, whose quantile is 4.303, and a standard error of √2.
    both = half_width(np.array([80.0, 82.0]), np.array([70.0, 72.0]), resampled * 0, 0.95)
    assert both == pytest.approx(4.3027 * np.sqrt(2), abs=1e-3)
    # With a third pair the pooled variance is still 2, of three degrees of freedom, whose quantile is 3.182.
    pair = np.array([80.0, 82.0])
    three = half_width(pair, None, resampled * 0, 0.95, pool=[pair, pair - 10, pair - 20])
    assert three == pytest.approx(3.1824, abs=1e-3)
    # A model that varies more than the others counts with its own variance.
    noisy = half_width(pair, None, resampled * 0, 0.95, pool=[pair, pair / 10])
    assert noisy == pytest.approx(4.3027, abs=1e-3)
    # One whose training runs are all the same adds no degree of freedom; two such ones do not vary at all.
    constant = np.array([50.0, 50.0])
    stuck = half_width(pair, None, resampled * 0, 0.95, pool=[pair, constant, constant - 1])
    assert stuck == pytest.approx(12.706, abs=1e-3)
    assert half_width(constant, None, resampled * 0, 0.95, pool=[constant, constant - 1]) == 0
    both = half_width(np.stack([pair, constant]), None, np.zeros((2, 2)), 0.95)  # independent comparisons
    assert both == pytest.approx([12.706, 0], abs=1e-3)
    # A single training has the pooled variance, here 2 with one degree of freedom: √(2 / 2 + 2) times 12.706.
    single = half_width(pair, np.array([70.0]), resampled * 0, 0.95)
    assert single == pytest.approx(12.706 * np.sqrt(3), abs=1e-3)
    with pytest.raises(ValueError, match="no model was trained on two seeds"):
        half_width(np.array([80.0]), np.array([70.0]), resampled, 0.95)


@pytest.mark.parametrize("seeds", [2, 3, 5])
@pytest.mark.parametrize("between_seeds", [0.01, 0.1, 0.5])
def test_two_equal_students_are_told_apart_in_at_most_5_percent_of_runs(seeds: int, between_seeds: float) -> None:
    """In 1,000 simulated runs, whatever part of the variance is due to the seeds: two students whose training runs have
    the same distribution of scores on the same examples."""
    runs, size = 1000, 120
    rng = np.random.default_rng(seeds)
    shape = (runs, 2, seeds, size)
    margin = rng.normal(0.8, 1, (runs, 1, 1, size)) + rng.normal(0, 0.4, (runs, 2, 1, size))  # of each example
    margin = margin + rng.normal(0, between_seeds, (runs, 2, seeds, 1)) + rng.normal(0, 0.5, shape)
    right = (margin > 0).reshape(runs * 2 * seeds, size).astype(int)
    labels = {"dev": np.ones(size, int)}
    # A resample of one run's examples is as good as one of another's: they are all exchangeable.
    scores = resampled_scores(RTE, [{"dev": row} for row in right], labels, resamples=200)
    resampled = scores.reshape(runs, 2, seeds, -1).mean(2)
    found = 100 * right.reshape(shape).mean(-1)
    half = half_width(found[:, 0], found[:, 1], resampled[:, 0] - resampled[:, 1], 0.95)
    false = abs(found[:, 0].mean(-1) - found[:, 1].mean(-1)) > half
    assert false.mean() <= 0.05


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["many labels", "one label", "one example"])
def test_each_metric_of_each_resample_is_that_of_its_examples(name: str, kind: str) -> None:
    task = (
        TASKS["STS-B"]
        if name in ("pearson", "spearman")
        else TASKS["MNLI" if name in ("matthews", "macro_f1") else "MRPC"]
    )
    task = replace(task, metrics=(cast(Metric, name),))
    dtype = np.float64 if task.regression else np.int64
    rng = np.random.default_rng(2)
    labels_N = rng.integers(max(task.outputs, 2), size=1 if kind == "one example" else 6).astype(dtype)
    if kind == "one label":
        labels_N = np.full_like(labels_N, 0.7)
    each_N = np.arange(len(labels_N))
    predicted = [labels_N, labels_N[::-1], np.ones_like(labels_N), (each_N == 2).astype(dtype)]
    if task.regression:
        predicted.append(2.5 + each_N.astype(dtype) % 3 * 2**-20)  # nearly constant
        predicted += [np.full_like(labels_N, value / 7) for value in range(1, 20)]  # whose means are not exact
    rows_RN = rng.integers(len(labels_N), size=(12, len(labels_N)))
    counts_RN = np.stack([np.bincount(rows_N, minlength=len(labels_N)) for rows_N in rows_RN]).astype(float)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found_MR = METRICS[name](np.stack(predicted), labels_N, counts_RN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SciPy's, about nearly constant values
        expected_MR = [
            [split_metrics(task, "dev", training_N[rows_N], labels_N[rows_N])[name] / 100 for rows_N in rows_RN]
            for training_N in predicted
        ]
    np.testing.assert_allclose(found_MR, expected_MR, rtol=0, atol=1e-9)


def test_only_the_first_metric_is_compared_where_it_is_the_score() -> None:
    task = replace(TASKS["MNLI"], metrics=("macro_f1", "accuracy"), score="first")
    labels, predicted = examples(task, 4)
    expected = scored_one_by_one(task, predicted, labels, 12, seed=3)
    found = resampled_scores(task, predicted, labels, resamples=12, seed=3)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
    assert not np.allclose(found, resampled_scores(replace(task, score="mean"), predicted, labels, 12, seed=3))


def test_every_metric_has_a_fast_form() -> None:
    assert METRICS.keys() == metrics._METRICS.keys()
