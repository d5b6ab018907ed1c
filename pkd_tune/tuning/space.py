"""Search spaces: a TOML file becomes typed parameters and budgets. Data only, never executed.

A file has the tables [search], [teacher], [training] and [space]; `search_spaces/default.toml` explains each key.
"""

import math
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from pkd_tune.config import Init, TrainingConfig, UserError


@dataclass(frozen=True, slots=True)
class Float:
    """A real number between two bounds, both included."""

    low: float
    high: float
    log: bool


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a list of values; a list of one is a fixed value."""

    values: tuple[float | str | bool, ...]


Parameter = Float | Choice


@dataclass(frozen=True, kw_only=True, slots=True)
class Space:
    """A whole space file."""

    parameters: dict[str, Parameter]
    """What each trial chooses: alpha, beta, temperature, learning_rate, strategy and normalize."""
    trials: int
    """Trials in all when --trials is not given."""
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


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


_POSITIVE_COUNT = _Rule("a whole number of at least 1", _count)
_RATE = _Rule("a number above 0", lambda value: _number(value) and value > 0)
_PARAMETER_RULES = {
    "alpha": _Rule("a number in [0, 1]", lambda value: _number(value) and 0 <= value <= 1),
    "beta": _Rule("a number of at least 0", lambda value: _number(value) and value >= 0),
    "temperature": _RATE,
    "learning_rate": _RATE,
    "strategy": _Rule('"skip" or "last"', lambda value: value in ("skip", "last")),
    "normalize": _Rule("true or false", lambda value: isinstance(value, bool)),
}
_BUDGET_RULES = {
    "search": {"trials": _POSITIVE_COUNT},
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


def load_space(path: Path) -> Space:
    """Reads a space file.

    Raises:
        UserError: With every problem found: unknown or missing tables and keys, impossible values and ranges.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    problems = []
    for table in _unknown(tables, [*_BUDGET_RULES, "space"]):
        problems.append(f"{path}: unknown table or key {table!r}; known are [search], [teacher], [training], [space]")
    budgets: dict[str, dict[str, Any]] = {}
    for table, rules in _BUDGET_RULES.items():
        budgets[table] = _table(tables, table)
        problems += [
            f"{path}: unknown key {key!r} in [{table}]; known are {', '.join(rules)}"
            for key in _unknown(budgets[table], rules)
        ]
        problems += [
            f"{path}: {key} in [{table}] must be {rule.text}, but is {budgets[table].get(key)!r}"
            for key, rule in rules.items()
            if not rule.holds(budgets[table].get(key))
        ]
    space = _table(tables, "space")
    problems += [
        f"{path}: unknown key {key!r} in [space]; known are {', '.join(_PARAMETER_RULES)}"
        for key in _unknown(space, _PARAMETER_RULES)
    ]
    parameters: dict[str, Parameter] = {}
    for key, rule in _PARAMETER_RULES.items():
        try:
            parameters[key] = _parameter(space, key, rule)
        except ValueError as error:
            problems.append(f"{path}: {error}")
    if problems:
        raise UserError(*problems)
    training = {key: value for key, value in budgets["training"].items() if key not in ("max_length", "init")}
    return Space(
        parameters=parameters,
        trials=budgets["search"]["trials"],
        max_length=budgets["training"]["max_length"],
        init=budgets["training"]["init"],
        teacher=tuple(
            TrainingConfig(**{**training, "epochs": budgets["teacher"]["epochs"], "learning_rate": rate})
            for rate in budgets["teacher"]["learning_rates"]
        ),
        training=TrainingConfig(**training),
    )


def suggest(trial: Trial, parameters: dict[str, Parameter]) -> dict[str, Any]:
    """Lets an Optuna trial choose a value for every parameter; those with one value are not put to it."""
    chosen: dict[str, Any] = {}
    for name, parameter in parameters.items():
        match parameter:
            case Float(low, high, log):
                chosen[name] = trial.suggest_float(name, low, high, log=log)
            case Choice((only,)):
                chosen[name] = only
            case Choice(values):
                chosen[name] = trial.suggest_categorical(name, values)
    return chosen


def _parameter(space: dict[str, Any], key: str, rule: _Rule) -> Parameter:
    """Reads one parameter; raises ValueError with the reason, without the file's name."""
    if key not in space:
        raise ValueError(f"{key} is missing in [space]")
    value = space[key]
    if not isinstance(value, dict):
        value = {"choices": [value]}
    if "choices" in value:
        if unknown := _unknown(value, ["choices"]):
            raise ValueError(f"{key} in [space] has choices and {unknown[0]!r}; give one or the other")
        choices = value["choices"]
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"choices of {key} in [space] must be a list of at least one value")
        if wrong := [choice for choice in choices if not rule.holds(choice)]:
            raise ValueError(f"{key} in [space] must be {rule.text}, but one choice is {wrong[0]!r}")
        return Choice(tuple(choices))
    if unknown := _unknown(value, ["low", "high", "log"]):
        raise ValueError(f"unknown key {unknown[0]!r} of {key} in [space]; known are low, high, log, choices")
    low: Any = value.get("low")
    high: Any = value.get("high")
    log = value.get("log", False)
    for name, bound in (("low", low), ("high", high)):
        if not _number(bound) or not rule.holds(bound):
            raise ValueError(f"{name} of {key} in [space] must be {rule.text}, but is {bound!r}")
    if not isinstance(log, bool):
        raise ValueError(f"log of {key} in [space] must be true or false, but is {log!r}")
    if not low < high:
        raise ValueError(f"low of {key} in [space] must be below high, but {low} is not below {high}")
    if log and low == 0:
        raise ValueError(f"low of {key} in [space] must be above 0 on a logarithmic scale, but is 0")
    return Float(float(low), float(high), log)


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    table = tables.get(name, {})
    return table if isinstance(table, dict) else {}


def _unknown(table: dict[str, Any], known: Any) -> list[str]:
    return [key for key in table if key not in known]
