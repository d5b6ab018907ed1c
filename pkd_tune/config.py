"""Every setting of the project, as frozen dataclasses, and the types of errors that are no bugs.

Standard library only: every room may import this module.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Strategy = Literal["skip", "last"]
Init = Literal["pretrained", "teacher", "teacher-skip"]
SelectOn = Literal["dev", "holdout"]
Method = Literal["pkd", "pkd-skip", "pkd-last", "kd", "finetuned"]
Sampler = Literal["tpe", "random", "grid"]
Precision = Literal["auto", "bf16", "fp32"]
Stage = Literal["search", "confirm"]
"""What a trial is for: to choose settings, or to confirm a study's best ones on a fresh seed."""

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
    """What one student is and what it learns from: L = (1 - alpha) L_CE + alpha L_DS + beta L_PT."""

    student_layers: int
    """Depth k of the student."""
    alpha: float
    """Weight of the teacher's soft labels, in [0, 1]."""
    beta: float
    """Weight of the patience term, at least 0."""
    temperature: float
    """Divides teacher and student logits in the soft-label term, above 0."""
    strategy: Strategy
    """Which teacher layers the student's inner layers imitate."""
    normalize: bool
    """Whether [CLS] states are scaled to length 1 before they are compared."""

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
        if problems:
            raise UserError(*problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which examples, tokenised how; with the teacher's outputs, all that every student of a search shares."""

    task: str
    """Name of the GLUE task as `pkd_tune.data.glue.TASKS` has it."""
    data_dir: Path
    """Holds data_raw/, data_feat/, models/ and teacher_cache/."""
    teacher_dir: Path
    """Hugging Face folder the teacher starts from, with the teacher's tokenizer."""
    student_dir: Path
    """Hugging Face folder of the pretrained encoder students are cut from, with its tokenizer; often the teacher's."""
    max_length: int = 128
    """Longest example in word pieces; longer ones are truncated. The paper uses 128."""
    init: Init = "pretrained"
    """What students start from: the first k layers of the pretrained model (the paper's way), the first k layers of the
    fine-tuned teacher, or every (N/k)-th layer of it up to its top."""
    select_on: SelectOn = "dev"
    """Which examples choose epochs, trials and the teacher: the official dev split, as in the paper, or a part of the
    training split."""


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
    """How students are trained; each trial brings its own learning rate."""
    depths: tuple[int, ...]
    """Student depths to search, each in a study of its own."""
    stages: tuple[SearchStage, ...]
    """Methods to search: those that keep nothing at once, the others after the stage before them."""
    trials: int | None
    """Trials of each PKD method, shared evenly between the depths; None: every setting of a finite space, at every
    depth. A larger number continues a finished search."""
    control_trials: int = 0
    """Trials of each control, vanilla KD and fine-tuning alone, shared evenly between the depths."""
    seeds: int = 0
    """Trainings on fresh seeds that confirm the best settings of each method and depth."""
    sampler: Sampler = "tpe"
    """What chooses the settings."""
    early_stopping: bool = True
    """Whether trials that are not among the better half at a rung are stopped there."""
    seed: int = 42
    """Seeds the sampler; the trainings have their own."""
