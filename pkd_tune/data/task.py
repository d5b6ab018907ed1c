"""A task, its splits, and the layout of their TSV files."""

from dataclasses import dataclass
from typing import Literal

from pkd_tune.config import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Columns of a TSV file, counted from 0."""

    header: tuple[str, ...] | None
    """Cells of the header line, or None for a file without header."""
    sentence1: int
    """Column of the first sentence."""
    sentence2: int | None = None
    """Column of the second sentence, or None for a single-sentence task."""
    label: int | None = None
    """Column of the label, or None for a split without labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSplit:
    """One split of a task: its sources, its official size, and its file in a GLUE submission."""

    part: Literal["train", "dev", "test"]
    """Its purpose. Test splits, and only they, have no labels."""
    suffix: str = ""
    """Distinguishes a second split of the same part, in its name and in the names of its metrics: '_mm'."""
    file: str
    """Name of its TSV file, without '.tsv'."""
    hub: str
    """Its name in the hub dataset."""
    layout: Layout
    """Layout of its TSV file."""
    rows: int
    """Number of examples in the official split."""
    submission: str = ""
    """Name of its file in a GLUE submission, without '.tsv'; empty except for test splits."""

    @property
    def name(self) -> str:
        """Name of the split: train, dev, dev_mm, test or test_mm."""
        return self.part + self.suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Definition of a GLUE task."""

    name: str
    """GLUE's spelling, which is also the name of the folder of its TSV files: 'MRPC'."""
    hub_name: str
    """Name of its configuration in the hub dataset: 'mrpc'."""
    hub_sentences: tuple[str, ...]
    """Columns of the sentences in the hub dataset, first sentence first."""
    labels: tuple[str, ...] = ()
    """Class names in the order of class ids, which is that of the hub dataset; empty for regression."""
    raw_labels: tuple[str, ...] = ()
    """Labels as written in TSV files and submissions, in the order of class ids; empty for regression."""
    value_range: tuple[float, float] | None = None
    """Lowest and highest label of a regression task; None for classification."""
    splits: tuple[TaskSplit, ...]
    """In the order train, dev, test; the main split of a part comes first."""
    metrics: tuple[str, ...]
    """Names of the metrics that GLUE reports for each split; a split's score is their mean."""
    filler: float
    """Constant prediction for a submission without this task: the most frequent class of train, or a middle value."""
    model_task: str | None = None
    """For a task without train split, the task whose models predict it; None for all other tasks."""

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers rather than classes."""
        return self.value_range is not None

    @property
    def outputs(self) -> int:
        """Number of outputs of a model: the number of classes, or 1 for regression."""
        return len(self.labels) or 1

    @property
    def baseline(self) -> str:
        """Description of the constant prediction that `majority_score` scores."""
        return "mean label" if self.regression else "most frequent class"

    @property
    def trainable(self) -> bool:
        """Whether the task has a train split."""
        return self.model_task is None

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Names of the dev splits, which are scored together, the main one first."""
        return tuple(split.name for split in self.splits if split.part == "dev")

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the test splits, which are submitted to GLUE."""
        return tuple(split.name for split in self.splits if split.part == "test")

    @property
    def row_counts(self) -> dict[str, int]:
        """Number of examples of each official split by name."""
        return {split.name: split.rows for split in self.splits}

    def split(self, name: str) -> TaskSplit:
        """Returns the split of this name.

        Raises:
            KeyError: The task has no such split.
        """
        return {split.name: split for split in self.splits}[name]

    def layout(self, split: str) -> Layout:
        """Returns the layout of the TSV file of a split."""
        return self.split(split).layout


def find_split(task: Task, name: str) -> TaskSplit:
    """Returns the split that a user means by a name.

    Accepts the split's own name (dev_mm), with `validation` for `dev` (validation, validation_mm), the name of its TSV
    file (dev_mismatched) and its name in the hub dataset (validation_mismatched), in any case and with hyphens for
    underscores.

    Raises:
        UserError: The task has no such split; the message lists those it has.
    """
    plain = name.lower().replace("-", "_")
    for split in task.splits:
        if plain in (split.name, split.file, split.hub) or plain.replace("validation", "dev") == split.name:
            return split
    raise UserError(f"{task.name} has no split {name}, only {', '.join(task.row_counts)}")
