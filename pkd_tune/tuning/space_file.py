"""Search spaces on disk: TOML files, checked by pydantic models, become typed parameters and budgets.

A file has the tables [search], [teacher], [training] and [space]; `search_spaces/default.toml` explains each key. A
file only needs the keys that differ from `default.toml`: it is merged into it key by key, and a parameter in [space] is
replaced as a whole. A file is data and never executed.
"""

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, Self, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    model_validator,
)

from pkd_tune.config import METHODS, Init, Method, Precision, Sampler, SearchStage, Strategy, TrainingConfig, UserError
from pkd_tune.data.toml_file import StrictTable, cut, message, model_error, must_be, parse_toml, read_toml, shown
from pkd_tune.tuning.space import LEFT_OUT, Choice, Condition, Float, Int, Parameter, Parameters

DEFAULT = "default"
"""The shipped space that every other file is merged into."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A search space with its budgets: `default.toml`, a file merged into it, and overrides."""

    parameters: Parameters
    """What each trial chooses: alpha, beta, temperature, learning_rate, strategy, normalize, init, epochs, and
    optionally more of how students are trained."""
    trials: int | None
    """Trials of each PKD method when --trials is not given; None: every setting of the space, at every depth."""
    control_trials: int | Literal["equal"]
    """Trials of vanilla KD when --control-trials is not given; `equal`: as many as of each PKD method."""
    seeds: int
    """Training runs that confirm each winner when --seeds is not given."""
    sampler: Sampler
    """Sampler when --sampler is not given."""
    early_stopping: bool
    """Whether weak trials are stopped early."""
    max_pending: int
    """Trials of one study that run without a score at most, or as many as have one; 0: no limit."""
    transfer: bool
    """Whether a study tries the best settings of its siblings."""
    stages: tuple[SearchStage, ...]
    """Methods searched one after another, each from the best of the one before; empty: all at once."""
    max_length: int
    """Longest example in tokens."""
    teacher: tuple[TrainingConfig, ...]
    """How the teacher is fine-tuned, once per learning rate."""
    training: TrainingConfig
    """How students are trained, as far as no parameter says it."""


def shipped_spaces() -> tuple[str, ...]:
    """Returns the names of the spaces that are part of the package, `default` first."""
    names = [file.name for file in files("pkd_tune.search_spaces").iterdir() if file.name.endswith(".toml")]
    return tuple(sorted((name.removesuffix(".toml") for name in names), key=lambda name: (name != DEFAULT, name)))


def space_text(name: str) -> str:
    """Returns the text of a shipped space: TOML with comments, to start a file of one's own from.

    Raises:
        UserError: When there is no such space.
    """
    if name not in shipped_spaces():
        raise UserError(f"no shipped space is called {name}; there are {', '.join(shipped_spaces())}")
    return (files("pkd_tune.search_spaces") / f"{name}.toml").read_text(encoding="utf-8")


def find_space(name: str | Path) -> Path:
    """Returns the path of a space file: an existing file, or the name of a shipped one (`default`, `demo`, `paper`).

    Raises:
        UserError: When there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path.resolve()
    if str(name) in shipped_spaces():
        with as_file(files("pkd_tune.search_spaces") / f"{name}.toml") as shipped_path:
            return shipped_path.resolve()
    names = ", ".join(shipped_spaces())
    raise UserError(f"--space {name}: neither a file nor a shipped space ({names})")


def load_space(path: Path, overrides: Sequence[str] = (), flags: Mapping[str, dict[str, Any]] | None = None) -> Space:
    """Reads a space file over `default.toml`, with single values replaced.

    Args:
        path: The file.
        overrides: Values that replace the file's, each as `TABLE.KEY=VALUE`, such as `training.epochs=8`,
            `space.alpha=0.5` or `space.beta={low = 1, high = 10}`. VALUE is a TOML value; a single word is a string.

        flags: Values that replace both, as a file that has nothing else, by the flag that gave them.

    Raises:
        UserError: With every problem found, one line each: unknown tables and keys, values and ranges that break a
            rule, and overrides that cannot be read.
    """
    layers = [
        (f"{DEFAULT}.toml", parse_toml(space_text(DEFAULT), f"{DEFAULT}.toml", "space file")),
        (str(path), read_toml(path, "space file")),
    ]
    problems: list[str] = []
    for override in overrides:
        try:
            layers.append((_flag(override), _parse_override(override)))
        except UserError as error:
            problems += error.problems
    layers += (flags or {}).items()
    tables, sources = _overlay(layers)

    def source(location: Sequence[str | int]) -> str:
        return sources.get(tuple(location[:2])) or sources.get(tuple(location[:1])) or str(path)

    try:
        file = _File.model_validate(tables)
    except ValidationError as error:
        problems += [
            f"{source(found['loc'])}: {message(found, _where, _known_keys)}"
            for found in error.errors(include_url=False)
        ]
    problems += [f"{source(location)}: {text}" for location, text in _cross_field_errors(tables)]
    if problems:
        raise UserError(*dict.fromkeys(problems))
    return _space(file)


def _space(file: "_File") -> Space:
    training = TrainingConfig(
        epochs=file.training.epochs,
        batch_size=file.training.batch_size,
        evaluations_per_epoch=file.training.evaluations_per_epoch,
        precision=file.training.precision,
    )
    fixed: Parameters = {"init": Choice((file.training.init,)), "epochs": Choice((file.training.epochs,))}
    chosen = {
        name: _parameter(value)
        for name in type(file.space).model_fields
        if (value := getattr(file.space, name)) is not None
    }
    return Space(
        parameters=chosen | {name: parameter for name, parameter in fixed.items() if name not in chosen},
        trials=None if file.search.trials == "all" else file.search.trials,
        control_trials=file.search.control_trials,
        seeds=file.search.seeds,
        sampler=file.search.sampler,
        early_stopping=file.search.early_stopping,
        max_pending=file.search.max_pending,
        transfer=file.search.transfer,
        stages=tuple(SearchStage(method=stage.method, keep=tuple(stage.keep)) for stage in file.search.stages),
        max_length=file.training.max_length,
        teacher=tuple(
            replace(training, epochs=file.teacher.epochs, learning_rate=rate) for rate in file.teacher.learning_rates
        ),
        training=training,
    )


def _parameter(table: "_Listed[Any] | _Numeric[Any]") -> Parameter:
    otherwise: Any = table.otherwise
    when = None if table.when is None else Condition(tuple(table.when.items()), otherwise)
    choices: Any = table.choices
    if isinstance(table, _Listed) or choices is not None:
        return Choice(tuple(choices), when)
    low: Any = table.low
    high: Any = table.high
    return Int(low, high, table.log, when) if table.whole else Float(float(low), float(high), table.log, when)


# The rules of a file. A value that breaks one is reported as "... must be RULE, but got VALUE".


_LARGEST = 1e300
_Number = int | float
Count = Annotated[int, Field(ge=1, le=1_000_000), must_be("a whole number from 1 to 1000000")]
CountOrZero = Annotated[int, Field(ge=0, le=1_000_000), must_be("a whole number from 0 to 1000000")]
Seeds = Annotated[int, Field(ge=0, le=1000), must_be("a whole number from 0 to 1000")]
Length = Annotated[int, Field(ge=8, le=512), must_be("a whole number from 8 to 512")]
Fraction = Annotated[_Number, Field(ge=0, le=1), must_be("a number in [0, 1]")]
NotNegative = Annotated[_Number, Field(ge=0, le=_LARGEST), must_be("a finite number of at least 0")]
Positive = Annotated[_Number, Field(gt=0, le=_LARGEST), must_be("a finite number above 0")]
Flag = Annotated[bool, must_be("true or false")]
True_ = Annotated[Literal[True], must_be("true")]
ControlCount = Annotated[
    Annotated[int, Field(ge=0, le=1_000_000)] | Literal["equal"],
    must_be('a whole number from 0 to 1000000, or "equal"'),
]
TrialCount = Annotated[Count | Literal["all"], must_be('a whole number from 1 to 1000000, or "all"')]
SamplerName = Annotated[Sampler, must_be('"tpe", "random" or "grid"')]
PrecisionName = Annotated[Precision, must_be('"auto", "bf16" or "fp32"')]
InitName = Annotated[Init, must_be('"pretrained", "teacher" or "teacher-skip"')]
StrategyName = Annotated[Strategy, must_be('"skip" or "last"')]
MethodName = Annotated[Method, must_be(f"one of {', '.join(get_args(Method))}")]
ParameterName = Annotated[str, AfterValidator(lambda name: _known_parameter(name)), must_be("a parameter of [space]")]
Conditions = Annotated[dict[str, str | bool | int | float], Field(min_length=1), must_be('like { strategy = "skip" }')]
T = TypeVar("T")


class _ParameterTable(StrictTable, Generic[T]):
    """A parameter of [space]; a value alone is a list of one choice."""

    when: Conditions | None = None
    otherwise: T | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_one_value(cls, value: Any) -> Any:
        return value if isinstance(value, dict) else {"choices": [value]}

    @model_validator(mode="after")
    def _condition_is_whole(self) -> Self:
        if (self.when is None) != (self.otherwise is None):
            raise model_error("must have both when and otherwise, or none of them")
        return self


class _Listed(_ParameterTable[T], Generic[T]):
    """A parameter with a list of choices."""

    choices: Annotated[list[T], Field(min_length=1)]


class _Numeric(_ParameterTable[T], Generic[T]):
    """A parameter with a list of choices, or a range."""

    choices: Annotated[list[T], Field(min_length=1)] | None = None
    low: T | None = None
    high: T | None = None
    log: Flag = False
    whole: Flag = Field(default=False, alias="int")

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> Self:
        low: Any = self.low
        high: Any = self.high
        if self.choices is not None:
            if self.model_fields_set & {"low", "high", "log", "whole"}:
                raise model_error("must have choices, or low and high, but not both")
        elif low is None or high is None:
            raise model_error("must have choices, or both low and high")
        elif not low < high:
            raise model_error(f"must have a low below its high, but {shown(low)} is not below {shown(high)}")
        elif self.log and low == 0:
            raise model_error("must have a low above 0 on a logarithmic scale, but it is 0")
        elif self.whole and not (isinstance(low, int) and isinstance(high, int)):
            raise model_error(f"must have whole numbers for low and high, but got {shown(low)} and {shown(high)}")
        return self


class _Whole(_Numeric[T], Generic[T]):
    """A parameter with a list of choices, or a range of whole numbers."""

    whole: True_ = Field(default=True, alias="int")


class _SpaceTable(StrictTable):
    alpha: _Numeric[Fraction]
    beta: _Numeric[NotNegative]
    temperature: _Numeric[Positive]
    learning_rate: _Numeric[Positive]
    strategy: _Listed[StrategyName]
    normalize: _Listed[Flag]
    init: _Listed[InitName] | None = None
    epochs: _Whole[Count] | None = None
    batch_size: _Whole[Count] | None = None
    warmup_fraction: _Numeric[Fraction] | None = None
    weight_decay: _Numeric[NotNegative] | None = None
    max_grad_norm: _Numeric[Positive] | None = None


def _known_parameter(name: str) -> str:
    if name not in _SpaceTable.model_fields:
        raise ValueError
    return name


class _StageTable(StrictTable):
    method: MethodName
    keep: list[ParameterName] = Field(default_factory=list)


class _SearchTable(StrictTable):
    trials: TrialCount
    control_trials: ControlCount
    seeds: Seeds
    sampler: SamplerName
    early_stopping: Flag
    max_pending: CountOrZero
    transfer: Flag
    stages: list[_StageTable] = Field(default_factory=list)


class _TeacherTable(StrictTable):
    epochs: Count
    learning_rates: Annotated[list[Positive], Field(min_length=1)]


class _TrainingTable(StrictTable):
    epochs: Count
    batch_size: Count
    max_length: Length
    evaluations_per_epoch: Count
    init: InitName
    precision: PrecisionName


class _File(StrictTable):
    search: _SearchTable
    teacher: _TeacherTable
    training: _TrainingTable
    space: _SpaceTable


def _cross_field_errors(tables: Mapping[str, Any]) -> list[tuple[tuple[str, str], str]]:
    """Returns what is wrong between keys, each with the location of one of them.

    Values that break a rule by themselves are passed over: they are reported already.
    """
    search, space = (tables[name] if isinstance(tables[name], dict) else {} for name in ("search", "space"))
    found = []
    if search.get("trials") == "all" and search.get("sampler") != "grid":
        text = f'trials in [search] may be "all" only with sampler = "grid", but that is {shown(search["sampler"])}'
        found.append((("search", "trials"), text))
    stages = search.get("stages")
    methods: list[Any] = []
    for number, stage in enumerate(stages if isinstance(stages, list) else ()):
        method = stage.get("method") if isinstance(stage, dict) else None
        methods.append(method if isinstance(method, str) else None)
        if methods[-1] is not None and methods[-1] in methods[:-1]:
            text = f"stage {number + 1} in [search] has the method of an earlier one, {methods[-1]}; search each once"
            found.append((("search", "stages"), text))
        keep = stage.get("keep") if isinstance(stage, dict) else None
        if not isinstance(keep, list) or not keep:
            continue
        if number == 0:
            text = "the first of the stages in [search] has no stage before it to keep values of"
            found.append((("search", "stages"), text))
        found += [
            (("search", "stages"), f"stage {number + 1} in [search] keeps {name}, which is not in [space]")
            for name in keep
            if isinstance(name, str) and name in _SpaceTable.model_fields and name not in space
        ]
        found += [
            (("search", "stages"), f"stage {number + 1} in [search] keeps {name}, which {method} does not search")
            for name in keep
            for method in dict.fromkeys(methods[-2:])
            if method in METHODS and isinstance(name, str) and name in LEFT_OUT[method]
        ]
    for name, parameter in space.items():
        when = parameter.get("when") if isinstance(parameter, dict) else None
        for other, value in when.items() if isinstance(when, dict) else ():
            if value not in _unconditional_choices(space.get(other)):
                text = (
                    f"when of {name} in [space] asks for {other} = {shown(value)}, but only a value among the choices "
                    "of a parameter that has no condition itself can be asked for"
                )
                found.append((("space", name), text))
    return found


def _unconditional_choices(parameter: Any) -> list[Any]:
    if not isinstance(parameter, dict):
        return [parameter]
    choices = parameter.get("choices")
    return choices if isinstance(choices, list) and "when" not in parameter else []


def _parse_override(override: str) -> dict[str, Any]:
    """Returns an override as a file that has nothing else.

    Raises:
        UserError: When it is not TABLE.KEY=VALUE, or the value is not TOML.
    """
    name, equals, text = override.partition("=")
    table, dot, key = (part.strip() for part in name.partition("."))
    text = text.strip()
    if not (equals and dot and table and key and text):
        raise UserError(f"{_flag(override)}: give TABLE.KEY=VALUE, such as training.epochs=8")
    if re.fullmatch(r"[A-Za-z_][\w-]*", text) and text not in ("true", "false", "inf", "nan"):
        return {table: {key: text}}
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError) as error:
        hint = 'the value is not TOML, such as 8, 0.5, "skip", [1, 2] or {low = 1, high = 10}'
        raise UserError(f"{_flag(override)}: {hint}") from error
    if parsed.keys() != {"value"}:
        raise UserError(f"{_flag(override)}: give one value")
    return {table: {key: parsed["value"]}}


def _flag(override: str) -> str:
    return cut(f"--set {' '.join(override.split())}")


def _overlay(
    layers: Sequence[tuple[str, Mapping[str, Any]]],
) -> tuple[dict[str, Any], dict[tuple[str | int, ...], str]]:
    """Lays files over each other, key by key.

    Of what is both a key of [training] and a parameter of [space], such as `epochs`, the last file that has one of the
    two decides; of one file, the parameter holds for students.

    Returns:
        The tables, and for each table and (table, key) where it was given last.
    """
    tables: dict[str, Any] = {}
    sources: dict[tuple[str | int, ...], str] = {}
    for source, layer in layers:
        for table, entries in layer.items():
            sources[table,] = source
            if not isinstance(entries, dict) or not isinstance(tables.get(table, {}), dict):
                tables[table] = entries
                continue
            tables[table] = {**tables.get(table, {}), **entries}
            sources |= {(table, key): source for key in entries}
        of_training, space = (layer[name] if isinstance(layer.get(name), dict) else {} for name in _BOTH)
        if isinstance(tables.get("space"), dict):
            for key in of_training.keys() - space.keys():
                tables["space"].pop(key, None)
    return tables, sources


_BOTH = ("training", "space")


def _where(location: Sequence[str | int]) -> str:
    """Returns a location in words, such as `low of alpha in [space]`."""
    table, *keys = location
    match keys:
        case ["stages", int(number), *rest]:
            keys = [f"stage {number + 1}", *rest]
        case [name, "choices", int()]:
            keys = [name]
    names = [key for key in keys if isinstance(key, str)]
    return f"{' of '.join(reversed(names))} in [{table}]" if names else f"[{table}]"


def _known_keys(location: Sequence[str | int]) -> list[str]:
    """Returns the keys that a table may have."""
    if not location:
        return list(_File.model_fields)
    if location[1:2] == ("stages",):
        return list(_StageTable.model_fields)
    if len(location) == 1:
        tables: dict[str | int, type[BaseModel]] = {
            "search": _SearchTable,
            "teacher": _TeacherTable,
            "training": _TrainingTable,
            "space": _SpaceTable,
        }
        return list(tables[location[0]].model_fields)
    of_ranges = [] if location[1] in ("strategy", "normalize", "init") else ["low", "high", "log", "int"]
    return ["choices", *of_ranges, "when", "otherwise"]
