"""Whether a search has too few trials for the slots it runs on."""

from collections.abc import Callable, Sequence

from pkd_tune.config import SearchConfig
from pkd_tune.tuning.plan import StudyPlan

MOST_BUSY = 0.75
"""Share of the slots' time that trials take, above which more of them are not suggested."""
MORE_TIME = 1.25
"""How much longer a search with the suggested number of trials may take."""


def free_slots_text(
    config: SearchConfig, plans: Sequence[StudyPlan], slots: int, plan_of: Callable[[int], Sequence[StudyPlan]]
) -> str | None:
    """Returns a line that says how many trials would make use of free slots; None where hardly any slot is free.

    It is about trials that are not stopped early, and counts time in evaluations, as if those of all depths took as
    long.

    Args:
        config: Of the search.
        plans: Of its studies.
        slots: Concurrent trials.
        plan_of: Returns the plans for another number of trials.
    """
    time, busy = duration(config, plans, slots)
    if config.trials is None or busy > MOST_BUSY:
        return None
    trials, longer, quota = config.trials, time, sum(plan.quota for plan in plans)
    for quarters in range(5, 41):
        more = plan_of(config.trials * quarters // 4)
        takes, _ = duration(config, more, slots)
        if takes > MORE_TIME * time:
            break
        if sum(plan.quota for plan in more) > quota:  # a finite space may have no more settings
            trials, longer, quota = config.trials * quarters // 4, takes, sum(plan.quota for plan in more)
    if trials == config.trials:
        return None
    return (
        f"note: {slots} trials can run at once, and this search keeps {busy:.0%} of that busy: --trials {trials} "
        f"would take about {longer / time - 1:.0%} more time"
    )


def duration(config: SearchConfig, plans: Sequence[StudyPlan], slots: int) -> tuple[float, float]:
    """Returns how long a search takes at least, in evaluations of one trial, and what share of its slots it uses.

    It takes as long as its slots need for all evaluations; and as long as its longest study: trials start in groups, as
    `max_pending` allows, each an evaluation after the one before, and winners are confirmed when the last trial has
    ended.
    """
    each = config.student_training.epochs * config.student_training.evaluations_per_epoch
    work = float(sum((plan.quota + config.seeds) * each for plan in plans))
    learns = config.early_stopping or config.sampler == "tpe"  # else no trial waits for scores
    groups = max(_groups(plan.quota, config.max_pending if learns else 0) for plan in plans)
    longest = groups - 1 + each * (2 if config.seeds else 1)
    time = max(work / slots, longest)
    return time, work / (slots * time)


def _groups(trials: int, max_pending: int) -> int:
    """Returns how many groups of trials start after one another: each as large as all before it, or `max_pending`."""
    groups = started = 0
    while started < trials:
        started += max(max_pending or trials, started)
        groups += 1
    return groups
