from pathlib import Path
from typing import Any

import pytest

from pkd_tune.tuning.space import Choice, Float, Parameter
from pkd_tune.tuning.study import Assignment, Studies

PARAMETERS: dict[str, Parameter] = {"alpha": Float(0.2, 0.9, log=False), "temperature": Choice((10,))}


def opened(tmp_path: Path, trials: int = 8, depths: tuple[int, ...] = (1, 2)) -> Studies:
    return Studies(tmp_path / "study.log", depths, trials, PARAMETERS, seed=0)


def finish(studies: Studies, assignment: Assignment, *scores: float) -> None:
    for step, score in enumerate(scores, start=1):
        studies.report(assignment, step, score, {"metrics": {"f1": score, "score": score}, "epoch": step / 2})
    studies.complete(assignment)


def ask(studies: Studies) -> tuple[Assignment, dict[str, Any]]:
    asked = studies.ask()
    assert asked is not None
    return asked


def test_depths_take_turns_until_both_have_their_quota(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=5)
    assert studies.quota == {1: 3, 2: 2}
    asked = [ask(studies) for _ in range(5)]
    assert [assignment.depth for assignment, _ in asked] == [1, 2, 1, 2, 1]
    assert len({assignment for assignment, _ in asked}) == 5
    assert all(set(parameters) == {"alpha", "temperature"} for _, parameters in asked)
    assert studies.ask() is None


def test_the_best_trial_is_judged_by_its_best_evaluation(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=3, depths=(2,))
    for scores in ((70.0, 71.0), (60.0, 80.0, 65.0), (79.0, 79.5)):
        assignment, _ = ask(studies)
        finish(studies, assignment, *scores)
    best = studies.best(2)
    assert best is not None
    assert (best.number, best.value) == (1, 80.0)
    assert best.user_attrs == {"metrics": {"f1": 80.0, "score": 80.0}, "epoch": 1.0}
    assert studies.outdone(2) == [Assignment(2, 2), Assignment(2, 0)]
    assert studies.settings(best) == {"alpha": best.params["alpha"], "temperature": 10}


def test_a_trial_below_the_median_is_stopped_and_says_so(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=4, depths=(2,))
    for _ in range(2):
        first, _ = ask(studies)
        assert not studies.report(first, 1, 70.0, {})  # nothing to compare with yet
        finish(studies, first, 70.0, 80.0)
    weak, _ = ask(studies)
    assert studies.report(weak, 1, 60.0, {"metrics": {"f1": 60.0}})
    studies.stop(weak)
    good, _ = ask(studies)
    assert not studies.report(good, 1, 75.0, {})
    finish(studies, good, 75.0, 76.0)
    assert studies.counts() == {"done": 3, "stopped": 1, "failed": 0, "running": 0}
    row = studies.rows()[2]
    assert (row["state"], row["score"], row["f1"], row["evaluations"]) == ("stopped early", 60.0, 60.0, 1)


def test_depths_are_judged_apart(tmp_path: Path) -> None:
    """A shallow trial is not stopped for scoring below the deep ones."""
    studies = opened(tmp_path, trials=6)
    for _ in range(2):
        for score in (60.0, 90.0):
            assignment, _ = ask(studies)
            finish(studies, assignment, score if assignment.depth == 1 else 90.0)
    shallow, _ = ask(studies)
    assert shallow.depth == 1
    assert not studies.report(shallow, 1, 61.0, {})


def test_a_failed_trial_keeps_its_reason_and_uses_its_quota(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=1, depths=(1,))
    assignment, _ = ask(studies)
    studies.fail(assignment, "the loss was not finite at step 3 of 9")
    assert studies.ask() is None
    assert studies.best(1) is None
    (row,) = studies.rows()
    assert (row["state"], row["error"]) == ("failed", "the loss was not finite at step 3 of 9")
    assert row["score"] is None


def test_what_a_dead_driver_left_running_is_run_again_once(tmp_path: Path) -> None:
    dead = opened(tmp_path, trials=3, depths=(1,))
    first, _ = ask(dead)
    finish(dead, first, 70.0)
    second, parameters = ask(dead)
    dead.report(second, 1, 65.0, {})

    studies = opened(tmp_path, trials=3, depths=(1,))
    assert studies.counts() == {"done": 1, "stopped": 0, "failed": 0, "running": 0}
    again, same = ask(studies)
    assert again.number == 2
    assert same == parameters
    finish(studies, again, 66.0)
    last, fresh = ask(studies)
    assert fresh != parameters
    finish(studies, last, 64.0)
    assert studies.ask() is None
    assert [row["state"] for row in studies.rows()] == ["complete", "interrupted", "complete", "complete"]

    # Opened once more, nothing is left to repeat; a larger total adds trials with settings of their own.
    more = opened(tmp_path, trials=4, depths=(1,))
    added, parameters = ask(more)
    assert added.number == 4
    assert all(row["alpha"] != pytest.approx(parameters["alpha"]) for row in more.rows()[:-1])
    assert more.ask() is None


def test_a_torn_last_line_and_a_left_lock_cost_nothing_but_that_line(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=3, depths=(1,))
    first, _ = ask(studies)
    finish(studies, first, 70.0)
    journal = tmp_path / "study.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "study')
    (tmp_path / "study.log.lock").symlink_to(journal)
    again = opened(tmp_path, trials=3, depths=(1,))
    best = again.best(1)
    assert best is not None
    assert best.value == 70.0
    assert journal.read_bytes().startswith(whole)
    assert not (tmp_path / "study.log.lock").is_symlink()


def test_settings_survive_a_death_before_the_repeated_trial_was_read(tmp_path: Path) -> None:
    dead = opened(tmp_path, trials=1, depths=(1,))
    _, parameters = ask(dead)
    dead_again = opened(tmp_path, trials=1, depths=(1,))
    dead_again._studies[1].ask()  # the repeated trial is taken, and the process dies before it is given its values
    studies = opened(tmp_path, trials=1, depths=(1,))
    assert ask(studies)[1] == parameters


def test_a_death_between_queueing_and_ending_repeats_a_trial_once(tmp_path: Path) -> None:
    dead = opened(tmp_path, trials=2, depths=(1,))
    first, parameters = ask(dead)
    dead._studies[1].enqueue_trial({"alpha": parameters["alpha"]}, user_attrs={"resumes": first.number})
    studies = opened(tmp_path, trials=2, depths=(1,))
    assert ask(studies)[1] == parameters
    assert ask(studies)[1] != parameters
    assert studies.ask() is None


def test_what_has_not_ended_is_counted(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=3, depths=(1,))
    assert (studies.remaining(), studies.unfinished()) == (3, 3)
    assignment, _ = ask(studies)
    assert (studies.remaining(), studies.unfinished()) == (2, 3)
    finish(studies, assignment, 70.0)
    assert (studies.remaining(), studies.unfinished()) == (2, 2)
    assert opened(tmp_path, trials=1, depths=(1,)).remaining() == 0


def test_the_second_trial_is_never_stopped_early(tmp_path: Path) -> None:
    studies = opened(tmp_path, trials=2, depths=(1,))
    first, _ = ask(studies)
    finish(studies, first, 90.0, 90.0)
    second, _ = ask(studies)
    assert not studies.report(second, 1, 10.0, {})
