"""The search space: typed parameters, what each method leaves open, every setting of a finite space, and the frozen
configs that a trial's settings become.

`space_file` reads parameters from TOML.
"""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import Trial

from pkd_tune.config import DistillConfig, Init, Method, TrainingConfig

Value = float | str | bool
Settings = dict[str, Any]

MAX_LISTED = 100_000
"""Settings of a space beyond which it is treated like one that has a range of real numbers."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Says when a parameter is chosen at all."""

    parameters: tuple[tuple[str, Value], ...]
    """Other parameters, and the value each must have."""
    otherwise: Value
    """The parameter's value when one of them has another."""


@dataclass(frozen=True, slots=True)
class Float:
    """A real number between two bounds, both included."""

    low: float
    high: float
    log: bool
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Int:
    """A whole number between two bounds, both included."""

    low: int
    high: int
    log: bool
    when: Condition | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a list of values; a list of one is a fixed value."""

    values: tuple[Value, ...]
    when: Condition | None = None


Parameter = Float | Int | Choice
Parameters = dict[str, Parameter]

LEFT_OUT: dict[Method, dict[str, Value]] = {
    "finetuned": {"alpha": 0.0, "beta": 0.0, "temperature": 1.0, "strategy": "skip", "normalize": False},
    "kd": {"beta": 0.0, "strategy": "skip", "normalize": False},
    "pkd": {},
    "pkd-skip": {"strategy": "skip"},
    "pkd-last": {"strategy": "last"},
}
"""What each method does not choose, with the value it has instead."""


def suggest(trial: Trial, parameters: Parameters) -> Settings:
    """Lets an Optuna trial choose a value for every parameter; fixed values are not suggested."""
    chosen: Settings = {}
    for name in _unconditional_first(parameters):
        parameter = parameters[name]
        if not _is_active(parameter, chosen):
            assert parameter.when is not None
            chosen[name] = parameter.when.otherwise
            continue
        match parameter:
            case Float(low, high, log):
                chosen[name] = trial.suggest_float(name, low, high, log=log)
            case Int(low, high, log):
                chosen[name] = trial.suggest_int(name, low, high, log=log)
            case Choice((only,)):
                chosen[name] = only
            case Choice(values):
                chosen[name] = trial.suggest_categorical(name, values)
    return {name: chosen[name] for name in parameters}


def settings_of(parameters: Parameters, suggested: Mapping[str, Any]) -> Settings:
    """Returns the value of every parameter from those that Optuna records: all but fixed and inactive ones."""
    chosen: Settings = {}
    for name in _unconditional_first(parameters):
        parameter = parameters[name]
        if not _is_active(parameter, chosen):
            assert parameter.when is not None
            chosen[name] = parameter.when.otherwise
        elif name in suggested:
            chosen[name] = suggested[name]
        else:
            chosen[name] = parameter.values[0] if isinstance(parameter, Choice) else None
    return {name: chosen[name] for name in parameters}


def trial_configs(
    settings: Settings, student_layers: int, base: TrainingConfig
) -> tuple[DistillConfig, TrainingConfig]:
    """Returns the configs of a trial: each setting goes to the config that has a field of its name.

    Args:
        settings: The values a trial tries.
        student_layers: Depth of the student.
        base: Training settings of those that the trial does not choose.

    Raises:
        TypeError: When a setting belongs to neither config, or one that the loss needs is missing.
    """
    training = {field.name for field in fields(TrainingConfig)}
    of_training = {name: value for name, value in settings.items() if name in training}
    of_loss = {name: value for name, value in settings.items() if name not in training}
    return DistillConfig(student_layers=student_layers, **of_loss), replace(base, **of_training)


def suggested_part(parameters: Parameters, settings: Settings) -> Settings:
    """Returns those of a setting's values that Optuna suggests: all but fixed and inactive ones."""
    return {
        name: settings[name]
        for name, parameter in parameters.items()
        if _is_active(parameter, settings) and distribution(parameter) is not None
    }


def shared_part(parameters: Parameters, settings: Settings, method: Method) -> Settings:
    """Returns those of another study's settings that may be suggested in this space as they are.

    Args:
        parameters: Of this space.
        settings: Of the other study.
        method: Of the other study; its value of what it leaves out of the loss says nothing.
    """
    return {
        name: settings[name]
        for name, parameter in parameters.items()
        if name in settings
        and name not in LEFT_OUT[method]
        and distribution(parameter) is not None
        and contains({name: replace(parameter, when=None)}, settings)
    }


def for_method(parameters: Parameters, method: Method) -> Parameters:
    """Returns the parameters of a method; those that its loss does not use are fixed."""
    return fix(parameters, LEFT_OUT[method])


def fix(parameters: Parameters, values: Mapping[str, Value]) -> Parameters:
    """Returns the parameters with some of them fixed, and resolves the conditions that this decides."""
    fixed: Parameters = {name: Choice((values[name],)) if name in values else p for name, p in parameters.items()}
    known = {name: p.values[0] for name, p in fixed.items() if isinstance(p, Choice) and len(p.values) == 1}
    return {
        name: Choice((parameter.when.otherwise,))
        if parameter.when is not None
        and any(known.get(other, value) != value for other, value in parameter.when.parameters)
        else parameter
        for name, parameter in fixed.items()
    }


def contains(parameters: Parameters, settings: Settings) -> bool:
    """Returns whether a setting lies inside the space."""

    def within(parameter: Parameter, value: Any) -> bool:
        if not _is_active(parameter, settings):
            return parameter.when is not None and bool(value == parameter.when.otherwise)
        match parameter:
            case Choice(values):
                return value in values
            case Int(low, high):
                return isinstance(value, int) and low <= value <= high
            case Float(low, high):
                return bool(low <= value <= high)

    return settings.keys() >= parameters.keys() and all(
        within(each, settings[name]) for name, each in parameters.items()
    )


def all_settings(parameters: Parameters) -> list[Settings] | None:
    """Returns every setting of a finite space once, the last parameter changing fastest; None when it is not finite.

    A space of more than `MAX_LISTED` settings counts as not finite.
    """
    size = 1
    for parameter in parameters.values():
        match parameter:  # sizes first: a range of whole numbers may be longer than any list
            case Float():
                return None
            case Int(low, high):
                size *= high - low + 1
            case Choice(values):
                size *= len(values)
    if size > MAX_LISTED:
        return None
    columns = [
        list(parameter.values) if isinstance(parameter, Choice) else list(range(parameter.low, parameter.high + 1))
        for parameter in parameters.values()
        if not isinstance(parameter, Float)
    ]
    found: dict[tuple[tuple[str, Any], ...], None] = {}
    for values in itertools.product(*columns):
        raw = dict(zip(parameters, values, strict=True))
        found[tuple(settings_of(parameters, raw).items())] = None
    return [dict(items) for items in found]


def inits(parameters: Parameters) -> tuple[Init, ...]:
    """Returns what students of a space may start from; all of them start from the pretrained model without `init`."""
    parameter = parameters.get("init", Choice(("pretrained",)))
    assert isinstance(parameter, Choice)
    values = {*parameter.values, *([parameter.when.otherwise] if parameter.when is not None else [])}
    return tuple(init for init in get_args(Init) if init in values)


def largest(parameters: Parameters, name: str, fixed: int) -> int:
    """Returns the largest whole number that a parameter may be, or what is fixed where the space has no such one."""
    match parameters.get(name):
        case None:
            return fixed
        case Choice(values, when):
            most = max(int(value) for value in values)
        case Int(_, high, _, when) | Float(_, high, _, when):
            most = int(high)
    return most if when is None else max(most, int(when.otherwise))


def epoch_shares(parameters: Parameters) -> dict[int, float]:
    """Returns the numbers of epochs that a trial of a space may have, each with its share of settings drawn at random.

    Whole numbers on a logarithmic scale are drawn as Optuna does: uniform in the logarithm from low - 0.5 to high +
    0.5, rounded.
    """
    parameter = parameters["epochs"]
    match parameter:
        case Choice(values):
            weights = dict.fromkeys(values, 1.0)
        case Int(low, high, log) | Float(low, high, log):
            whole = range(int(low), int(high) + 1)
            weights = {n: math.log((n + 0.5) / (n - 0.5)) if log else 1.0 for n in whole}
    active = 1.0
    for other, _ in parameter.when.parameters if parameter.when is not None else ():
        conditioned = parameters[other]
        assert isinstance(conditioned, Choice)
        active /= len(conditioned.values)
    shares = {int(n): active * weight / sum(weights.values()) for n, weight in weights.items()}
    if parameter.when is not None:
        otherwise = int(parameter.when.otherwise)
        shares[otherwise] = shares.get(otherwise, 0.0) + 1 - active
    return shares


def distribution(parameter: Parameter) -> BaseDistribution | None:
    """Returns a parameter as an Optuna distribution; None for a fixed value."""
    match parameter:
        case Float(low, high, log):
            return FloatDistribution(low, high, log=log)
        case Int(low, high, log):
            return IntDistribution(low, high, log=log)
        case Choice((_,)):
            return None
        case Choice(values):
            return CategoricalDistribution(values)


def description(parameter: Parameter) -> dict[str, Any]:
    """Returns a parameter as recorded in run.json."""
    match parameter:
        case Choice(values):
            shown: dict[str, Any] = {"values": list(values)}
        case Float(low, high, log) | Int(low, high, log):
            shown = {"low": low, "high": high, "log": log, "int": isinstance(parameter, Int)}
    if parameter.when is not None:
        shown |= {"when": dict(parameter.when.parameters), "otherwise": parameter.when.otherwise}
    return shown


def _is_active(parameter: Parameter, chosen: Settings) -> bool:
    return parameter.when is None or all(chosen[name] == value for name, value in parameter.when.parameters)


def _unconditional_first(parameters: Parameters) -> list[str]:
    """Returns the names with conditional parameters last: conditions name unconditional parameters only."""
    return sorted(parameters, key=lambda name: parameters[name].when is not None)
