"""What fits into the time that is left."""

import time

from optuna.trial import FrozenTrial, TrialState, create_trial

from pkd_tune.tuning.journal import evaluation_key
from pkd_tune.tuning.time_limit import TimeLimit, epoch_seconds, fits, reserve


def trial(state: TrialState, *ends: tuple[float, float]) -> FrozenTrial:
    """Returns a trial with evaluations at these epochs, after so many seconds."""
    details = {evaluation_key(i): {"epoch": epoch, "seconds": s} for i, (epoch, s) in enumerate(ends, start=1)}
    values = {step: 70.0 for step, _ in enumerate(ends, start=1)}
    value = 70.0 if state is TrialState.COMPLETE else None
    return create_trial(state=state, value=value, intermediate_values=values, user_attrs=details)


def test_an_epoch_takes_what_it_took_complete_trials_or_else_the_others() -> None:
    running, stopped = trial(TrialState.RUNNING, (0.5, 10.0)), trial(TrialState.PRUNED, (0.5, 20.0), (1.0, 50.0))
    complete = trial(TrialState.COMPLETE, (1.0, 90.0), (2.0, 100.0))
    assert epoch_seconds([running, stopped]) == (20.0 + 50.0) / 2
    assert epoch_seconds([running, stopped, complete]) == 50.0
    assert epoch_seconds([trial(TrialState.RUNNING)]) is None


def test_time_is_kept_for_all_confirmations_in_any_order() -> None:
    assert reserve([], 4) == 0
    assert reserve([10.0, 20.0, 30.0], 1) == 60.0
    assert reserve([10.0] * 4, 4) == 10.0 + 0.75 * 10.0  # no more than 17.5, whatever the order
    assert fits(50.0, 10.0, [10.0, 20.0, 10.0], 1)
    assert not fits(49.0, 10.0, [10.0, 20.0, 10.0], 1)
    assert fits(0.0, None, [10.0, 20.0], 1)  # nobody knows


def test_no_time_is_left_after_the_end() -> None:
    assert TimeLimit(time.monotonic() - 1.0, 1).left() == 0.0
