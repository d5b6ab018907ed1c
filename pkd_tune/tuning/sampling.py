"""How settings are suggested and which trials are stopped early: Optuna's samplers and pruner, set up for one study."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import Sampler
from pkd_tune.tuning.journal import REPEATS, evaluations
from pkd_tune.tuning.space import Parameters, Settings, all_settings, suggest, suggested_part

REDUCTION = 2
"""Successive halving: of all trials that reach a rung, the better half continues. Rungs are evaluations 1, 2, 4, ..."""

WARM_UP_TRIALS = 4
"""Trials that must have reached a rung before it stops any: the order of the first few is mostly chance."""

STARTUP_TRIALS = 5
"""Trials of a study that TPE samples at random before it fits its model."""

DEGENERATE_GRACE = 1.0
"""Epochs after which a trial that still predicts a single class may be stopped at a rung. Earlier, many good trials do
so too, while the learning rate is still rising."""

_DRAWS = 10


class HalvingPruner(optuna.pruners.BasePruner):
    """Optuna's asynchronous successive halving, which stops nothing at a rung that few trials have reached."""

    def __init__(self) -> None:
        self._halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        """Returns whether a trial should be stopped; the study records its values at the rungs."""
        before = _rungs(trial)
        stop = self._halving.prune(study, trial)  # records every rung passed, and the one it decides at
        if not stop:
            return False
        rung = f"completed_rung_{before}"
        reached = sum(rung in other.system_attrs for other in study.get_trials(deepcopy=False))
        return reached > WARM_UP_TRIALS


def should_stop_degenerate(study: optuna.Study, trials: Sequence[FrozenTrial], step: int, epoch: float) -> bool:
    """Returns whether a trial that predicts a single class should be stopped.

    It is stopped at a rung after the first epoch, when another trial that is running or complete predicted several
    classes at the same evaluation. Without such a trial, training may just be slow to begin; and of trials that all
    fall back to one class, the last one continues.

    Args:
        study: The trial's; one without early stopping stops none.
        trials: Of its study's search.
        step: Number of the evaluation.
        epoch: When it took place.
    """
    if not isinstance(study.pruner, HalvingPruner) or step & (step - 1) or epoch < DEGENERATE_GRACE:
        return False
    alive = (TrialState.RUNNING, TrialState.COMPLETE)
    examples = (evaluations(trial).get(step, {}) for trial in trials if trial.state in alive)
    return any(not example.get("degenerate", True) for example in examples)


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


def _rungs(trial: FrozenTrial) -> int:
    return sum(name.startswith("completed_rung_") for name in trial.system_attrs)
