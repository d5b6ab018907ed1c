"""Confidence intervals of the difference between two models' scores on the same examples, over examples and seeds.

Shape suffixes: N examples of a split, M training runs, R resamples, K classes, U distinct values.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri, stdtrit

from pkd_tune.config import Task
from pkd_tune.data.metrics import score

RESAMPLES = 1000

_CHUNK = 2**22
"""Resamples are counted in chunks of about this many (resample, example) pairs: 32 MB per matrix of them."""

Predicted = Mapping[str, npt.NDArray[np.generic]]
"""The predictions of one training: for each dev split by name, (N,) class ids or values."""

Array = npt.NDArray[np.float64]


class Difference(NamedTuple):
    """By how many points (scores times 100) one model's mean score exceeds another's."""

    mean: float
    low: float
    """Lower end of the confidence interval."""
    high: float
    """Upper end of the confidence interval."""

    @property
    def distinguishable(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    task: Task,
    ours: Sequence[Predicted],
    theirs: Sequence[Predicted],
    labels: Mapping[str, npt.NDArray[np.generic]],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
    pool: Sequence[Array] | None = None,
    *,
    by_seed: bool = False,
    given: bool = False,
) -> Difference:
    """Compares the mean scores of two models, each trained on one or several seeds.

    The interval covers two sources of chance. The choice of dev examples: every resample draws examples with
    replacement, the same for all training runs of both models (Koehn, "Statistical Significance Tests for Machine
    Translation Evaluation", EMNLP 2004). The choice of seeds: see `half_width`.

    A resample is represented by how often it has each example, and each metric is computed from sums weighted by these
    counts, for many resamples at once.

    Args:
        task: Determines the metrics.
        ours: Predictions of each training of the first model.
        theirs: Predictions of each training of the second model.
        labels: The true labels of every dev split.
        resamples: Number of bootstrap resamples.
        seed: Seed of the resampling.
        level: Confidence level of the interval.
        pool: Scores of the models over which the variance over seeds is pooled, as `half_width` takes them.
        by_seed: Whether the n-th training runs of both have the same seed. What varies over seeds is then their
            difference, and `pool` has such differences.
        given: Whether the second model is taken as it is, as a teacher is: its seed is not covered.

    Raises:
        ValueError: When no model was trained on two seeds, so that their variance is unknown.
    """
    models = [*ours, *theirs]
    scores_MR = resampled_scores(task, models, labels, resamples, seed)
    means_R = scores_MR[: len(ours)].mean(0) - scores_MR[len(ours) :].mean(0)
    found = np.array([score(task, model, labels)["score"] for model in models])
    of_ours, of_theirs = found[: len(ours)], found[len(ours) :]
    mean = float(of_ours.mean() - of_theirs.mean())
    if by_seed:
        half = float(half_width(of_ours - of_theirs, None, means_R, level, pool))
    else:
        half = float(half_width(of_ours, None if given else of_theirs, means_R, level, pool))
    return Difference(mean, mean - half, mean + half)


def resampled_scores(
    task: Task,
    models: Sequence[Predicted],
    labels: Mapping[str, npt.NDArray[np.generic]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Array:
    """Returns the score of every training on every bootstrap resample of the dev examples, times 100, (M, R)."""
    rng = np.random.default_rng(seed)
    predicted = {name: np.stack([training[name] for training in models]) for name in labels}
    chunk = max(1, _CHUNK // max(map(len, labels.values())))
    parts = []
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        counts = {name: np.empty((size, len(values))) for name, values in labels.items()}
        for resample in range(size):
            for name, values in labels.items():
                rows = rng.integers(len(values), size=len(values))
                counts[name][resample] = np.bincount(rows, minlength=len(values))
        parts.append(np.mean([_scores(task, predicted[name], labels[name], counts[name]) for name in labels], axis=0))
    return np.concatenate(parts, axis=1)


def half_width(
    of_ours: Array, of_theirs: Array | None, resampled: Array, level: float, pool: Sequence[Array] | None = None
) -> Array:
    """Returns half the width of the confidence interval of the difference of two mean scores.

    The half-widths of the two sources of chance are combined as independent ones are, by the root of the sum of their
    squares (the MOVER of Zou and Donner, "Construction of confidence intervals about effect measures", Statistics in
    Medicine 2008). For the examples it is the normal quantile times the standard deviation over resamples. For the
    seeds it is the quantile of Student's t times the standard error: resampling two or three seeds instead would
    understate their variance. The variance over seeds is pooled over several models, as in an analysis of variance,
    because two or three seeds hardly tell it; a model's own is taken where it is larger. Models whose training runs all
    have the same score, such as those that stay at the most frequent class, say nothing of how much others vary: they
    are left out of the pool where another one varies.

    Leading axes are those of independent comparisons.

    Args:
        of_ours: Score of each training of the first model, (..., M).
        of_theirs: Score of each training of the second model, (..., M'); None: it is a given model, whose seed is not
            covered.
        resampled: Difference of the mean scores on each resample of the examples, (..., R).
        level: Confidence level.
        pool: Scores of the models over which the variance is pooled, the two among them; None: these two.

    Raises:
        ValueError: When no model was trained on two seeds, so that their variance is unknown.
    """
    tail = (1 + level) / 2
    squared: Array = ndtri(tail) ** 2 * resampled.var(-1, ddof=1)
    covered = [of_ours] if of_theirs is None else [of_ours, of_theirs]
    pooled = [scores for scores in pool or covered if scores.shape[-1] > 1]
    if not pooled:
        raise ValueError("no model was trained on two seeds")
    of_all = sum(scores.shape[-1] - 1 for scores in pooled)
    of_varying = sum(((scores.shape[-1] - 1) * (np.ptp(scores, axis=-1) > 0) for scores in pooled), start=np.zeros(()))
    freedom = np.where(of_varying > 0, of_varying, of_all)
    common = sum((scores.shape[-1] - 1) * scores.var(-1, ddof=1) for scores in pooled) / freedom
    for scores in covered:
        trainings = scores.shape[-1]
        own = scores.var(-1, ddof=1) if trainings > 1 else 0.0
        squared = squared + stdtrit(freedom, tail) ** 2 * np.maximum(common, own) / trainings
    half: Array = np.sqrt(squared)
    return half


def _scores(
    task: Task, predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array
) -> Array:
    """Returns the score of every training on every resample of one split, times 100, (M, R)."""
    metrics = [METRICS[name](predicted_MN, labels_N, counts_RN) for name in task.scored]
    mean_MR: Array = 100 * np.mean(metrics, axis=0)
    return mean_MR


def _accuracy(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    accuracy_MR: Array = _sums(predicted_MN == labels_N, counts_RN) / len(labels_N)
    return accuracy_MR


def _f1(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    """F1 of class 1, 2 TP / (2 TP + FP + FN)."""
    found_MR = _sums((predicted_MN == 1) & (labels_N == 1), counts_RN)
    predicted_MR = _sums(predicted_MN == 1, counts_RN)
    present_R = _sums(labels_N == 1, counts_RN)
    return _ratio(2 * found_MR, predicted_MR + present_R)


def _macro_f1(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    """Mean over the classes that a training predicts in a resample, or that are present in it, of their F1."""
    shape = len(predicted_MN), len(counts_RN)
    sum_MR, classes_MR = np.zeros(shape), np.zeros(shape)
    for k in np.unique(np.concatenate([predicted_MN.ravel(), labels_N])):
        found_MR = _sums((predicted_MN == k) & (labels_N == k), counts_RN)
        either_MR = _sums(predicted_MN == k, counts_RN) + _sums(labels_N == k, counts_RN)
        sum_MR += _ratio(2 * found_MR, either_MR)
        classes_MR += either_MR > 0
    return _ratio(sum_MR, classes_MR)


def _matthews(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    """Matthews correlation of any number of classes (Gorodkin, "Comparing two K-category assignments by a K-category
    correlation coefficient", 2004).
    """
    n = len(labels_N)
    classes_K = np.unique(np.concatenate([predicted_MN.ravel(), labels_N]))
    right_MR = _sums(predicted_MN == labels_N, counts_RN)
    predicted_KMR = np.stack([_sums(predicted_MN == k, counts_RN) for k in classes_K])
    present_KR = np.stack([_sums(labels_N == k, counts_RN) for k in classes_K])[:, None]
    covariance_MR = n * right_MR - (predicted_KMR * present_KR).sum(0)
    return _ratio(covariance_MR, np.sqrt((n**2 - (predicted_KMR**2).sum(0)) * (n**2 - (present_KR**2).sum(0))))


def _pearson(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    y_N, constant_y_R = labels_N.astype(float), _constant(labels_N, counts_RN)

    def of_training(predicted_N: npt.NDArray[np.generic]) -> Array:
        correlation_R = _correlation(predicted_N.astype(float), y_N, counts_RN)
        return np.where(constant_y_R | _constant(predicted_N, counts_RN), 0, correlation_R)

    return np.stack([of_training(predicted_N) for predicted_N in predicted_MN])


def _spearman(predicted_MN: npt.NDArray[np.generic], labels_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    ranks_y_RN = _ranks(labels_N, counts_RN)
    return np.stack(
        [_correlation(_ranks(predicted_N, counts_RN), ranks_y_RN, counts_RN) for predicted_N in predicted_MN]
    )


METRICS: dict[str, Callable[[npt.NDArray[np.generic], npt.NDArray[np.generic], Array], Array]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
"""The metrics of `data.metrics` for all training runs and resamples: (M, N), (N,) and (R, N) arrays to (M, R)."""


def _sums(of_examples: npt.NDArray[np.bool_], counts_RN: Array) -> Array:
    """Returns how many examples of each resample have a property, given for each example, (N,) or (M, N)."""
    sums: Array = of_examples.astype(float) @ counts_RN.T
    return sums


def _ratio(numerator: Array, denominator: Array) -> Array:
    """Returns the quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _correlation(x: Array, y: Array, counts_RN: Array) -> Array:
    """Returns the Pearson correlation in each resample, (R,); 0 where x or y has no variance.

    x and y are the values of the examples: (N,), or (R, N) where they differ between resamples.
    """
    deviation_x_RN, deviation_y_RN = _deviations(x, counts_RN), _deviations(y, counts_RN)
    weighted_x_RN = counts_RN * deviation_x_RN
    covariance_R = np.einsum("rn,rn->r", weighted_x_RN, deviation_y_RN)
    variance_x_R = np.einsum("rn,rn->r", weighted_x_RN, deviation_x_RN)
    variance_y_R = np.einsum("rn,rn,rn->r", counts_RN, deviation_y_RN, deviation_y_RN)
    return np.clip(_ratio(covariance_R, np.sqrt(variance_x_R) * np.sqrt(variance_y_R)), -1, 1)


def _deviations(values: Array, counts_RN: Array) -> Array:
    """Returns values (N,) or (R, N) less their mean in each resample, (R, N)."""
    sums_R = counts_RN @ values if values.ndim == 1 else np.einsum("rn,rn->r", counts_RN, values)
    deviations_RN: Array = values - sums_R[:, None] / counts_RN.shape[1]
    return deviations_RN


def _counts_of_values(values_N: npt.NDArray[np.generic], counts_RN: Array) -> tuple[Array, npt.NDArray[np.intp]]:
    """Returns how often each distinct value occurs in each resample, (R, U) in ascending order, and the index of each
    example's value among them, (N,).
    """
    distinct_U, index_N = np.unique(values_N, return_inverse=True)
    order_N = np.argsort(index_N, kind="stable")
    starts_U = np.searchsorted(index_N[order_N], np.arange(len(distinct_U)))
    return np.add.reduceat(counts_RN[:, order_N], starts_U, axis=1), index_N


def _constant(values_N: npt.NDArray[np.generic], counts_RN: Array) -> npt.NDArray[np.bool_]:
    """Returns whether all examples of a resample have the same value, (R,)."""
    counts_RU, _ = _counts_of_values(values_N, counts_RN)
    constant_R: npt.NDArray[np.bool_] = counts_RU.max(1) == len(values_N)
    return constant_R


def _ranks(values_N: npt.NDArray[np.generic], counts_RN: Array) -> Array:
    """Returns the rank of every example's value within each resample, (R, N).

    Equal values share the mean of their ranks, as in scipy.stats.rankdata: of a value that occurs c times after b
    smaller ones, the ranks b + 1 .. b + c, so b + (c + 1) / 2.
    """
    counts_RU, index_N = _counts_of_values(values_N, counts_RN)
    ranks_RU = np.cumsum(counts_RU, axis=1) - counts_RU + (counts_RU + 1) / 2
    ranks_RN: Array = ranks_RU[:, index_N]
    return ranks_RN
