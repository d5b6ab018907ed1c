"""The paired bootstrap: what it concludes, and that its fast sums equal scoring every resample by itself."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from pkd_tune.config import Task
from pkd_tune.data import metrics, significance
from pkd_tune.data.glue import TASKS
from pkd_tune.data.metrics import score, split_metrics
from pkd_tune.data.significance import METRICS, Difference, Predicted, paired_bootstrap

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
    """Two models that err on the same examples differ by nothing, however few examples there are; two trainings of one
    of them that differ widely make the interval wide."""
    same = [with_errors(0.3, 1)]
    assert paired_bootstrap(RTE, same, same, {"dev": TRUTH}, resamples=50)[1:] == (0.0, 0.0)
    good_and_bad = [with_errors(0.0, 1), with_errors(0.6, 2)]
    difference = paired_bootstrap(RTE, good_and_bad, same, {"dev": TRUTH}, resamples=300)
    assert difference.high - difference.low > 50


def test_both_dev_splits_of_a_task_are_resampled() -> None:
    labels = {"dev": RNG.integers(3, size=40), "dev_mm": RNG.integers(3, size=60)}
    right = [{name: values.copy() for name, values in labels.items()}]
    wrong = [{name: (values + 1) % 3 for name, values in labels.items()}]
    assert paired_bootstrap(MNLI, right, wrong, labels, resamples=20) == (100.0, 100.0, 100.0)


def scored_one_by_one(
    task: Task,
    ours: Sequence[Predicted],
    theirs: Sequence[Predicted],
    labels: Mapping[str, np.ndarray],
    resamples: int,
    seed: int,
) -> Difference:
    """The definition: every drawn training is scored on the drawn examples."""
    rng = np.random.default_rng(seed)

    def mean_score(models: Sequence[Predicted], rows: Mapping[str, np.ndarray]) -> float:
        truth = {name: labels[name][rows[name]] for name in labels}
        return float(
            np.mean(
                [score(task, {name: model[name][rows[name]] for name in labels}, truth)["score"] for model in models]
            )
        )

    differences = []
    for _ in range(resamples):
        rows = {name: rng.integers(len(values), size=len(values)) for name, values in labels.items()}
        drawn = [[models[i] for i in rng.integers(len(models), size=len(models))] for models in (ours, theirs)]
        differences.append(mean_score(drawn[0], rows) - mean_score(drawn[1], rows))
    every = {name: np.arange(len(values)) for name, values in labels.items()}
    low, high = np.percentile(differences, [2.5, 97.5]).tolist()
    return Difference(mean_score(ours, every) - mean_score(theirs, every), low, high)


def examples(task: Task, trainings: int) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Labels, and predictions of which a part is wrong; of a regression with ties in both."""
    rng = np.random.default_rng(1)
    labels = {}
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
def test_the_interval_is_that_of_scoring_every_resample(name: str, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(significance, "_CHUNK", chunk)
    labels, predicted = examples(TASKS[name], 5)
    expected = scored_one_by_one(TASKS[name], predicted[:3], predicted[3:], labels, 12, seed=3)
    found = paired_bootstrap(TASKS[name], predicted[:3], predicted[3:], labels, resamples=12, seed=3)
    assert found == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["many labels", "one label", "one example"])
def test_each_metric_of_each_resample_is_that_of_its_examples(name: str, kind: str) -> None:
    task = (
        TASKS["STS-B"]
        if name in ("pearson", "spearman")
        else TASKS["MNLI" if name in ("matthews", "macro_f1") else "MRPC"]
    )
    task = replace(task, metrics=(name,))
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
    expected = scored_one_by_one(task, predicted[:2], predicted[2:], labels, 12, seed=3)
    found = paired_bootstrap(task, predicted[:2], predicted[2:], labels, resamples=12, seed=3)
    assert found == pytest.approx(expected, abs=1e-10)
    assert found != pytest.approx(
        paired_bootstrap(replace(task, score="mean"), predicted[:2], predicted[2:], labels, resamples=12, seed=3)
    )


def test_every_metric_has_a_fast_form() -> None:
    assert METRICS.keys() == metrics._METRICS.keys()
