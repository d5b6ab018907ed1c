"""What the table of tasks is made of: a task, its splits, and where things are in their files."""

from dataclasses import dataclass
from typing import Literal


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
class TaskSplit:
    """One split of a task: where it comes from, how large it is, and where its predictions go."""

    part: Literal["train", "dev", "test"]
    """What it is for. Only test splits have no labels."""
    suffix: str = ""
    """Sets a task's second split of one part apart, in its name and in the names of its metrics: '_mm'."""
    file: str
    """Name of its TSV file without '.tsv'."""
    hub: str
    """Its name in the hub's dataset."""
    layout: Layout
    """Layout of its TSV file."""
    rows: int
    """Examples in the official split."""
    submission: str = ""
    """Name of its file in a GLUE submission, without '.tsv'; empty outside test."""

    @property
    def name(self) -> str:
        """What the split is called everywhere: train, dev, dev_mm, test or test_mm."""
        return self.part + self.suffix


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """All that sets one GLUE task apart from another."""

    name: str
    """As GLUE spells it, and as the folder of its TSV files is called: 'MRPC'."""
    hub_name: str
    """Its configuration in the hub's dataset: 'mrpc'."""
    hub_sentences: tuple[str, ...]
    """The hub's column of each sentence, first sentence first."""
    labels: tuple[str, ...] = ()
    """Class names in the order of class ids, which is the hub's order; empty for regression."""
    raw_labels: tuple[str, ...] = ()
    """How the TSV files, and a submission, spell each class, in the order of class ids; empty for regression."""
    value_range: tuple[float, float] | None = None
    """Lowest and highest label of a regression task; None for classes."""
    splits: tuple[TaskSplit, ...]
    """In the order train, dev, test, the main split of a part first."""
    metrics: tuple[str, ...]
    """The metrics GLUE reports for each split, by name; a split's score is their mean."""
    filler: float
    """Predicted throughout where a submission lacks the task: the most frequent class of train, or a middling value."""
    model_task: str | None = None
    """The task whose models predict this one, which has no train split; None for all other tasks."""

    @property
    def regression(self) -> bool:
        """Whether labels are numbers rather than classes."""
        return self.value_range is not None

    @property
    def outputs(self) -> int:
        """Outputs of a model for this task: one per class, or one number."""
        return len(self.labels) or 1

    @property
    def baseline(self) -> str:
        """What a model must beat, in words: what `majority_score` scores."""
        return "mean label" if self.regression else "most frequent class"

    @property
    def trainable(self) -> bool:
        """Whether a model can be trained on it."""
        return self.model_task is None

    @property
    def dev_splits(self) -> tuple[str, ...]:
        """Names of the splits that are scored together, the main one first."""
        return tuple(split.name for split in self.splits if split.part == "dev")

    @property
    def test_splits(self) -> tuple[str, ...]:
        """Names of the splits that are submitted."""
        return tuple(split.name for split in self.splits if split.part == "test")

    @property
    def row_counts(self) -> dict[str, int]:
        """Examples in each official split, by its name."""
        return {split.name: split.rows for split in self.splits}

    def split(self, name: str) -> TaskSplit:
        """The split of this name.

        Raises:
            KeyError: The task has no such split.
        """
        return {split.name: split for split in self.splits}[name]

    def layout(self, split: str) -> Layout:
        """The layout of the TSV file of one split."""
        return self.split(split).layout
