"""Predictions from a model's outputs, and the metrics that score them.

Shape suffixes: N examples of a split, C outputs of a model.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pkd_tune.config import Task, UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[Any]
    Values = Sequence[float] | npt.NDArray[Any]  # Class ids, or the labels of a regression task.


def predictions(task: Task, logits_NC: "npt.NDArray[np.floating[Any]]") -> "Array":
    """Returns predicted class ids, shape (N,), or the outputs themselves for regression.

    Values of a regression are not clipped to the task's range; a GLUE submission clips them.

    Raises:
        ValueError: The shape of the outputs does not fit the task.
    """
    if logits_NC.ndim != 2 or logits_NC.shape[1] != task.outputs:
        raise ValueError(f"{task.name} needs outputs of shape (N, {task.outputs}), but got {logits_NC.shape}")
    values_N: Array = logits_NC[:, 0] if task.regression else logits_NC.argmax(-1)
    return values_N


def score(task: Task, predictions: Mapping[str, "Values"], labels: Mapping[str, "Values | None"]) -> dict[str, float]:
    """Returns the metrics of a task on its dev splits times 100, as GLUE defines them.

    F1 is that of class 1, and 0 when class 1 is neither predicted nor present. Macro F1 is the mean of the F1 of every
    class that is predicted or present. Matthews is 0 when only one class is
    predicted or present; Pearson and Spearman, when all predictions or all labels are the same.

    Args:
        task: Determines the metrics.
        predictions: Class ids or values by split; exactly the task's dev splits.
        labels: The true labels by split, of the dev splits at least.

    Returns:
        Each metric by name, with the split's suffix ('accuracy', 'accuracy_mm'), then 'score': the mean over the splits
        of the first of their metrics or of the mean of all, as the task defines it.

    Raises:
        UserError: A split has no labels; GLUE does not publish those of its test splits.
        ValueError: Dev splits are missing, or predictions and labels differ in length or are empty.
    """
    if not task.dev_splits:
        raise UserError(f"{task.name} has no split with labels; only the GLUE server can score it")
    for name in predictions:
        if labels.get(name) is None or not task.split(name).labelled:
            raise UserError(_no_labels(task, name))
    if set(predictions) != set(task.dev_splits):
        raise ValueError(f"{task.name} is scored on {task.dev_splits}, but got {tuple(predictions)}")
    scores: dict[str, float] = {}
    means = []
    for name in task.dev_splits:
        of_split = split_metrics(task, name, predictions[name], labels[name])
        scores |= of_split
        of_score = [of_split[metric + task.split(name).suffix] for metric in task.scored]
        means.append(sum(of_score) / len(of_score))
    return {**scores, "score": sum(means) / len(means)}


def split_metrics(task: Task, split: str, predictions: "Values", labels: "Values | None") -> dict[str, float]:
    """Returns the task's metrics on one split by name, times 100; names have the split's suffix.

    Raises:
        UserError: The split has no labels.
    """
    if labels is None or not task.split(split).labelled:
        raise UserError(_no_labels(task, split))
    import numpy as np

    predictions_N, labels_N = np.asarray(predictions), np.asarray(labels)
    if predictions_N.shape != labels_N.shape or predictions_N.ndim != 1 or not len(labels_N):
        raise ValueError(
            f"predictions and labels must be non-empty, one-dimensional and of the same length, "
            f"but got shapes {predictions_N.shape} and {labels_N.shape}"
        )
    suffix = task.split(split).suffix
    return {metric + suffix: 100 * _METRICS[metric](predictions_N, labels_N) for metric in task.metrics}


def _no_labels(task: Task, split: str) -> str:
    labelled = " or ".join(other.name for other in task.splits if other.labelled and other.name != split)
    elsewhere = ["submit it to the GLUE server"] if task.split(split).submission else []
    return (
        f"{task.name} {split} has no labels; {', or '.join([*([f'score {labelled}'] if labelled else []), *elsewhere])}"
    )


def majority_score(task: Task, labels: Mapping[str, "Values | None"]) -> dict[str, float]:
    """Returns the metrics of a constant prediction, as `score` does.

    The prediction is the most frequent class of all dev splits together (the lowest class id in a tie), or the mean
    label for regression.

    Raises:
        UserError: A dev split has no labels.
    """
    known = {name: values for name in task.dev_splits if (values := labels.get(name)) is not None}
    everything = [label for values in known.values() for label in values]
    constant: float = 0  # without labels `score` raises below
    if everything and task.regression:
        constant = sum(everything) / len(everything)
    elif everything:
        constant, _ = min(Counter(everything).items(), key=lambda item: (-item[1], item[0]))
    return score(task, {name: [constant] * len(known.get(name, ())) for name in task.dev_splits}, labels)


def constant_score(task: Task, labels: Mapping[str, "Values | None"]) -> float:
    """Returns the highest score of a constant prediction, times 100 as in `score`.

    That is the majority's, but for F1, which counts class 1 alone: where it is the rarer of two, always predicting it
    scores more.

    Raises:
        UserError: A dev split has no labels.
    """
    found = majority_score(task, labels)["score"]
    if "f1" not in task.scored:
        return found
    positive = {name: [1] * len(values) for name in task.dev_splits if (values := labels[name]) is not None}
    return max(found, score(task, positive, labels)["score"])


def rounding_points(sizes: Iterable[int]) -> float:
    """Returns by how many points rounding on another machine may change a score: one, or three examples.

    Args:
        sizes: Examples of each dev split.
    """
    return max(1.0, 300 / min(sizes))


def _accuracy(predictions_N: "Array", labels_N: "Array") -> float:
    return float((predictions_N == labels_N).mean())


def _f1(predictions_N: "Array", labels_N: "Array") -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels_N, predictions_N, pos_label=1, zero_division=0.0))


def _macro_f1(predictions_N: "Array", labels_N: "Array") -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels_N, predictions_N, average="macro", zero_division=0.0))


def _matthews(predictions_N: "Array", labels_N: "Array") -> float:
    from sklearn.metrics import matthews_corrcoef

    # 0 by convention, as in scikit-learn, which warns when there is only one class.
    if _constant(predictions_N) or _constant(labels_N):
        return 0.0
    return float(matthews_corrcoef(labels_N, predictions_N))


def _pearson(predictions_N: "Array", labels_N: "Array") -> float:
    from scipy.stats import pearsonr

    if _constant(predictions_N) or _constant(labels_N):
        return 0.0  # undefined; SciPy returns NaN with a warning
    return float(pearsonr(predictions_N.astype(float), labels_N.astype(float)).statistic)


def _spearman(predictions_N: "Array", labels_N: "Array") -> float:
    from scipy.stats import spearmanr

    if _constant(predictions_N) or _constant(labels_N):
        return 0.0
    return float(spearmanr(predictions_N, labels_N).statistic)


def _constant(values_N: "Array") -> bool:
    return bool((values_N == values_N[0]).all())


_METRICS: dict[str, Callable[["Array", "Array"], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
}
