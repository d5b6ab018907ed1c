"""What each job is asked for: the flags of its command and the arguments of its Python function, with their defaults.

Nothing is checked here; each workflow resolves its options and reports everything that is wrong with them at once.
"""

import operator
import shlex
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pkd_tune.config import Init, Method, Precision, Sampler, SelectOn, Strategy
from pkd_tune.files import expanded
from pkd_tune.reporting.verdict import DEFAULT_TOLERANCE

DEFAULT_MODEL = "google-bert/bert-base-uncased"

Logger = Literal["wandb", "mlflow"]
"""A service that gets every result of a search as well."""

Options = TypeVar("Options")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataOptions:
    """Which examples."""

    task: str
    demo: bool = False
    data_dir: Path = Path("data")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingOptions(DataOptions):
    """How one model is trained, and where."""

    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    seed: int = 42
    gpus: int | None = None
    precision: Precision | None = None
    cuda_graphs: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOptions(TrainingOptions):
    """Arguments of `pkd_tune.search()` and flags of `python -m pkd_tune.search`."""

    command: ClassVar[str] = "pkd_tune.search"
    teacher: str = DEFAULT_MODEL
    student: str | None = None
    depths: tuple[int, ...] | None = None
    methods: tuple[Method, ...] | None = None
    trials: int | None = None
    control_trials: int | None = None
    seeds: int | None = None
    space: str | None = None
    set: tuple[str, ...] = ()
    sampler: Sampler | None = None
    select_on: SelectOn | Literal["validation"] = "dev"
    unlabeled: Path | None = None
    warm_start: tuple[Path, ...] = ()
    trials_per_gpu: int | None = None
    address: str | None = None
    storage: str | None = None
    trial_timeout: float | None = None
    time_limit: str | float | None = None
    tolerance: float = DEFAULT_TOLERANCE
    onnx: bool = False
    out: Path = Path("results")
    name: str | None = None
    new: bool = False
    ray_dashboard: bool = False
    log: tuple[Logger, ...] = ()
    quiet: bool = False
    verbose: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneOptions(TrainingOptions):
    """Arguments of `pkd_tune.finetune()` and flags of `python -m pkd_tune.finetune`."""

    command: ClassVar[str] = "pkd_tune.finetune"
    model: str = DEFAULT_MODEL
    layers: int | None = None
    learning_rate: tuple[float, ...] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillOptions(TrainingOptions):
    """Arguments of `pkd_tune.distill()` and flags of `python -m pkd_tune.distill`."""

    command: ClassVar[str] = "pkd_tune.distill"
    method: Literal["kd", "pkd"]
    layers: int
    teacher: str = DEFAULT_MODEL
    student: str | None = None
    init: Init = "pretrained"
    preset: Literal["published"] | None = None
    alpha: float | None = None
    beta: float | None = None
    temperature: float | None = None
    strategy: Strategy | None = None
    normalize: bool | None = None
    learning_rate: float | None = None
    unlabeled: Path | None = None
    to: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PredictOptions:
    """Arguments of `pkd_tune.predict()` and flags of `python -m pkd_tune.predict`."""

    command: ClassVar[str] = "pkd_tune.predict"
    task: tuple[str, ...]
    model: tuple[str, ...]
    splits: tuple[str, ...] | None = None
    file: tuple[Path, ...] | None = None
    demo: bool = False
    data_dir: Path = Path("data")
    max_length: int | None = None
    gpus: int | None = None
    out: Path = Path("predictions")
    glue_zip: Path | None = None
    fill_missing: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportOptions:
    """Arguments of `pkd_tune.export()` and flags of `python -m pkd_tune.export`."""

    command: ClassVar[str] = "pkd_tune.export"
    run: Path
    to: Path
    layers: int | None = None
    method: Method | None = None
    tolerance: float | None = None
    onnx: bool = False
    int8: bool = False
    push: str | None = None
    public: bool = False
    task: str | None = None
    data_dir: Path | None = None


def make_options(kind: type[Options], values: Mapping[str, Any]) -> Options:
    """Returns options from parsed flags or keyword arguments.

    Paths may be strings; `~` at the start of a path, or of a name that may be a path, is expanded. Sequences may be
    lists or arrays, and a single value stands for a sequence of one.

    Raises:
        TypeError: For an unknown or a missing argument.
    """
    known = {field.name: str(field.type) for field in fields(kind)}  # type: ignore[arg-type]
    if unknown := [name for name in values if name not in known]:
        raise TypeError(f"unknown argument {unknown[0]!r}; known are {', '.join(known)}")
    required = [field.name for field in fields(kind) if field.default is MISSING]  # type: ignore[arg-type]
    if missing := [name for name in required if name not in values]:
        raise TypeError(f"missing argument {missing[0]!r}")
    return kind(**{name: _converted(value, known[name]) for name, value in values.items()})


def _converted(value: Any, kind: str) -> Any:
    """Returns a value as a field of this annotation holds it."""
    if value is None:
        return None
    if "tuple" in kind:
        values = [value] if isinstance(value, str | Path | Real) else value
        return tuple(_converted(each, kind.replace("tuple", "")) for each in values)
    if "Path" in kind:
        return expanded(value)
    if hasattr(value, "__index__") and not isinstance(value, int):
        return operator.index(value)  # NumPy's, as of an array or a table
    return str(expanded(value)) if isinstance(value, str) and value.startswith("~") else value


def as_command(options: Any) -> list[str]:
    """Returns the flags that ask a command for these options, defaults left out."""
    flags: list[str] = []
    for field in fields(options):
        value, flag = getattr(options, field.name), f"--{field.name.replace('_', '-')}"
        if value == field.default:
            continue
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        else:
            flags += [flag, *map(str, value if isinstance(value, tuple) else [value])]
    return flags


def command_line(options: Any) -> str:
    """Returns the command that does what these options ask for."""
    return shlex.join(["python", "-m", options.command, *as_command(options)])
