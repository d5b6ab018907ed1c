"""The simulated clock: what slots cost, when a search has which choice."""

import random

import pytest
from recordings import recording, table

from pkd_tune.benchmark.simulation import Choice, Job, Policy, Seen, simulate

NO_JITTER = random.Random()
NO_JITTER.uniform = lambda low, high: 1.0  # type: ignore[method-assign]


def queue(*jobs: Job, stop_at: int = 99) -> tuple[Policy, list[tuple[int, int]]]:
    """Returns a policy that runs jobs in turn, and the ends that it was told: trial and evaluation."""
    left, ended = list(jobs), list[tuple[int, int]]()
    policy = Policy(
        ask=lambda: left.pop(0) if left else None,
        report=lambda job, seen: seen.evaluation == stop_at,
        end=lambda job, seen: ended.append((job.trial, seen.evaluation)),
    )
    return policy, ended


THREE = table(recording(60, 70, x=1), recording(80, 65, x=2), recording(50, 85, x=3))


def test_one_slot_runs_trials_in_turn_and_chooses_among_whole_trainings() -> None:
    policy, ended = queue(Job(0, 0), Job(1, 1), Job(2, 2))
    choices = simulate(THREE, 0, policy, 1, 99, NO_JITTER)
    # A whole training counts with its best evaluation; before there is one, the best evaluation counts.
    assert choices == [Choice(0.5, 0), Choice(1.0, 0), Choice(2.0, 1), Choice(3.0, 2)]
    assert ended == [(0, 2), (1, 2), (2, 2)]


def test_slots_share_the_clock_and_spend_together() -> None:
    policy, _ = queue(Job(0, 0), Job(1, 1), Job(2, 2))
    choices = simulate(THREE, 0, policy, 2, 99, NO_JITTER)
    # After half an epoch in each slot one epoch was spent; the third trial begins when both have ended.
    assert choices == [Choice(1.0, 0), Choice(1.0, 1), Choice(2.0, 0), Choice(2.0, 1), Choice(3.0, 2)]


def test_a_stopped_trial_frees_its_slot_and_is_no_whole_training() -> None:
    policy, ended = queue(Job(0, 1), Job(1, 0), stop_at=1)
    assert simulate(THREE, 0, policy, 1, 99, NO_JITTER) == [Choice(0.5, 1)]
    assert ended == [(0, 1), (1, 1)]


def test_a_trial_that_continues_pays_only_for_the_rest() -> None:
    policy, ended = queue(Job(0, 2, 0, 1), Job(0, 2, 1, 2))
    assert simulate(THREE, 0, policy, 1, 99, NO_JITTER) == [Choice(0.5, 2), Choice(1.0, 2)]
    assert ended == [(0, 1), (0, 2)]


def test_a_search_ends_with_its_budget() -> None:
    policy, _ = queue(Job(0, 0), Job(1, 1), Job(2, 2))
    assert simulate(THREE, 0, policy, 1, 2.0, NO_JITTER)[-1] == Choice(2.0, 1)


def test_the_policy_is_told_the_scores_of_one_seed() -> None:
    told: list[Seen] = []

    def report(job: Job, seen: Seen) -> bool:
        told.append(seen)
        return False

    jobs = [Job(0, 0)]
    policy = Policy(ask=lambda: jobs.pop() if jobs else None, report=report, end=lambda job, seen: None)
    simulate(table(recording(60, 70, other=75, x=1)), 1, policy, 1, 99, NO_JITTER)
    assert [(seen.evaluation, seen.score, seen.epoch, seen.last) for seen in told] == [
        (1, 60, 0.5, False),
        (2, 75, 1.0, True),
    ]


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_no_more_is_spent_than_trained(slots: int) -> None:
    policy, ended = queue(*(Job(i, i % 3) for i in range(30)))
    choices = simulate(THREE, 0, policy, slots, 99, random.Random(0))
    assert len(ended) == 30
    assert choices[-1].epochs <= 30
