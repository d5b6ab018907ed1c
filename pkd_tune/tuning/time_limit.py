"""The time limit of a search: when it ends, and what still fits into the time that is left."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from pkd_tune.tuning.journal import evaluations


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """When the trials of a search end, and how many run at once."""

    ends: float
    """As `time.monotonic()` counts, in seconds."""
    slots: int
    """Concurrent trials."""

    def left(self) -> float:
        """Returns the seconds that are left, at least 0."""
        return max(0.0, self.ends - time.monotonic())


def epoch_seconds(trials: Sequence[FrozenTrial]) -> float | None:
    """Returns how many seconds an epoch takes, from trials that train alike; None before any was evaluated.

    It is the mean over the complete trials; while there are none, over what the others have done so far.

    Args:
        trials: Of one depth, and of methods that read the same examples.
    """
    for kind in ([trial for trial in trials if trial.state is TrialState.COMPLETE], trials):
        lasts = [last for trial in kind for last in list(evaluations(trial).values())[-1:]]
        if lasts:
            return math.fsum(last["seconds"] / last["epoch"] for last in lasts) / len(lasts)
    return None


def reserve(seconds: Sequence[float], slots: int) -> float:
    """Returns within how many seconds slots work off training runs that take these seconds, in whatever order.

    The bound of list scheduling: sum / slots + (1 - 1 / slots) * longest (Graham, 1969, Bounds on multiprocessing
    timing anomalies).
    """
    return math.fsum(seconds) / slots + (1 - 1 / slots) * max(seconds, default=0.0)


def fits(left: float, own: float | None, confirmations: Sequence[float], slots: int) -> bool:
    """Returns whether a trial that starts now ends in time, and after it the confirmations of all winners.

    Args:
        left: Seconds until the limit.
        own: Seconds of the trial; None: not known yet, so it is tried.
        confirmations: Seconds of each training that is still to confirm a winner, of those that are known.
        slots: Concurrent trials.
    """
    return own is None or own + reserve(confirmations, slots) <= left
