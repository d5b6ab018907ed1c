"""What searcher and scheduler tell Ray and the studies; Ray itself is in test_engine.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from pkd_tune.tuning.scheduler import StudyScheduler
from pkd_tune.tuning.searcher import StudySearcher
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.study import Studies


@pytest.fixture
def studies(tmp_path: Path) -> Studies:
    return Studies(tmp_path / "study.log", (2,), 3, {"alpha": Float(0.2, 0.9, log=False)}, seed=0)


def result(evaluation: int, score: float, of: int = 2) -> dict[str, Any]:
    return {"evaluation": evaluation, "evaluations": of, "epoch": evaluation / 2, "score": score, "metrics/f1": score}


def test_a_trial_below_the_median_is_stopped_but_never_at_its_end(studies: Studies) -> None:
    searcher, scheduler = StudySearcher(studies), StudyScheduler(studies)

    def run(name: str, *scores: float) -> list[str]:
        config = searcher.suggest(name)
        assert isinstance(config, dict)
        trial: Any = SimpleNamespace(config=config)
        results = [result(i, score) for i, score in enumerate(scores, start=1)]
        decisions = [scheduler.on_trial_result(None, trial, each) for each in results]
        searcher.on_trial_complete(name, results[-1])
        return decisions

    go_on, stop = TrialScheduler.CONTINUE, TrialScheduler.STOP
    assert run("a", 70.0, 80.0) == [go_on, go_on]
    assert run("b", 71.0, 60.0) == [go_on, go_on]
    assert run("c", 50.0) == [stop]
    assert searcher.suggest("d") == Searcher.FINISHED
    assert [row["state"] for row in studies.rows()] == ["complete", "complete", "stopped early"]
    assert studies.rows()[0]["f1"] == 80.0


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
    (row,) = studies.rows()
    assert (row["state"], row["error"]) == ("failed", reason)


def test_a_trial_that_raised_has_the_end_of_its_error_for_a_reason(studies: Studies, tmp_path: Path) -> None:
    searcher, scheduler = StudySearcher(studies), StudyScheduler(studies)
    (tmp_path / "error.txt").write_text("Failure # 1\nTraceback\nOSError: " + "no space left " * 40 + "\n")
    trial: Any = SimpleNamespace(config=searcher.suggest("a"), error_file=str(tmp_path / "error.txt"))
    scheduler.on_trial_error(None, trial)
    searcher.on_trial_complete("a", error=True)
    (row,) = studies.rows()
    assert row["state"] == "failed"
    assert row["error"].startswith("OSError: no space left")
    assert len(row["error"]) <= 200
