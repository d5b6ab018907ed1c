"""What the journal keeps with a trial besides settings and scores: Optuna's user attributes, and how they are read."""

from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

FROM = "from"
"""Of a trial that another run made: which run. It informs the sampler, and is nothing else to this run."""

REPEATS = "repeats"
"""Of a suggestion that was not run: its study has had the same setting before, or it is not wanted any more."""

KEPT = "kept"
"""What a trial kept of another study's winner, which may be another one by now."""

ENDED = "ended"
"""Of a trial that did not reach its end: the state it is told, and why. Written before it is told."""


def was_started(trial: FrozenTrial) -> bool:
    """Tells whether a trial was run here: it is not queued, no repeat, and not another run's."""
    return trial.state is not TrialState.WAITING and not {REPEATS, FROM} & trial.user_attrs.keys()


def evaluations(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """Returns what was kept with each evaluation of a trial, by its number."""
    return {step: trial.user_attrs[evaluation_key(step)] for step in sorted(trial.intermediate_values)}


def evaluation_key(step: int) -> str:
    """Returns the attribute of an evaluation."""
    return f"evaluation {step}"


def why_ended(trial: FrozenTrial) -> str | None:
    """Returns why a trial was stopped or failed; None of one that was not."""
    text = trial.user_attrs.get(ENDED, {}).get("reason")
    return None if text is None else str(text)


def has(trial: FrozenTrial | optuna.Trial, attributes: dict[str, Any]) -> bool:
    """Tells whether a trial has these attributes with these values, perhaps among others."""
    return all(trial.user_attrs.get(name) == value for name, value in attributes.items())
