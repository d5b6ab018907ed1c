"""Search spaces on disk: a TOML file becomes typed parameters and budgets. Data only, never executed.

A file has the tables [search], [teacher], [training] and [space]; `search_spaces/default.toml` explains each key.
"""

import math
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, get_args

from pkd_tune.config import Init, Method, Sampler, SearchStage, TrainingConfig, UserError
from pkd_tune.tuning.space import Choice, Condition, Float, Int, Parameter, Parameters, Value


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A whole space file."""

    parameters: Parameters
    """What each trial chooses: alpha, beta, temperature, learning_rate, strategy, normalize, and perhaps more of how
    students are trained."""
    trials: int | None
    """Trials of each PKD method when --trials is not given; None: every setting of the space, at every depth."""
    control_trials: int
    """Trials of each control (vanilla KD, fine-tuning alone) when --control-trials is not given."""
    seeds: int
    """Trainings that confirm each winner when --seeds is not given."""
    sampler: Sampler
    """What chooses when --sampler is not given."""
    early_stopping: bool
    """Whether weak trials are stopped early."""
    stages: tuple[SearchStage, ...]
    """Methods searched one after another, each from the best of the one before; empty: all at once."""
    max_length: int
    """Longest example in word pieces."""
    teacher: tuple[TrainingConfig, ...]
    """How the teacher is fine-tuned, once per learning rate."""
    init: Init
    """What students start from."""
    training: TrainingConfig
    """How students are trained, but for the learning rate, which each trial chooses."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """What a value must be."""

    text: str
    holds: Callable[[Any], bool]


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _count(value: Any) -> bool:
    return _whole(value) and value >= 1


_POSITIVE_COUNT = _Rule("a whole number of at least 1", _count)
_RATE = _Rule("a number above 0", lambda value: _number(value) and value > 0)
_NATURAL = _Rule("a whole number of at least 0", lambda value: _whole(value) and value >= 0)
_PARAMETER_RULES = {
    "alpha": _Rule("a number in [0, 1]", lambda value: _number(value) and 0 <= value <= 1),
    "beta": _Rule("a number of at least 0", lambda value: _number(value) and value >= 0),
    "temperature": _RATE,
    "learning_rate": _RATE,
    "strategy": _Rule('"skip" or "last"', lambda value: value in ("skip", "last")),
    "normalize": _Rule("true or false", lambda value: isinstance(value, bool)),
}
_OPTIONAL_PARAMETER_RULES = {
    "batch_size": _POSITIVE_COUNT,
    "warmup_fraction": _Rule("a number in [0, 1]", lambda value: _number(value) and 0 <= value <= 1),
    "weight_decay": _Rule("a number of at least 0", lambda value: _number(value) and value >= 0),
    "max_grad_norm": _RATE,
}
_SEARCH_RULES = {
    "trials": _POSITIVE_COUNT,
    "control_trials": _NATURAL,
    "seeds": _NATURAL,
    "sampler": _Rule('"tpe", "random" or "grid"', lambda value: value in get_args(Sampler)),
    "early_stopping": _Rule("true or false", lambda value: isinstance(value, bool)),
    "stages": _Rule('a list of { method = "...", keep = ["..."] }', lambda value: isinstance(value, list)),
}
_BUDGET_RULES = {
    "teacher": {
        "epochs": _POSITIVE_COUNT,
        "learning_rates": _Rule(
            "a list of numbers above 0",
            lambda value: isinstance(value, list) and len(value) > 0 and all(map(_RATE.holds, value)),
        ),
    },
    "training": {
        "epochs": _POSITIVE_COUNT,
        "batch_size": _POSITIVE_COUNT,
        "max_length": _Rule("a whole number from 8 to 512", lambda value: _count(value) and 8 <= value <= 512),
        "evaluations_per_epoch": _POSITIVE_COUNT,
        "init": _Rule(
            '"pretrained", "teacher" or "teacher-skip"',
            lambda value: value in ("pretrained", "teacher", "teacher-skip"),
        ),
    },
}


def find_space(name: str | Path) -> Path:
    """Returns the path of a space file: an existing file, or the name of a shipped one (`default`, `demo`).

    Raises:
        UserError: When there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path.resolve()
    shipped = sorted(file.name for file in files("pkd_tune.search_spaces").iterdir() if file.name.endswith(".toml"))
    if f"{name}.toml" in shipped:
        with as_file(files("pkd_tune.search_spaces") / f"{name}.toml") as shipped_path:
            return shipped_path.resolve()
    names = ", ".join(file.removesuffix(".toml") for file in shipped)
    raise UserError(f"--space {name}: no such file, nor a shipped space of that name ({names})")


def load_space(path: Path, overrides: Sequence[str] = ()) -> Space:
    """Reads a space file.

    Raises:
        UserError: With every problem found: unknown or missing tables and keys, impossible values and ranges.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    problems = []
    for table in _unknown(tables, ["search", *_BUDGET_RULES, "space"]):
        problems.append(f"unknown table or key {table!r}; known are [search], [teacher], [training], [space]")
    budgets = {name: _table(tables, name) for name in ("search", *_BUDGET_RULES)}
    for table, rules in (("search", _SEARCH_RULES), *_BUDGET_RULES.items()):
        problems += [
            f"unknown key {key!r} in [{table}]; known are {', '.join(rules)}" for key in _unknown(budgets[table], rules)
        ]
        problems += [
            f"{key} in [{table}] must be {rule.text}, but is {budgets[table].get(key)!r}"
            for key, rule in rules.items()
            if not rule.holds(budgets[table].get(key)) and (table != "search" or key in budgets[table])
        ]
    space = _table(tables, "space")
    all_rules = {**_PARAMETER_RULES, **_OPTIONAL_PARAMETER_RULES}
    problems += [f"unknown key {k!r} in [space]; known are {', '.join(all_rules)}" for k in _unknown(space, all_rules)]
    parameters: Parameters = {}
    for key, rule in all_rules.items():
        if key in _OPTIONAL_PARAMETER_RULES and key not in space:
            continue
        try:
            parameters[key] = _parameter(space, key, rule)
        except ValueError as error:
            problems.append(str(error))
    problems += _condition_problems(parameters)
    search: dict[str, Any] = budgets["search"]
    stages: list[SearchStage] = []
    for stage in search.get("stages", []) if isinstance(search.get("stages", []), list) else []:
        try:
            stages.append(_stage(stage, len(stages)))
        except ValueError as error:
            problems.append(str(error))
    if "trials" not in search and search.get("sampler") != "grid":
        problems.append('trials is missing in [search]; only with sampler = "grid" it may be left out')
    if problems:
        raise UserError(*(f"{path}: {problem}" for problem in problems))
    training = {key: value for key, value in budgets["training"].items() if key not in ("max_length", "init")}
    return Space(
        parameters=parameters,
        trials=search.get("trials"),
        control_trials=search.get("control_trials", 0),
        seeds=search.get("seeds", 0),
        sampler=search.get("sampler", "tpe"),
        early_stopping=search.get("early_stopping", True),
        stages=tuple(stages),
        max_length=budgets["training"]["max_length"],
        init=budgets["training"]["init"],
        teacher=tuple(
            TrainingConfig(**{**training, "epochs": budgets["teacher"]["epochs"], "learning_rate": rate})
            for rate in budgets["teacher"]["learning_rates"]
        ),
        training=TrainingConfig(**training),
    )


def _stage(stage: Any, earlier: int) -> SearchStage:
    """Reads one stage; raises ValueError with the reason."""
    methods = get_args(Method)
    if not isinstance(stage, dict) or stage.get("method") not in methods or _unknown(stage, ["method", "keep"]):
        raise ValueError(f"a stage in [search] must be {{ method, keep }} with a method of {', '.join(methods)}")
    keep = stage.get("keep", [])
    known = {**_PARAMETER_RULES, **_OPTIONAL_PARAMETER_RULES}
    if not isinstance(keep, list) or _unknown(dict.fromkeys(map(str, keep)), known):
        raise ValueError(f"keep of a stage in [search] must be a list of parameters, but is {keep!r}")
    if keep and not earlier:
        raise ValueError("the first stage in [search] has no stage before it to keep values of")
    return SearchStage(method=stage["method"], keep=tuple(keep))


def _parameter(space: dict[str, Any], key: str, rule: _Rule) -> Parameter:
    """Reads one parameter; raises ValueError with the reason, without the file's name."""
    if key not in space:
        raise ValueError(f"{key} is missing in [space]")
    value = space[key]
    if not isinstance(value, dict):
        value = {"choices": [value]}
    when = _condition(value, key, rule)
    value = {name: entry for name, entry in value.items() if name not in ("when", "otherwise")}
    if "choices" in value:
        if unknown := _unknown(value, ["choices"]):
            raise ValueError(f"{key} in [space] has choices and {unknown[0]!r}; give one or the other")
        choices = value["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"choices of {key} in [space] must be a list of at least one value")
        if wrong := [choice for choice in choices if not rule.holds(choice)]:
            raise ValueError(f"{key} in [space] must be {rule.text}, but one choice is {wrong[0]!r}")
        return Choice(tuple(choices), when)
    if unknown := _unknown(value, ["low", "high", "log", "int"]):
        known = "low, high, log, int, choices, when, otherwise"
        raise ValueError(f"unknown key {unknown[0]!r} of {key} in [space]; known are {known}")
    low: Any = value.get("low")
    high: Any = value.get("high")
    log, whole = value.get("log", False), value.get("int", key == "batch_size")
    for name, bound in (("low", low), ("high", high)):
        if not _number(bound) or not rule.holds(bound):
            raise ValueError(f"{name} of {key} in [space] must be {rule.text}, but is {bound!r}")
    for name, flag in (("log", log), ("int", whole)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} of {key} in [space] must be true or false, but is {flag!r}")
    if not low < high:
        raise ValueError(f"low of {key} in [space] must be below high, but {low} is not below {high}")
    if log and low == 0:
        raise ValueError(f"low of {key} in [space] must be above 0 on a logarithmic scale, but is 0")
    if not whole:
        return Float(float(low), float(high), log, when)
    if not _whole(low) or not _whole(high):
        raise ValueError(f"low and high of {key} in [space] must be whole numbers, but are {low} and {high}")
    return Int(low, high, log, when)


def _condition(value: dict[str, Any], key: str, rule: _Rule) -> Condition | None:
    """Reads when a parameter exists; raises ValueError with the reason."""
    if "when" not in value and "otherwise" not in value:
        return None
    when, otherwise = value.get("when"), value.get("otherwise")
    if not isinstance(when, dict) or not when:
        raise ValueError(f'when of {key} in [space] must be like {{ strategy = "skip" }}, but is {when!r}')
    if otherwise is None or not rule.holds(otherwise):
        raise ValueError(f"otherwise of {key} in [space] must be {rule.text}, but is {otherwise!r}")
    pairs: list[tuple[str, Value]] = list(when.items())
    return Condition(tuple(pairs), otherwise)


def _condition_problems(parameters: Parameters) -> list[str]:
    """Returns what is wrong with the conditions as a whole: each must be about values that another parameter has."""
    problems = []
    for name, parameter in parameters.items():
        for other, value in parameter.when.parameters if parameter.when is not None else ():
            asked = parameters.get(other)
            if not isinstance(asked, Choice) or asked.when is not None or value not in asked.values:
                problems.append(
                    f"when of {name} in [space] asks for {other} = {value!r}, but only a value among the choices of a "
                    "parameter that has no condition itself can be asked for"
                )
    return problems


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    return table if isinstance(table, dict) else {}


def _unknown(table: dict[str, Any], known: Any) -> list[str]:
    return [key for key in table if key not in known]
