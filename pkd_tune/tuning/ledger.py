"""What the studies say for people: rows of trials.csv and evaluations.csv, and counts for the progress bar."""

from typing import Any

from optuna.trial import FrozenTrial

from pkd_tune.tuning.arms import Arm, Stage
from pkd_tune.tuning.notes import evaluations, why_ended
from pkd_tune.tuning.study import Studies

STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "interrupted"}
STAGES: tuple[Stage, ...] = ("search", "confirm")


def trial_rows(studies: Studies) -> list[dict[str, Any]]:
    """Returns one flat row per trial, arm by arm in the order of starting, as trials.csv has them."""
    rows = []
    for arm, stage, trial in _all(studies):
        seen = evaluations(trial)
        scores = trial.intermediate_values
        best = max(scores, key=lambda step: (scores[step], -step), default=None)
        metrics = {} if best is None else seen[best]["metrics"]
        metrics = {**metrics, **trial.user_attrs.get("official", {})}
        last = seen[max(seen)] if seen else {}
        rows.append(
            {
                "depth": arm.depth,
                "method": arm.method,
                "stage": stage,
                "trial": trial.number,
                "seed": trial.user_attrs.get("seed"),
                "state": STATES[trial.state.name],
                "score": metrics.get("score"),
                **{name: value for name, value in metrics.items() if name != "score"},
                "best_epoch": None if best is None else seen[best]["epoch"],
                "evaluations": len(scores),
                "epochs": last.get("epoch", 0.0),
                "started": None if trial.datetime_start is None else trial.datetime_start.isoformat(timespec="seconds"),
                "seconds": last.get("seconds"),
                **studies.settings(arm, trial),
                "error": why_ended(trial),
            }
        )
    return rows


def evaluation_rows(studies: Studies) -> list[dict[str, Any]]:
    """Returns one flat row per evaluation of every trial, as evaluations.csv has them."""
    return [
        {
            "depth": arm.depth,
            "method": arm.method,
            "stage": stage,
            "trial": trial.number,
            "evaluation": step,
            "epoch": seen["epoch"],
            "score": trial.intermediate_values[step],
            **{f"loss_{name}": value for name, value in seen["loss"].items()},
            "gradient_norm": seen["gradient_norm"],
            "learning_rate": seen["learning_rate"],
            **seen["watched"],
            "seconds": seen["seconds"],
        }
        for arm, stage, trial in _all(studies)
        for step, seen in evaluations(trial).items()
    ]


def counts(studies: Studies) -> dict[str, int]:
    """Returns how many trials are complete, stopped early, failed and running."""
    names = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}
    found = dict.fromkeys(names.values(), 0)
    for _, _, trial in _all(studies):
        found[names[trial.state.name]] += 1
    return found


def best_scores(studies: Studies) -> dict[int, float | None]:
    """Returns the highest score that any trial of a search at each depth has reported; None when there is none."""
    best: dict[int, float | None] = {arm.depth: None for arm in studies.plans}
    for arm in studies.plans:
        scores = [best[arm.depth], *(s for trial in studies.trials(arm) for s in trial.intermediate_values.values())]
        best[arm.depth] = max((score for score in scores if score is not None), default=None)
    return best


def epochs_done(studies: Studies) -> float:
    """Returns the epochs that all trials together have trained."""
    return sum(float(seen[max(seen)]["epoch"]) for _, _, trial in _all(studies) if (seen := evaluations(trial)))


def commonest_failure(studies: Studies) -> str | None:
    """Returns the reason most failed trials give; None when none failed."""
    reasons = [why_ended(trial) for _, _, trial in _all(studies) if trial.state.name == "FAIL"]
    return max(reasons, key=reasons.count, default=None)


def _all(studies: Studies) -> list[tuple[Arm, Stage, FrozenTrial]]:
    return [(arm, stage, trial) for arm in studies.plans for stage in STAGES for trial in studies.trials(arm, stage)]
