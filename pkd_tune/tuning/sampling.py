"""How settings are suggested and which trials are stopped early: Optuna's samplers and pruner, set up for one study."""

import random
import warnings
from collections.abc import Sequence
from typing import Any, TypeAlias

import optuna
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import Sampler
from pkd_tune.tuning.journal import REPEATS, rung_key
from pkd_tune.tuning.space import Parameters, Settings, all_settings, suggest, suggested_part

REDUCTION = 3
"""Successive halving: of all trials that reach a rung, the best third continues; each rung is at three times the epoch
of the one before. docs/search.md compares it with others."""

WARM_UP_TRIALS = 4
"""Trials that must have reached a rung before it stops any: the order of the first few is mostly chance."""

STARTUP_TRIALS = 5
"""Trials of a study that TPE samples at random before it fits its model."""

DEGENERATE_GRACE = 1.0
"""Epochs after which a trial that still predicts a single class may be stopped at a rung. Earlier, many good trials do
so too, while the learning rate is still rising."""

_DRAWS = 10
_ROUNDING = 1e-6


def rung_at(epoch: float, before: float, first: float) -> float | None:
    """Returns the rung that an evaluation is at, in epochs; None where it is at none.

    Rungs are at `first`, 3 `first`, 9 `first`, ... epochs, whatever the budget of a trial. An evaluation that is the
    first at or after several of them is at the last.

    Args:
        epoch: Of the evaluation.
        before: Of the evaluation before it; 0 for the first.
        first: Epoch of the first rung.
    """
    rung = None
    at = first
    while at <= epoch + _ROUNDING:
        if at > before + _ROUNDING:
            rung = at
        at *= REDUCTION
    return rung


Rank: TypeAlias = list[float]
"""What trials are compared by at a rung; a list, as the journal has it."""


def rank_at_rung(score: float, *, degenerate: bool) -> Rank:
    """Returns what a trial is compared with others by: any that predicts several classes is ahead of one that does not.

    By the score alone it would often be behind: leaving the most frequent class costs accuracy and F1 before it gains.
    """
    return [int(not degenerate), score]


def is_among_best(rank: Rank, ranks: Sequence[Rank]) -> bool:
    """Returns whether a trial continues at a rung: it is in the best third, or few have reached the rung.

    This is asynchronous successive halving (Li et al., MLSys 2020), which decides at once, by what is known by then.

    Args:
        rank: Of the trial at the rung.
        ranks: Of all trials that reached the rung, this one included.
    """
    kept = max(1, len(ranks) // REDUCTION)
    return len(ranks) <= WARM_UP_TRIALS or rank >= sorted(ranks, reverse=True)[kept - 1]


def others_learnt(trials: Sequence[FrozenTrial], rung: float) -> bool:
    """Returns whether a trial that predicts a single class should be stopped at a rung.

    From the first epoch on it should, when another trial that is running or complete predicted several classes at the
    same rung. Without such a trial, training may just be slow to begin; and of trials that all fall back to one class,
    the last one continues.

    Args:
        trials: Of its study's search.
        rung: In epochs.
    """
    alive = (TrialState.RUNNING, TrialState.COMPLETE)
    ranks = (trial.user_attrs.get(rung_key(rung)) for trial in trials if trial.state in alive)
    return rung >= DEGENERATE_GRACE and any(rank is not None and rank[0] for rank in ranks)


def make_sampler(kind: Sampler, seed: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of one study. With a grid it is not used: settings are enqueued one by one."""
    if kind == "random":
        return optuna.samplers.RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is, since 2021
        return optuna.samplers.TPESampler(
            n_startup_trials=STARTUP_TRIALS, multivariate=True, group=True, constant_liar=True, seed=seed
        )


def ask_untried(
    study: optuna.Study, parameters: Parameters, tried_before: Sequence[Settings], kind: Sampler, seed: int
) -> tuple[optuna.Trial, Settings]:
    """Asks a study for a trial with settings that it has not tried; enqueued trials come first.

    A suggestion that repeats earlier settings is marked and told as failed. After several repeated suggestions in a
    finite space, settings that are still untried are enqueued.

    Args:
        study: Has fewer trials than its space has settings.
        parameters: What the trial chooses.
        tried_before: Settings of its earlier trials.
        kind: With a grid, untried settings are enqueued in an order shuffled by the seed.
        seed: Seed of that order.
    """
    tried = {_key(setting) for setting in tried_before}
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    everything = all_settings(parameters)
    for draw in range(_DRAWS):
        if everything is not None and not waiting and (kind == "grid" or draw == _DRAWS - 1):
            still_open = [setting for setting in everything if _key(setting) not in tried]
            random.Random(seed).shuffle(still_open)
            if still_open:
                study.enqueue_trial(suggested_part(parameters, still_open[0]))
        trial = study.ask()
        settings = suggest(trial, parameters)
        if _key(settings) not in tried or draw == _DRAWS - 1:
            break
        trial.set_user_attr(REPEATS, True)
        study.tell(trial, state=TrialState.FAIL)
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    return trial, settings


def _key(settings: Settings) -> tuple[tuple[str, Any], ...]:
    return tuple(settings.items())
