"""What is tried next, and what is stopped early, as the studies do it."""

import itertools
import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from studies import FLAT, PARAMETERS, ask, finish, opened, plan, report, run_all, seen

from pkd_tune.config import TrainingConfig
from pkd_tune.distillation.loop import evaluation_steps
from pkd_tune.tuning.plan import StudyKey, TrialId
from pkd_tune.tuning.sampling import WARM_UP_TRIALS, rung_at
from pkd_tune.tuning.space import Choice, Parameters, Settings, distribution
from pkd_tune.tuning.trial_tables import counts, trial_rows

DISTRIBUTIONS = {name: found for name, each in FLAT.items() if (found := distribution(each)) is not None}


def test_all_but_the_best_third_are_stopped_at_a_rung_but_none_of_the_first_few(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(2, 10))
    for score in (80.0, 60.0, 70.0, 50.0)[:WARM_UP_TRIALS]:
        first, _ = ask(studies)
        assert report(studies, first, score, score) == [False, False]
        studies.complete(first)
    weak, good = ask(studies)[0], ask(studies)[0]
    assert report(studies, weak, 61.0) == [True]
    studies.stop(weak)
    assert report(studies, good, 75.0, 10.0) == [False, False]  # the second of six; evaluation 2 is no rung
    row = trial_rows(studies)[4]
    assert (row["state"], row["score"], row["evaluations"]) == ("stopped early", 61.0, 1)
    assert "best third" in row["error"]
    assert counts(studies) == {"done": 4, "stopped": 1, "failed": 0, "running": 1}


def test_a_trial_that_left_the_most_frequent_class_is_ahead_of_those_that_did_not(tmp_path: Path) -> None:
    """Though its score is lower: its first predictions of the other class are often wrong."""
    studies = opened(tmp_path, plan(2, 12))

    def half_an_epoch(score: float, *, degenerate: bool) -> bool:
        return studies.report(ask(studies)[0], 1, score, seen(0.5, score, degenerate=degenerate))

    for _ in range(WARM_UP_TRIALS):
        assert not half_an_epoch(68.0, degenerate=True)
    assert not half_an_epoch(66.0, degenerate=False)
    assert not half_an_epoch(65.0, degenerate=False)  # the second of six, of which two go on
    assert half_an_epoch(64.0, degenerate=False)  # the third of seven
    assert half_an_epoch(68.0, degenerate=True)  # the fourth of eight, behind all that learnt
    assert not half_an_epoch(64.5, degenerate=False)  # the third of nine
    assert half_an_epoch(63.0, degenerate=False)


def test_rungs_survive_a_restart(tmp_path: Path) -> None:
    before = opened(tmp_path, plan(2, 10))
    for score in (80.0, 60.0, 70.0, 50.0):
        finish(before, ask(before)[0], score, score)
    after = opened(tmp_path, plan(2, 10))
    assert report(after, ask(after)[0], 61.0) == [True]


def stops(history: list[tuple[int, int, float]], trial: int, rung: float, score: float) -> bool:
    """Returns whether a trial is stopped at a rung, from all (trial, evaluation, score) before, two an epoch."""
    there = [s for t, e, s in history if e / 2 == rung and t != trial and BUDGETS[t % 3] > rung] + [score]
    better = sum(s > score for s in there)
    return len(there) > WARM_UP_TRIALS and better >= max(1, len(there) // 3)


BUDGETS = (2, 4, 8)


@pytest.mark.parametrize("seed", range(4))
def test_trials_of_different_budgets_are_compared_at_the_same_epoch(tmp_path: Path, seed: int) -> None:
    """Against a replay in which four trials of 2, 4 and 8 epochs run at once and report in any order.

    A rung at which a trial's budget ends is none for it, and its score there is compared with none.
    """
    draws = random.Random(seed)
    parameters: Parameters = {**PARAMETERS, "epochs": Choice(BUDGETS)}
    studies = opened(tmp_path, plan(2, 18, parameters=parameters), sampler="random")
    history: list[tuple[int, int, float]] = []
    running: dict[TrialId, int] = {}
    stopped = 0
    for _ in range(1000):
        if len(running) < 4 and (asked := studies.ask()) is not None:
            running[asked[0]] = 0
        if not running:
            break
        trial_id = draws.choice(list(running))
        running[trial_id] += 1
        evaluation, budget, score = running[trial_id], BUDGETS[trial_id.number % 3], draws.uniform(60, 90)
        last = evaluation == 2 * budget
        stop = studies.report(trial_id, evaluation, score, seen(evaluation / 2, score), last=last)
        at_a_rung = evaluation / 2 in (0.5, 1.5, 4.5) and not last
        assert stop == (at_a_rung and stops(history, trial_id.number, evaluation / 2, score))
        history.append((trial_id.number, evaluation, score))
        if stop or last:
            (studies.stop if stop else studies.complete)(trial_id)
            stopped += stop
            del running[trial_id]
    assert stopped >= 4
    assert studies.unfinished() == 0


def test_rungs_that_one_evaluation_passes_count_as_the_last_of_them() -> None:
    passed = ((0.5, 0), (1, 0.5), (1.5, 1), (2, 1.5), (1, 0), (5, 0))
    assert [rung_at(epoch, before, 0.5) for epoch, before in passed] == [0.5, None, 1.5, None, 0.5, 4.5]
    assert rung_at(2 / 3, 1 / 3, 1 / 3) is None
    assert rung_at(1, 2 / 3, 1 / 3) == pytest.approx(1)


@pytest.mark.parametrize("early_stopping", [True, False])
def test_a_trial_of_one_class_is_stopped_once_another_was_better_by_then(tmp_path: Path, early_stopping: bool) -> None:
    studies = opened(tmp_path, plan(2, 4), early_stopping=early_stopping)

    def constant(trial_id: TrialId) -> list[bool]:
        return [studies.report(trial_id, i, 68.0, seen(i / 2, 68.0, degenerate=True)) for i in (1, 2, 3, 4)]

    first, _ = ask(studies)
    assert constant(first) == [False] * 4  # nobody has shown that more can be learnt
    studies.complete(first)
    finish(studies, ask(studies)[0], 68.0, 70.0, 71.0, 70.0)
    again, _ = ask(studies)
    expected = [False, False, True, False] if early_stopping else [False] * 4  # half an epoch proves nothing
    assert constant(again) == expected


def test_of_trials_that_all_fall_back_to_one_class_the_last_one_is_not_stopped(tmp_path: Path) -> None:
    """As on a tiny task, where no student of a depth may learn anything: the depth has its winner all the same."""
    studies = opened(tmp_path, plan(2, 2))
    running = [ask(studies)[0], ask(studies)[0]]
    for step, classes in enumerate(((2, 2), (2, 2), (2, 1), *[(1,)] * 6), start=1):
        for trial_id, number in zip(list(running), classes, strict=True):
            if studies.report(trial_id, step, 68.0, seen(step / 2, 68.0, degenerate=number == 1)):
                studies.stop(trial_id)
                running.remove(trial_id)
    (left,) = running
    studies.complete(left)
    assert [row["state"] for row in trial_rows(studies)] == ["complete", "stopped early"]


def test_only_a_trial_that_goes_on_and_did_better_there_shows_that_more_can_be_learnt(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(2, 3))
    first, second, third = (ask(studies)[0] for _ in range(3))

    def at_3(trial_id: TrialId, *, degenerate: bool) -> bool:
        return studies.report(trial_id, 3, 68.0, seen(1.5, 68.0, degenerate=degenerate))

    assert not at_3(first, degenerate=True)
    assert not at_3(second, degenerate=False)
    studies.stop(second)
    assert not at_3(third, degenerate=True)


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_no_setting_is_tried_twice_and_a_finite_space_is_tried_whole(tmp_path: Path, sampler: Any) -> None:
    studies = opened(tmp_path, plan(1, 6, parameters=FLAT), sampler=sampler, early_stopping=False)
    tried = [tuple(settings.items()) for _, settings, _ in run_all(studies)]
    assert len(tried) == len(set(tried)) == 6
    assert len(trial_rows(studies)) == 6


@pytest.mark.parametrize("sampler", ["tpe", "random", "grid"])
def test_what_another_run_tried_is_tried_here_too_and_shown_once(tmp_path: Path, sampler: Any) -> None:
    known = [
        optuna.trial.create_trial(
            params=settings, distributions=DISTRIBUTIONS, value=70.0, user_attrs={"number": number}
        )
        for number, settings in enumerate(({"alpha": 0.2, "temperature": 5}, {"alpha": 0.5, "temperature": 5}))
    ]
    first = opened(tmp_path, plan(1, 6, parameters=FLAT), sampler=sampler, early_stopping=False)
    assert first.warm_start(StudyKey(1, "pkd"), "run", known[:1]) == 1
    studies = opened(tmp_path, plan(1, 6, parameters=FLAT), sampler=sampler, early_stopping=False)
    assert studies.warm_start(StudyKey(1, "pkd"), "run", known) == 1  # the process before was killed after the first
    assert studies.warm_start(StudyKey(1, "pkd"), "run", known) == 0
    tried = [tuple(settings.items()) for _, settings, _ in run_all(studies)]
    assert len(tried) == len(set(tried)) == 6


def test_known_settings_come_first(tmp_path: Path) -> None:
    first: tuple[Settings, ...] = ({"alpha": 0.5, "temperature": 10}, {"alpha": 0.7, "temperature": 10})
    studies = opened(tmp_path, plan(1, 3, first=first))
    asked = [ask(studies)[1] for _ in range(3)]
    assert asked[:2] == list(first)
    assert asked[2] not in first


def test_known_settings_come_although_a_process_was_killed_between_them(tmp_path: Path) -> None:
    first: tuple[Settings, ...] = ({"alpha": 0.5, "temperature": 10}, {"alpha": 0.7, "temperature": 10})
    opened(tmp_path, plan(1, 3, first=first[:1]))
    studies = opened(tmp_path, plan(1, 3, first=first))
    assert [ask(studies)[1] for _ in range(2)] == list(first)
    again = opened(tmp_path, plan(1, 4, first=first))
    assert [ask(again)[1] for _ in range(2)] == list(first)  # left running, and not queued once more
    assert ask(again)[1] not in first


def test_trials_of_other_batch_sizes_meet_at_a_rung(tmp_path: Path) -> None:
    """Their first evaluations after an epoch's half are at other fractions of an epoch."""
    studies = opened(tmp_path, plan(1, 4))
    learnt, constant = ask(studies)[0], ask(studies)[0]
    for step, epoch in enumerate((58 / 115, 1.0, 1 + 58 / 115), start=1):
        assert not studies.report(learnt, step, 70.0, seen(epoch, 70.0))
    for step, epoch in enumerate((39 / 77, 1.0, 1 + 39 / 77), start=1):
        stop = studies.report(constant, step, 68.0, seen(epoch, 68.0, degenerate=True))
    assert stop
    assert trial_rows(studies)[1]["error"] == "predicts the same for every example at epoch 1.5"


@pytest.mark.parametrize("steps", [1, 2, 3, 77, 113, 115, 313, 2105])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 5])
def test_every_rung_has_an_evaluation_at_most_a_step_after_it(steps: int, evaluations: int) -> None:
    """As of MRPC (115 steps) and SST-2 (2,105), whose halves are no whole number of steps."""
    config = TrainingConfig(epochs=4, evaluations_per_epoch=evaluations)
    at = [0.0, *(step / steps for step in evaluation_steps(config, steps))]
    rungs = {
        rung: epoch
        for before, epoch in itertools.pairwise(at)
        if (rung := rung_at(epoch, before, 1 / evaluations)) is not None
    }
    assert all(rung <= epoch + 1e-9 < rung + 1 / steps + 1e-6 for rung, epoch in rungs.items())
    thirds = {round(3**i / evaluations, 6) for i in range(10) if 3**i <= 4 * evaluations}
    passed = {round(rung, 6) for rung in rungs}
    assert passed == (thirds if evaluations <= steps else passed & thirds)
    assert at[-1] == 4
