"""The time limit of a search: when it ends, and what still fits into the time that is left."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from pkd_tune.tuning.journal import evaluations


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """When the trials of a search end, and what their times are judged by."""

    ends: float
    """As `time.monotonic()` counts, in seconds."""
    slots: int
    """Concurrent trials."""
    epochs: float
    """Epochs of a trial that is not stopped early."""

    def left(self) -> float:
        """Returns the seconds that are left, at least 0."""
        return max(0.0, self.ends - time.monotonic())


def trial_seconds(trials: Sequence[FrozenTrial], epochs: float) -> float | None:
    """Returns about how many seconds a whole trial takes, from the trials of one depth; None before any was evaluated.

    It is the mean over the complete trials; while there are none, that of the seconds per epoch so far of the others.

    Args:
        trials: Of the depth, from all of its studies.
        epochs: Of a trial that is not stopped early.
    """
    for kind in ([trial for trial in trials if trial.state is TrialState.COMPLETE], trials):
        lasts = [last for trial in kind for last in list(evaluations(trial).values())[-1:]]
        if lasts:
            return math.fsum(last["seconds"] * epochs / last["epoch"] for last in lasts) / len(lasts)
    return None


def reserve(seconds: Sequence[float], slots: int) -> float:
    """Returns within how many seconds slots work off trainings that take these seconds, in whatever order.

    The bound of list scheduling: sum / slots + (1 - 1 / slots) * longest (Graham, 1969, Bounds on multiprocessing
    timing anomalies).
    """
    return math.fsum(seconds) / slots + (1 - 1 / slots) * max(seconds, default=0.0)


def fits(left: float, depth: int, confirmations: Sequence[int], times: Mapping[int, float | None], slots: int) -> bool:
    """Returns whether a trial that starts now ends in time, and after it the confirmations of all winners.

    A depth whose time is not known yet is tried.

    Args:
        left: Seconds until the limit.
        depth: Layers of the trial's student.
        confirmations: Layers of each training that is still to confirm a winner.
        times: Seconds of a whole trial by depth.
        slots: Concurrent trials.
    """
    own = times[depth]
    if own is None:
        return True
    known = [seconds for layers in confirmations if (seconds := times[layers]) is not None]
    return own + reserve(known, slots) <= left
