"""Tables of trials: rows of trials.csv and evaluations.csv, and counts for the progress bar."""

from datetime import datetime
from typing import Any

from optuna.trial import FrozenTrial

from pkd_tune.config import Stage
from pkd_tune.tuning.journal import NODE, evaluations, why_ended
from pkd_tune.tuning.plan import StudyKey
from pkd_tune.tuning.studies import STUDY_NAMES, Studies

STATES = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "interrupted"}


def trial_rows(studies: Studies) -> list[dict[str, Any]]:
    """Returns the rows of trials.csv: one per trial, by study, in the order in which they were started.

    Confirmations and ablations of a winner that a better one has replaced since are among them.
    """
    rows = []
    for study_key, stage, trial in _all(studies, earlier=True):
        seen = evaluations(trial)
        scores = trial.intermediate_values
        best = max(scores, key=lambda step: (scores[step], -step), default=None)
        metrics = {} if best is None else seen[best]["metrics"]
        metrics = {**metrics, **trial.user_attrs.get("official", {})}
        last = seen[max(seen)] if seen else {}
        rows.append(
            {
                "depth": study_key.depth,
                "method": study_key.method,
                "stage": stage,
                "trial": trial.number,
                "seed": trial.user_attrs.get("seed"),
                "origin": studies.origin(study_key, stage, trial),
                "state": STATES[trial.state.name],
                "score": metrics.get("score"),
                **{name: value for name, value in metrics.items() if name != "score"},
                "best_epoch": None if best is None else seen[best]["epoch"],
                "evaluations": len(scores),
                "epochs_trained": last.get("epoch", 0.0),
                "started": _time(trial.datetime_start),
                "ended": _time(trial.datetime_complete),
                "seconds": last.get("seconds"),
                **studies.settings(study_key, trial),
                "error": why_ended(trial),
            }
        )
    return rows


def evaluation_rows(studies: Studies) -> list[dict[str, Any]]:
    """Returns the rows of evaluations.csv: one per evaluation of every trial."""
    return [
        {
            "depth": study_key.depth,
            "method": study_key.method,
            "stage": stage,
            "trial": trial.number,
            "evaluation": step,
            "epoch": seen["epoch"],
            "score": trial.intermediate_values[step],
            **{f"loss_{name}": value for name, value in seen["loss"].items()},
            "gradient_norm": seen["gradient_norm"],
            "learning_rate": seen["learning_rate"],
            **seen["watched"],
            "degenerate": seen["degenerate"],
            "seconds": seen["seconds"],
            "node": seen.get(NODE),
        }
        for study_key, stage, trial in _all(studies, earlier=True)
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
    """Returns the highest score reported by a search trial at each depth; None where there is none."""
    best: dict[int, float | None] = {study_key.depth: None for study_key in studies.plans}
    for study_key in studies.plans:
        scores = [
            best[study_key.depth],
            *(s for trial in studies.trials(study_key) for s in trial.intermediate_values.values()),
        ]
        best[study_key.depth] = max((score for score in scores if score is not None), default=None)
    return best


def epochs_done(studies: Studies) -> float:
    """Returns the number of epochs trained, summed over all trials."""
    return sum(float(seen[max(seen)]["epoch"]) for _, _, trial in _all(studies) if (seen := evaluations(trial)))


def most_common_failure(studies: Studies) -> str | None:
    """Returns the most common reason of failed trials; None when none failed."""
    reasons = [why_ended(trial) for _, _, trial in _all(studies) if trial.state.name == "FAIL"]
    return max(reasons, key=reasons.count, default=None)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")


def _all(studies: Studies, *, earlier: bool = False) -> list[tuple[StudyKey, Stage, FrozenTrial]]:
    """Returns all trials; those of earlier winners only if asked for."""
    of_stage = studies.started if earlier else studies.trials
    return [
        (study_key, stage, trial)
        for study_key in studies.plans
        for stage in STUDY_NAMES
        for trial in of_stage(study_key, stage)
    ]
