"""How many trials would be worth the time of free slots."""

from dataclasses import replace
from pathlib import Path

import pytest

from pkd_tune.config import DataConfig, SearchConfig, SearchStage, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.workflows.free_slots import duration, free_slots_text


def config(trials: int | None) -> SearchConfig:
    """Returns a search of one depth with eight evaluations a trial, and two confirmations."""
    return SearchConfig(
        data=DataConfig(task=TASKS["MRPC"], data_dir=Path("d"), teacher_dir=Path("t"), student_dir=Path("t")),
        teacher_trainings=(),
        student_training=TrainingConfig(),
        depths=(3,),
        stages=(SearchStage(method="pkd"),),
        trials=trials,
        seeds=2,
        max_pending=4,
    )


def plan_of(trials: int) -> list[StudyPlan]:
    """Returns the plan of a study whose space has 40 settings."""
    return [StudyPlan(study_key=StudyKey(3, "pkd"), quota=min(trials, 40), parameters={})]


def test_a_search_takes_as_long_as_its_slots_or_its_longest_study() -> None:
    assert duration(config(12), plan_of(12), 1) == (14 * 8, 1.0)
    # three groups of four start one evaluation after the other, and then winners are confirmed
    assert duration(config(12), plan_of(12), 56) == (2 + 16, 14 * 8 / (56 * 18))


@pytest.mark.parametrize(
    ("trials", "slots", "suggested"),
    [
        (12, 1, None),
        (12, 7, None),
        (12, 16, "--trials 42 would take about 17% more time"),
        (None, 64, None),
        (40, 64, None),
    ],
)
def test_more_trials_are_suggested_where_slots_are_free(trials: int | None, slots: int, suggested: str | None) -> None:
    text = free_slots_text(config(trials), plan_of(trials or 40), slots, plan_of)
    assert text == (
        suggested and f"note: {slots} trials can run at once, and this search keeps 39% of that busy: {suggested}"
    )


def test_random_search_without_early_stopping_waits_for_no_score() -> None:
    no_waiting = replace(config(12), sampler="random", early_stopping=False, seeds=0)
    assert duration(no_waiting, plan_of(12), 12) == (8, 1.0)
    assert free_slots_text(no_waiting, plan_of(12), 12, plan_of) is None
