"""Every setting of the project, as frozen dataclasses, and the types of errors that are no bugs.

Standard library only: every room may import this module.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Strategy = Literal["skip", "last"]
Init = Literal["pretrained", "teacher", "teacher-skip"]
SelectOn = Literal["dev", "holdout"]
Method = Literal["pkd", "pkd-skip", "pkd-last", "kd", "finetuned"]
Sampler = Literal["tpe", "random", "grid"]
Precision = Literal["auto", "bf16", "fp32"]
Metric = Literal["accuracy", "f1", "macro_f1", "matthews", "pearson", "spearman"]
Kind = Literal["classification", "regression"]
Stage = Literal["search", "confirm", "ablation"]
"""What a trial is for: to choose settings, to confirm a study's best ones on a fresh seed, or to train these without a
term of the loss on the same seed."""

METHODS: tuple[Method, ...] = ("finetuned", "kd", "pkd", "pkd-skip", "pkd-last")
"""Every method, in the order of reports: the controls first."""
CONTROLS: tuple[Method, ...] = ("kd", "finetuned")
"""The methods that PKD has to beat: vanilla KD, and fine-tuning alone, which KD has to beat too."""


class UserError(ValueError):
    """What the user gave cannot be used; commands print it as one line per problem and exit with code 2.

    Attributes:
        problems: One line each: the file, line, flag or value at fault, and what would be right.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems

    def __reduce__(self) -> tuple[type["UserError"], tuple[str, ...]]:
        """Returns how another process, such as a Ray task's driver, makes the same error."""
        return UserError, self.problems


class MachineError(RuntimeError):
    """The machine stopped the work: no space, no permission, no memory, an ended Ray.

    Commands print it as one line and exit with code 1; nothing is lost, and the same command continues once the cause
    is gone. The message has the cause and the remedy.
    """


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingConfig:
    """How a model is trained: a teacher, or a student."""

    learning_rate: float = 5e-5
    """Peak of the schedule, reached after the warm-up. 5e-5 is the top of the paper's range."""
    epochs: int = 4
    """Passes over the training split. The paper uses 4."""
    batch_size: int = 32
    """Examples per optimiser step. The paper uses 32."""
    warmup_fraction: float = 0.1
    """Share of all steps over which the learning rate rises linearly from 0; after it, it falls linearly to 0."""
    weight_decay: float = 0.01
    """Decoupled weight decay of every parameter except biases and LayerNorm weights."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this L2 norm when it is longer."""
    evaluations_per_epoch: int = 2
    """How often the dev split is scored during an epoch, evenly spaced; the last falls on the epoch's end."""
    seed: int = 42
    """Seeds the order of examples, dropout, and the weights a pretrained model does not have."""
    precision: Precision = "auto"
    """Of matrix products: `auto` is bf16 where the device supports it, else fp32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillConfig:
    """What one student is and what it learns from: L = (1 - alpha) CE + alpha KD + beta PT."""

    student_layers: int
    """Depth k of the student."""
    alpha: float
    """Weight of the teacher's soft labels, in [0, 1]."""
    beta: float
    """Weight of the intermediate-layer (PT) loss, at least 0."""
    temperature: float
    """Divides teacher and student logits in the KD term, above 0."""
    strategy: Strategy
    """Which teacher layers the student's intermediate layers imitate."""
    normalize: bool
    """Whether [CLS] states are scaled to length 1 before they are compared."""
    init: Init = "pretrained"
    """What the student starts from: the first k layers of the pretrained model (the paper's way), the first k layers of
    the fine-tuned teacher, or every (N/k)-th layer of it up to its top."""

    def __post_init__(self) -> None:
        problems = []
        if self.student_layers < 1:
            problems.append(f"student_layers must be at least 1, but got {self.student_layers}")
        if not 0 <= self.alpha <= 1:
            problems.append(f"alpha must be in [0, 1], but got {self.alpha}")
        if not self.beta >= 0:
            problems.append(f"beta must be at least 0, but got {self.beta}")
        if not self.temperature > 0:
            problems.append(f"temperature must be above 0, but got {self.temperature}")
        for name, value in (("beta", self.beta), ("temperature", self.temperature)):
            if value == math.inf:
                problems.append(f"{name} must be finite, but got {value}")
        if self.strategy not in ("skip", "last"):
            problems.append(f"strategy must be skip or last, but got {self.strategy!r}")
        if self.init not in get_args(Init):
            problems.append(f"init must be one of {', '.join(get_args(Init))}, but got {self.init!r}")
        if problems:
            raise UserError(*problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layout:
    """Columns of a TSV file in GLUE's format, which has no quoting, counted from 0."""

    header: tuple[str, ...] | None
    """Cells of the header line, or None for a file without header."""
    sentence1: int
    """Column of the first sentence."""
    sentence2: int | None = None
    """Column of the second sentence, or None for a single-sentence task."""
    label: int | None = None
    """Column of the label, or None for a split without labels."""
    skips_short: bool = False
    """Whether rows with too few columns are left out, as of published files that have some; else they are refused."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSplit:
    """One split of a task: where its examples are, and for a benchmark its official size and file of a submission.

    A dev split with neither a file nor a split in the hub dataset is held out of train.
    """

    part: Literal["train", "dev", "test"]
    """Its purpose."""
    suffix: str = ""
    """Distinguishes a second split of the same part, in its name and in the names of its metrics: '_mm'."""
    called: str = ""
    """Its name, where that is not its part with the suffix: a file that is predicted."""
    file: str = ""
    """Name of its file, or the path relative to the task's folder; empty without files."""
    hub: str = ""
    """Its name in the hub dataset; empty without one."""
    layout: Layout | None = None
    """Of a TSV file in GLUE's format; None for files whose columns are found by name."""
    labelled: bool = True
    """Whether its examples have labels."""
    rows: int | None = None
    """Number of examples in the official split of a benchmark."""
    submission: str = ""
    """Name of its file in a GLUE submission, without '.tsv'; empty except for GLUE's test splits."""

    @property
    def name(self) -> str:
        """Name of the split: train, dev, dev_mm, test or test_mm, or what it is called."""
        return self.called or self.part + self.suffix

    @property
    def held_out(self) -> bool:
        """Whether its examples are taken from the train split."""
        return not self.file and not self.hub


@dataclass(frozen=True, kw_only=True, slots=True)
class HubDataset:
    """A dataset on the Hugging Face hub, or a local folder with the same layout."""

    repository: str
    """Its name, 'owner/name', or the path of the folder."""
    config: str | None = None
    """Name of its configuration; None for a dataset that has only one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """What is classified or predicted: classes, metrics, and where the examples are.

    GLUE's tasks are a table of these (`data.glue`); others are described in a file (`data.task_file`).
    """

    name: str
    """'MRPC' or 'tickets'; also names folders."""
    benchmark: str = ""
    """'GLUE' for its tasks, empty for others."""
    kind: Kind = "classification"
    """Whether labels are classes, or real numbers."""
    text: tuple[str, ...]
    """Names of the text columns, one or two, in files with a header and in the hub dataset."""
    label: str = "label"
    """Name of the label column there."""
    labels: tuple[str, ...] = ()
    """Class names in the order of class ids; empty for regression."""
    raw_labels: tuple[str, ...] = ()
    """Labels as written in files and submissions, in the order of class ids; empty for regression."""
    value_range: tuple[float, float] | None = None
    """Lowest and highest label of a regression task, where these are known."""
    folder: Path | None = None
    """Folder to which the files of the splits are relative; None: <data_dir>/data_raw/<name>, where that exists."""
    hub: HubDataset | None = None
    """The dataset on the hub from which examples are taken where there are no files."""
    splits: tuple[TaskSplit, ...]
    """In the order train, dev, test; the main split of a part comes first."""
    metrics: tuple[Metric, ...]
    """Names of the metrics that are reported for each split."""
    score: Literal["first", "mean"] = "first"
    """Whether a split's score is its first metric or the mean of all; the task's score is the mean over its splits."""
    filler: float = 0
    """Constant prediction for a submission without this task: the most frequent class of train, or a middle value."""
    model_task: str | None = None
    """For a task without train split, the task whose models predict it; None for all other tasks."""

    @property
    def regression(self) -> bool:
        """Whether labels are real numbers rather than classes."""
        return self.kind == "regression"

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
        """Names of the test splits."""
        return tuple(split.name for split in self.splits if split.part == "test")

    @property
    def row_counts(self) -> dict[str, int]:
        """Number of examples of each official split of a benchmark by name."""
        return {split.name: split.rows for split in self.splits if split.rows is not None}

    @property
    def scored(self) -> tuple[Metric, ...]:
        """Names of the metrics of which a split's score is the mean."""
        return self.metrics if self.score == "mean" else self.metrics[:1]

    @property
    def pair(self) -> bool:
        """Whether an example consists of two texts."""
        return len(self.text) == 2

    @property
    def title(self) -> str:
        """The name with that of the benchmark: 'GLUE MRPC' or 'tickets'."""
        return f"{self.benchmark} {self.name}".strip()

    @property
    def submitted(self) -> bool:
        """Whether its predictions are part of a GLUE submission."""
        return any(split.submission for split in self.splits)

    def split(self, name: str) -> TaskSplit:
        """Returns the split of this name.

        Raises:
            KeyError: The task has no such split.
        """
        return {split.name: split for split in self.splits}[name]


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which examples, tokenised how; with the teacher's outputs, all that every student of a search shares."""

    task: Task
    """The task, with all its classes."""
    data_dir: Path
    """Holds data_raw/, data_feat/, models/ and teacher_cache/."""
    teacher_dir: Path
    """Hugging Face folder the teacher starts from, with the teacher's tokenizer."""
    student_dir: Path
    """Hugging Face folder of the encoder students are initialised from, with its tokenizer; often the teacher's."""
    max_length: int = 128
    """Longest example in tokens; longer ones are truncated. The paper uses 128."""
    select_on: SelectOn = "dev"
    """Which examples choose epochs, trials and the teacher: the official dev split, as in the paper, or a part of the
    training split."""
    unlabeled: Path | None = None
    """File of texts without labels, on which students are trained with the teacher's outputs; None: there are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchStage:
    """One of several searches that follow each other at every depth."""

    method: Method
    """What is searched."""
    keep: tuple[str, ...] = ()
    """Parameters whose values are those of the best student of the stage before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """One search, resolved: everything that decides what its trials compute."""

    data: DataConfig
    teacher_trainings: tuple[TrainingConfig, ...]
    """How the teacher is fine-tuned, and the best of them kept; unused where its folder holds a classifier already."""
    student_training: TrainingConfig
    """How students are trained; each trial brings its own learning rate, epochs, and whatever else its space has."""
    depths: tuple[int, ...]
    """Student depths to search, each in a study of its own."""
    stages: tuple[SearchStage, ...]
    """Methods to search: those that keep nothing at once, the others after the stage before them."""
    trials: int | None
    """Trials of each PKD method, shared evenly between the depths; None: every setting of a finite space, at every
    depth. A larger number continues a finished search."""
    control_trials: int | None = 0
    """Trials of vanilla KD, shared evenly between the depths; None: every setting of a finite space."""
    finetuned_trials: int | None = 0
    """Trials of fine-tuning alone, shared in the same way; None: every setting of a finite space."""
    seeds: int = 0
    """Training runs on fresh seeds that confirm each method's and depth's best settings; each ablation has as many."""
    sampler: Sampler = "tpe"
    """What chooses the settings."""
    early_stopping: bool = True
    """Whether trials that are not in the best third at a rung are stopped there."""
    max_pending: int = 4
    """Trials of one study that run without a score at most, or as many as have one; 0: no limit."""
    transfer: bool = True
    """Whether a study tries the best settings of its siblings: its method at another depth, KD for PKD and PKD for
    KD."""
    seed: int = 42
    """Seeds the sampler; the training runs have their own."""
