"""The GLUE tasks as one table: their files, columns, labels, metrics and sizes, and how predictions are scored.

A task that reads and scores like these is one more row. Splits are called train, dev and test everywhere.
"""

import difflib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pkd_tune.config import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    ClassIds = Sequence[int] | npt.NDArray[np.integer]

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Where things are in a TSV file; columns count from 0."""

    header: tuple[str, ...] | None
    """Cells of the first line, or None when the first line is already an example."""
    sentence1: int
    """Column of the first sentence."""
    sentence2: int | None = None
    """Column of the second sentence, or None for a task of single sentences."""
    label: int | None = None
    """Column of the label, or None in a split without labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """All that sets one GLUE task apart from another."""

    name: str
    """As GLUE spells it, and as the folder of its TSV files is called: 'MRPC'."""
    hub_name: str
    """Its configuration in the hub's dataset: 'mrpc'."""
    hub_sentences: tuple[str, ...]
    """The hub's column of each sentence, first sentence first."""
    labels: tuple[str, ...]
    """Class names in the order of class ids, which is the hub's order."""
    raw_labels: tuple[str, ...]
    """How the TSV files, and a submission, spell each class, in the order of class ids."""
    labelled: Layout
    """Layout of train.tsv and dev.tsv."""
    test: Layout
    """Layout of test.tsv, which has no labels."""
    metrics: tuple[str, ...]
    """The metrics GLUE reports, by name; the task's single score is their mean."""
    row_counts: tuple[int, int, int]
    """Examples in the official train, dev and test splits."""

    def layout(self, split: str) -> Layout:
        """The layout of the TSV file of one split."""
        return self.test if split == "test" else self.labelled


_ENTAILMENT = ("entailment", "not_entailment")
_PAIR_HEADER = ("index", "sentence1", "sentence2", "label")
_BINARY = ("0", "1")

_TABLE = (
    Task(
        name="CoLA",
        hub_name="cola",
        hub_sentences=("sentence",),
        labels=("unacceptable", "acceptable"),
        raw_labels=_BINARY,
        labelled=Layout(header=None, sentence1=3, label=1),  # source, label, star, sentence
        test=Layout(header=("index", "sentence"), sentence1=1),
        metrics=("matthews",),
        row_counts=(8_551, 1_043, 1_063),
    ),
    Task(
        name="SST-2",
        hub_name="sst2",
        hub_sentences=("sentence",),
        labels=("negative", "positive"),
        raw_labels=_BINARY,
        labelled=Layout(header=("sentence", "label"), sentence1=0, label=1),
        test=Layout(header=("index", "sentence"), sentence1=1),
        metrics=("accuracy",),
        row_counts=(67_349, 872, 1_821),
    ),
    Task(
        name="MRPC",
        hub_name="mrpc",
        hub_sentences=("sentence1", "sentence2"),
        labels=("not_equivalent", "equivalent"),
        raw_labels=_BINARY,
        labelled=Layout(
            header=("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), sentence1=3, sentence2=4, label=0
        ),
        test=Layout(header=("index", "#1 ID", "#2 ID", "#1 String", "#2 String"), sentence1=3, sentence2=4),
        metrics=("f1", "accuracy"),
        row_counts=(3_668, 408, 1_725),
    ),
    Task(
        name="QQP",
        hub_name="qqp",
        hub_sentences=("question1", "question2"),
        labels=("not_duplicate", "duplicate"),
        raw_labels=_BINARY,
        labelled=Layout(
            header=("id", "qid1", "qid2", "question1", "question2", "is_duplicate"), sentence1=3, sentence2=4, label=5
        ),
        test=Layout(header=("id", "question1", "question2"), sentence1=1, sentence2=2),
        metrics=("f1", "accuracy"),
        row_counts=(363_846, 40_430, 390_965),
    ),
    Task(
        name="QNLI",
        hub_name="qnli",
        hub_sentences=("question", "sentence"),
        labels=_ENTAILMENT,
        raw_labels=_ENTAILMENT,
        labelled=Layout(header=("index", "question", "sentence", "label"), sentence1=1, sentence2=2, label=3),
        test=Layout(header=("index", "question", "sentence"), sentence1=1, sentence2=2),
        metrics=("accuracy",),
        row_counts=(104_743, 5_463, 5_463),
    ),
    Task(
        name="RTE",
        hub_name="rte",
        hub_sentences=("sentence1", "sentence2"),
        labels=_ENTAILMENT,
        raw_labels=_ENTAILMENT,
        labelled=Layout(header=_PAIR_HEADER, sentence1=1, sentence2=2, label=3),
        test=Layout(header=_PAIR_HEADER[:3], sentence1=1, sentence2=2),
        metrics=("accuracy",),
        row_counts=(2_490, 277, 3_000),
    ),
    Task(
        name="WNLI",
        hub_name="wnli",
        hub_sentences=("sentence1", "sentence2"),
        labels=("not_entailment", "entailment"),
        raw_labels=_BINARY,
        labelled=Layout(header=_PAIR_HEADER, sentence1=1, sentence2=2, label=3),
        test=Layout(header=_PAIR_HEADER[:3], sentence1=1, sentence2=2),
        metrics=("accuracy",),
        row_counts=(635, 71, 146),
    ),
)

TASKS: dict[str, Task] = {task.name: task for task in _TABLE}
"""Every task by its GLUE name."""


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "-_ ")


def find_task(name: str) -> Task:
    """The task of this name, whatever its case, hyphens, underscores and spaces: MRPC, sst2, SST-2, cola.

    Raises:
        UserError: No task has this name; the message lists those that exist and suggests the closest.
    """
    by_plain_name = {_plain(task.name): task for task in TASKS.values()}
    if _plain(name) in by_plain_name:
        return by_plain_name[_plain(name)]
    close = difflib.get_close_matches(_plain(name), by_plain_name, n=1, cutoff=0.5)
    hint = f"; did you mean {by_plain_name[close[0]].name}?" if close else ""
    raise UserError(f"--task {name}: no such task among {', '.join(TASKS)}{hint}")


def _accuracy(predictions_N: "npt.NDArray[np.integer]", labels_N: "npt.NDArray[np.integer]") -> float:
    return float((predictions_N == labels_N).mean())


def _f1(predictions_N: "npt.NDArray[np.integer]", labels_N: "npt.NDArray[np.integer]") -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels_N, predictions_N, pos_label=1, zero_division=0.0))


def _matthews(predictions_N: "npt.NDArray[np.integer]", labels_N: "npt.NDArray[np.integer]") -> float:
    from sklearn.metrics import matthews_corrcoef

    # 0 by definition; scikit-learn agrees, but warns where neither side has a second class.
    if len(set(predictions_N.tolist())) == 1 or len(set(labels_N.tolist())) == 1:
        return 0.0
    return float(matthews_corrcoef(labels_N, predictions_N))


_METRICS: dict[str, Callable[["npt.NDArray[np.integer]", "npt.NDArray[np.integer]"], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
}


def score(task: Task, predictions_N: "ClassIds", labels_N: "ClassIds") -> dict[str, float]:
    """Scores predicted class ids as GLUE does, times 100.

    F1 is that of class 1, and 0 when class 1 is neither predicted nor present. Matthews is 0 when only one class is
    predicted or present.

    Args:
        task: Decides which metrics count.
        predictions_N: Predicted class ids, shape (N,), N at least 1.
        labels_N: True class ids, shape (N,).

    Returns:
        Each metric of the task by name, then 'score', their mean.

    Raises:
        ValueError: The two differ in length, or are empty.
    """
    import numpy as np

    predictions_N, labels_N = np.asarray(predictions_N), np.asarray(labels_N)
    if predictions_N.shape != labels_N.shape or predictions_N.ndim != 1 or not len(labels_N):
        raise ValueError(
            f"predictions and labels must be two non-empty rows of one length, "
            f"but got shapes {predictions_N.shape} and {labels_N.shape}"
        )
    scores = {name: 100 * _METRICS[name](predictions_N, labels_N) for name in task.metrics}
    return {**scores, "score": sum(scores.values()) / len(scores)}


def majority_score(task: Task, labels_N: "ClassIds") -> dict[str, float]:
    """The score of always predicting the most frequent class (the lower class id in a tie), as `score` returns it."""
    labels = [int(label) for label in labels_N]
    majority, _ = min(Counter(labels).items(), key=lambda item: (-item[1], item[0]))
    return score(task, [majority] * len(labels), labels)
