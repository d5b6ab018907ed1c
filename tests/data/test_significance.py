import numpy as np
import pytest

from pkd_tune.data.glue import TASKS
from pkd_tune.data.significance import paired_bootstrap

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
