"""What searcher and scheduler tell Ray and the studies; Ray itself is in test_runner.py."""

import errno
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from optuna.storages.journal import JournalFileBackend
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.ray_bridge import StudyScheduler, StudySearcher
from pkd_tune.tuning.sampling import WARM_UP_TRIALS
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial_tables import trial_rows


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    quota = WARM_UP_TRIALS + 2
    plan = StudyPlan(study_key=StudyKey(2, "pkd"), quota=quota, parameters={"alpha": Float(0.2, 0.9, log=False)})
    return Studies(tmp_path / "study.log", [plan])


def result(evaluation: int, score: float, of: int = 2) -> dict[str, Any]:
    metrics = {"f1": score, "score": score}
    details = {"metrics": metrics, "epoch": evaluation / 2, "degenerate": False}
    of_ray = {"node_ip": "10.0.0.7"}
    return {**of_ray, "evaluation": evaluation, "evaluations": of, "score": score, "details": json.dumps(details)}


def test_a_trial_that_is_not_in_the_best_third_is_stopped_but_never_at_its_end(studies: Studies) -> None:
    searcher, scheduler = StudySearcher(studies), StudyScheduler(studies)

    def run(name: str, *scores: float) -> list[str]:
        config = searcher.suggest(name)
        assert isinstance(config, dict)
        trial: Any = SimpleNamespace(config=config)
        results = [result(i, score) for i, score in enumerate(scores, start=1)]
        decisions = [scheduler.on_trial_result(None, trial, each) for each in results]
        finished = {"finished": "null"} if len(scores) == 2 else {}
        searcher.on_trial_complete(name, {**results[-1], **finished})
        return decisions

    go_on, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    for i in range(WARM_UP_TRIALS):
        assert run(f"a{i}", 70.0 + i, 80.0 - i) == [go_on, go_on]
    assert run("b", 75.0, 60.0) == [go_on, go_on]  # the worst at its end
    assert run("c", 50.0) == [stop]
    assert searcher.suggest("d") == Searcher.FINISHED
    states = [(row["state"], row["error"]) for row in trial_rows(studies)]
    complete = [("complete", None)] * (WARM_UP_TRIALS + 1)
    assert states == [*complete, ("stopped early", "not in the best third at epoch 0.5")]
    assert trial_rows(studies)[0]["f1"] == 80.0


def test_a_trial_whose_end_could_not_be_recorded_ends_once_more(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a disk that was full for a moment: Ray counts the error as the trial's, and runs it again."""
    searcher = StudySearcher(studies)
    searcher.suggest("a")
    append = JournalFileBackend.append_logs

    def full(*arguments: Any) -> None:
        monkeypatch.setattr(JournalFileBackend, "append_logs", append)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JournalFileBackend, "append_logs", full)
    with pytest.raises(OSError, match="No space left"):
        searcher.on_trial_complete("a", {"failure": "diverged"})
    searcher.on_trial_complete("a", {"failure": "diverged"})
    assert [(row["state"], row["error"]) for row in trial_rows(studies)] == [("failed", "diverged")]
    assert studies.idle()


def test_ray_is_told_to_wait_while_a_running_trial_may_bring_more(tmp_path: Path) -> None:
    plan = StudyPlan(study_key=StudyKey(2, "pkd"), quota=1, parameters={"alpha": Float(0.2, 0.9, log=False)})
    studies = Studies(tmp_path / "study.log", [plan], seeds=(5,))
    searcher, scheduler = StudySearcher(studies), StudyScheduler(studies)
    config = searcher.suggest("a")
    assert isinstance(config, dict)
    assert (config["stage"], config["seed"]) == ("search", None)
    assert searcher.suggest("b") is None
    scheduler.on_trial_result(None, SimpleNamespace(config=config), result(1, 70.0, of=1))
    searcher.on_trial_complete("a", {**result(1, 70.0, of=1), "finished": "null"})
    confirmation = searcher.suggest("b")
    assert isinstance(confirmation, dict)
    assert (confirmation["stage"], confirmation["seed"], confirmation["settings"]) == ("confirm", 5, config["settings"])


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (None, "ended without a score"),
        ({"training_iteration": 0}, "ended without a score"),
        ({"evaluation": 2, "failure": "the loss was not finite"}, "the loss was not finite"),
    ],
)
def test_a_trial_without_a_result_has_failed(studies: Studies, last: dict[str, Any] | None, reason: str) -> None:
    searcher = StudySearcher(studies)
    searcher.suggest("a")
    searcher.on_trial_complete("a", last)
    (row,) = trial_rows(studies)
    assert (row["state"], row["error"]) == ("failed", reason)
