"""Winners compared on fresh seeds: means over trainings, and whether a method and its controls can be told apart."""

import statistics
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from pkd_tune.glue.significance import Predicted, paired_bootstrap
from pkd_tune.glue.tasks import TASKS
from pkd_tune.tuning.arms import CONTROLS, Arm, Assignment
from pkd_tune.tuning.study import Studies
from pkd_tune.tuning.trial import Workplace, predictions_path


def confirmed(studies: Studies, arm: Arm) -> dict[str, Any] | None:
    """Returns how an arm's best setting scored on fresh seeds, as summary.json has it; None when it was not tried.

    `sd` is the sample standard deviation, None for a single training.
    """
    trials = [trial for trial in studies.trials(arm, "confirm") if "official" in trial.user_attrs]
    if not trials:
        return None

    def spread(name: str) -> dict[str, float | None]:
        values = [trial.user_attrs["official"][name] for trial in trials]
        return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}

    names = [name for name in trials[0].user_attrs["official"] if name != "score"]
    return {
        "seeds": [trial.user_attrs["seed"] for trial in trials],
        "scores": [trial.user_attrs["official"]["score"] for trial in trials],
        **spread("score"),
        "metrics": {name: spread(name) for name in names},
    }


def against_controls(
    workplace: Workplace, studies: Studies, student: dict[str, Any], labels: Mapping[str, npt.NDArray[np.generic]]
) -> list[dict[str, Any]]:
    """Compares a student's confirmations with those of the controls at its depth, as summary.json has it.

    Args:
        workplace: Holds the predictions.
        studies: Say which confirmations there are.
        student: As summary.json has it.
        labels: Of the official dev splits.
    """
    task = TASKS[workplace.search.data.task]
    arm = Arm(student["layers"], student["method"])
    ours = _predictions(workplace, studies, arm)
    controls = [Arm(arm.depth, method) for method in CONTROLS if Arm(arm.depth, method) in studies.plans]
    compared = []
    for control in controls[controls.index(arm) + 1 :] if arm in controls else controls:
        theirs = _predictions(workplace, studies, control)
        if not ours or not theirs:
            continue
        difference = paired_bootstrap(task, ours, theirs, labels)
        compared.append(
            {
                "method": control.method,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "distinguishable": difference.distinguishable,
            }
        )
    return compared


def _predictions(workplace: Workplace, studies: Studies, arm: Arm) -> list[Predicted]:
    paths = [
        predictions_path(workplace.folder, Assignment(arm, "confirm", trial.number))
        for trial in studies.trials(arm, "confirm")
        if "official" in trial.user_attrs
    ]
    return [load_file(path) for path in paths if path.exists()]
