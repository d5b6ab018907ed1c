"""Studies of made-up trials, without Ray: what asks for them, reports scores and ends them."""

from pathlib import Path
from typing import Any

from pkd_tune.config import Method
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.space import Choice, Float, Parameters, Settings
from pkd_tune.tuning.studies import Studies

PARAMETERS: Parameters = {"alpha": Float(0.2, 0.9, log=False), "temperature": Choice((10,))}
FLAT: Parameters = {"alpha": Choice((0.2, 0.5, 0.7)), "temperature": Choice((5, 10))}


def plan(depth: int, quota: int, method: Method = "pkd", parameters: Parameters = PARAMETERS, **more: Any) -> StudyPlan:
    return StudyPlan(study_key=StudyKey(depth, method), quota=quota, parameters=parameters, **more)


def opened(tmp_path: Path, *plans: StudyPlan, **more: Any) -> Studies:
    return Studies(tmp_path / "study.log", plans or (plan(1, 4), plan(2, 4)), **more)


def seen(epoch: float, score: float, *, degenerate: bool = False) -> dict[str, Any]:
    losses = {"total": 1.0, "ce": 0.5, "kd": 0.5, "pt": 0.0}
    return {
        "metrics": {"f1": score, "score": score},
        "epoch": epoch,
        "loss": losses,
        "gradient_norm": 1.0,
        "learning_rate": 1e-5,
        "watched": {"agreement": 90.0},
        "degenerate": degenerate,
    }


def report(studies: Studies, trial_id: TrialId, *scores: float) -> list[bool]:
    return [studies.report(trial_id, i, score, seen(i / 2, score)) for i, score in enumerate(scores, start=1)]


def finish(studies: Studies, trial_id: TrialId, *scores: float) -> None:
    report(studies, trial_id, *scores)
    studies.complete(trial_id)


def ask(studies: Studies) -> tuple[TrialId, Settings]:
    asked = studies.ask()
    assert asked is not None
    return asked[0], asked[1]


def run_all(studies: Studies, score: float = 70.0) -> list[tuple[TrialId, Settings, int | None]]:
    done = []
    while (asked := studies.ask()) is not None:
        done.append(asked)
        finish(studies, asked[0], score, score + 1)
    return done
