"""Simulated searches: which trials fit into a budget, which recording is chosen, and several budgets at once."""

import os
import random

import pytest
from recordings import recording, table

from pkd_tune.benchmark.simulation import Job, Policy, Seen, simulate


class NoJitter(random.Random):
    """Lets all epochs take the same time."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


NO_JITTER = NoJitter()


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
    assert simulate(THREE, 0, policy, 1, [99], NO_JITTER) == [{2: 2}]
    assert ended == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_no_trial_begins_that_does_not_fit(slots: int) -> None:
    policy, ended = queue(Job(0, 0), Job(1, 1), Job(2, 2))
    assert simulate(THREE, 0, policy, slots, [2.0], NO_JITTER) == [{2: 1}]  # by its best evaluation, 80, not its last
    assert ended == [(0, 2), (1, 2)]
    with pytest.raises(ValueError, match=r"0\.9 epochs are too few for a trial"):
        simulate(THREE, 0, queue(Job(0, 0))[0], slots, [0.9], NO_JITTER)


def test_slots_work_side_by_side() -> None:
    policy, ended = queue(Job(0, 0), Job(1, 1, 0, 1), Job(2, 2))
    simulate(THREE, 0, policy, 2, [99], NO_JITTER)
    assert ended == [(1, 1), (0, 2), (2, 2)]


def test_a_stopped_trial_leaves_its_epochs_to_others_and_is_no_whole_training() -> None:
    policy, ended = queue(Job(0, 1), Job(1, 0), Job(2, 2), stop_at=1)
    assert simulate(THREE, 0, policy, 1, [1.5], NO_JITTER) == [{2: 1}]
    assert ended == [(0, 1), (1, 1)]  # half an epoch is left, and the third might need a whole one


def test_a_whole_training_is_preferred_to_a_better_part_of_one() -> None:
    assert simulate(THREE, 0, queue(Job(0, 1, 0, 1), Job(1, 0))[0], 1, [99], NO_JITTER) == [{2: 0}]


def test_a_trial_that_continues_pays_only_for_the_rest() -> None:
    policy, ended = queue(Job(0, 2, 0, 1), Job(0, 2, 1, 2))
    assert simulate(THREE, 0, policy, 1, [1.0], NO_JITTER) == [{2: 2}]
    assert ended == [(0, 1), (0, 2)]


def test_the_policy_is_told_the_scores_of_one_seed() -> None:
    told: list[Seen] = []

    def report(job: Job, seen: Seen) -> bool:
        told.append(seen)
        return False

    jobs = [Job(0, 0)]
    policy = Policy(ask=lambda: jobs.pop() if jobs else None, report=report, end=lambda job, seen: None)
    simulate(table(recording(60, 70, other=75, x=1)), 1, policy, 1, [99], NO_JITTER)
    assert [(seen.evaluation, seen.score, seen.epoch, seen.last) for seen in told] == [
        (1, 60, 0.5, False),
        (2, 75, 1.0, True),
    ]


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_a_policy_without_more_trials_ends_before_its_budget(slots: int) -> None:
    policy, ended = queue(*(Job(i, i % 3) for i in range(30)))
    assert simulate(THREE, 0, policy, slots, [99], random.Random(0)) == [{2: 2}]
    assert len(ended) == 30


@pytest.mark.parametrize("slots", [1, 3, 8])
def test_searches_with_several_budgets_choose_what_each_would_alone(slots: int) -> None:
    """A trial with a good first evaluation goes on, so that what fits depends on what the policy has seen."""
    jobs = [Job(i, i % 3) for i in range(30)]

    def policy() -> Policy:
        left, seen_scores = [*jobs], list[float]()

        def report(job: Job, seen: Seen) -> bool:
            seen_scores.append(seen.score)
            return seen.score < max(seen_scores) - 15

        return Policy(ask=lambda: left.pop(0) if left else None, report=report, end=lambda job, seen: None)

    budgets = [7.5, 1.0, 2.0, 2.0, 3.5, 99.0]
    alone = [simulate(THREE, 0, policy(), slots, [budget], random.Random(3))[0] for budget in budgets]
    assert simulate(THREE, 0, policy(), slots, budgets, random.Random(3)) == alone
    assert len({choice[2] for choice in alone}) > 1
    with pytest.raises(ValueError, match=r"^0\.3 epochs are too few"):
        simulate(THREE, 0, policy(), slots, [2.0, 0.3], NO_JITTER)


def test_what_fails_with_a_smaller_budget_fails_as_a_whole(capfd: pytest.CaptureFixture[str]) -> None:
    mother = os.getpid()

    def end(job: Job, seen: Seen) -> None:
        if os.getpid() != mother:
            raise ZeroDivisionError("in the copy")

    policy = Policy(ask=queue(Job(0, 0), Job(1, 1))[0].ask, report=lambda job, seen: False, end=end)
    with pytest.raises(RuntimeError, match="failed in a copy"):
        simulate(THREE, 0, policy, 2, [1.0, 2.0], NO_JITTER)
    assert "ZeroDivisionError: in the copy" in capfd.readouterr().err


def test_a_search_of_several_depths_chooses_at_each() -> None:
    several = table(recording(60, 70, depth=2), recording(80, 65, depth=3), recording(50, 85, depth=2))
    jobs = [Job(0, 0), Job(1, 1), Job(2, 2)]
    chosen = simulate(several, 0, queue(*jobs)[0], 1, [2.0, 99.0], NO_JITTER)
    assert chosen == [{2: 0, 3: 1}, {2: 2, 3: 1}]
    with pytest.raises(ValueError, match="1 epochs are too few for a trial of made-up-2 at each depth"):
        simulate(several, 0, queue(*jobs)[0], 1, [1.0], NO_JITTER)


def test_a_score_lets_a_policy_that_waits_for_it_fill_the_free_slots() -> None:
    """As a study with `max_pending` does: the second trial begins with the first one's score, not with its end."""
    told: list[tuple[int, int]] = []
    left = [Job(0, 0), Job(1, 1)]

    def report(job: Job, seen: Seen) -> bool:
        told.append((job.trial, seen.evaluation))
        return False

    policy = Policy(
        ask=lambda: left.pop(0) if len(left) == 2 or (left and told) else None,
        report=report,
        end=lambda job, seen: None,
    )
    simulate(THREE, 0, policy, 2, [99], NO_JITTER)
    assert told == [(0, 1), (0, 2), (1, 1), (1, 2)]
    slow = table(recording(60, 70, 71, x=1), recording(80, 65, 66, x=2))
    told.clear()
    left[:] = [Job(0, 0), Job(1, 1)]
    simulate(slow, 0, policy, 2, [99], NO_JITTER)
    assert told == [(0, 1), (0, 2), (1, 1), (0, 3), (1, 2), (1, 3)]
