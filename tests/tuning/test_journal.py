"""The journal file: what a killed process leaves in it, and which trials of other runs inform a search."""

import json
from pathlib import Path

import pytest
from studies import PARAMETERS, ask, finish, opened, plan, run_all

from pkd_tune.config import UserError
from pkd_tune.tuning.journal import finished_trials
from pkd_tune.tuning.plan import StudyKey
from pkd_tune.tuning.space import Choice, Condition, Float


def test_half_a_line_of_a_killed_process_is_removed_and_no_lock_is_needed(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 3))
    finish(studies, ask(studies)[0], 70.0)
    journal = tmp_path / "study.log"
    whole = journal.read_bytes()
    journal.write_bytes(whole + b'{"op_code": 4, "study')
    (tmp_path / "study.log.lock").symlink_to(journal)
    best = opened(tmp_path, plan(1, 3)).best(StudyKey(1, "pkd"))
    assert best is not None
    assert best.value == 70.0
    assert journal.read_bytes().startswith(whole)


def test_a_line_that_is_gone_or_changed_is_named(tmp_path: Path) -> None:
    studies = opened(tmp_path, plan(1, 3))
    for score in (70.0, 80.0):
        finish(studies, ask(studies)[0], score)
    journal = tmp_path / "study.log"
    lines = journal.read_bytes().splitlines(keepends=True)
    assert len(lines) > 8
    for i in range(len(lines) - 1):
        for damaged, at in ((lines[:i] + lines[i + 1 :], i + 1), ([*lines[:i], b"\xff{\n", *lines[i + 1 :]], i + 1)):
            journal.write_bytes(b"".join(damaged))
            with pytest.raises(
                UserError, match=rf"study\.log is damaged \(line {at}: .*; restore it, or start another"
            ):
                opened(tmp_path, plan(1, 3))


@pytest.fixture
def other_run(tmp_path: Path) -> Path:
    """Returns the folder of a run of RTE: two complete trials at depth 1, and one that was stopped."""
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"search": {"data": {"task": {"name": "RTE"}}}}))
    studies = opened(folder, plan(1, 3))
    for _ in range(2):
        finish(studies, ask(studies)[0], 70.0)
    studies.stop(ask(studies)[0])
    return folder


def test_complete_trials_of_another_run_inform_the_same_study(other_run: Path) -> None:
    found = finished_trials(other_run, "RTE", [plan(1, 4), plan(2, 4)])
    assert found.keys() == {StudyKey(1, "pkd")}
    (trials,) = found.values()
    assert [trial.value for trial in trials] == [70.0, 70.0]
    assert all(trial.params.keys() == {"alpha"} for trial in trials)


def test_trials_outside_the_space_inform_nothing(other_run: Path) -> None:
    elsewhere, more = Float(0.95, 1.0, log=False), Choice((1, 2))
    for parameters in ({**PARAMETERS, "alpha": elsewhere}, {**PARAMETERS, "beta": more}):
        with pytest.raises(UserError, match=r"no complete trial of it lies inside this space \(for 1-layer-pkd\)"):
            finished_trials(other_run, "RTE", [plan(1, 4, parameters=parameters)])


def test_what_another_run_was_informed_by_informs_nobody_else(other_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "third"
    folder.mkdir()
    (folder / "run.json").write_text((other_run / "run.json").read_text())
    studies = opened(folder, plan(1, 4))
    studies.warm_start(StudyKey(1, "pkd"), "other", finished_trials(other_run, "RTE", [plan(1, 4)])[StudyKey(1, "pkd")])
    with pytest.raises(UserError, match="no complete trial"):
        finished_trials(folder, "RTE", [plan(1, 4)])


def test_what_is_no_run_of_the_task_is_refused(other_run: Path, tmp_path: Path) -> None:
    for damage in ("no JSON", "[]", "{}", '{"search": []}'):
        (tmp_path / "run.json").write_text(damage)
        with pytest.raises(UserError, match="not a run folder; give one like results/RTE/"):
            finished_trials(tmp_path, "RTE", [plan(1, 4)])
    with pytest.raises(UserError, match="is a run of RTE; give one of MRPC"):
        finished_trials(other_run, "MRPC", [plan(1, 4)])
    (other_run / "study.log").unlink()
    with pytest.raises(UserError, match=r"has no study\.log"):
        finished_trials(other_run, "RTE", [plan(1, 4)])


def test_trials_without_a_conditional_value_inform_too(tmp_path: Path) -> None:
    """Those of one branch have no beta, and the sampler is to hear of both."""
    beta = Float(1.0, 1000.0, log=True, when=Condition((("strategy", "skip"),), 10.0))
    space = {**PARAMETERS, "strategy": Choice(("skip", "last")), "beta": beta}
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"search": {"data": {"task": {"name": "RTE"}}}}))
    studies = opened(folder, plan(1, 12, parameters=space))
    run_all(studies)
    (trials,) = finished_trials(folder, "RTE", [plan(1, 12, parameters=space)]).values()
    assert len(trials) == 12
    assert {tuple(sorted(trial.params)) for trial in trials} == {("alpha", "strategy"), ("alpha", "beta", "strategy")}
    again = opened(tmp_path, plan(1, 13, parameters=space))
    # A run that was continued later: what had not ended lies between those that were added before.
    assert again.warm_start(StudyKey(1, "pkd"), "other", trials[:5] + trials[6:9]) == 8
    assert again.warm_start(StudyKey(1, "pkd"), "other", trials) == 4
    assert again.warm_start(StudyKey(1, "pkd"), "other", trials) == 0
    assert again.warm_start(StudyKey(1, "pkd"), "another", trials) == 12
    ask(again)
