"""Searches of a few trials on a Ray of their own, and the same training runs outside it."""

import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import distill, open_student_data
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.runner import run_search
from pkd_tune.tuning.space import Choice, Float, Parameters, trial_configs
from pkd_tune.tuning.space_file import load_space
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext, run_trial
from pkd_tune.tuning.trial_tables import trial_rows

CPU = torch.device("cpu")
ONE, TWO = Resources(), Resources(cpu_trials=2)
ALPHA: Parameters = {"alpha": Float(0.2, 0.9, log=False), "epochs": Choice((2,))}


def plans(
    space: Path, *quotas: tuple[int, int], learning_rates: tuple[float, ...] = (2e-3, 3e-3, 4e-3)
) -> list[StudyPlan]:
    """Returns a plan for each (depth, trials) over three learning rates, in this order at first."""
    parameters: Parameters = {**load_space(space).parameters, "learning_rate": Choice(learning_rates)}
    parameters |= {"alpha": Choice((0.5,)), "beta": Choice((10.0,)), "strategy": Choice(("skip",))}
    parameters |= {"normalize": Choice((True,))}
    return [
        StudyPlan(
            study_key=StudyKey(depth, "pkd"),
            quota=quota,
            parameters=parameters,
            first=tuple({"learning_rate": rate, **_fixed(parameters)} for rate in learning_rates[:quota]),
        )
        for depth, quota in quotas
    ]


def _fixed(parameters: Parameters) -> dict[str, Any]:
    return {n: p.values[0] for n, p in parameters.items() if isinstance(p, Choice) and len(p.values) == 1}


def search(
    context: TrialContext,
    studies: Studies,
    trainable: Callable[..., None] = run_trial,
    run_dir: Path | None = None,
) -> list[dict[str, Any]]:
    """Runs the trials of the studies on the Ray that is running, and returns a row for each."""
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    run_search(context, studies, run_dir or context.artifacts.folder.parent, trainable=trainable)
    assert signal.getsignal(signal.SIGINT) is at_ctrl_c
    return trial_rows(studies)


def directly(context: TrialContext, depth: int, settings: dict[str, Any], seed: int | None = None) -> list[Evaluation]:
    """Returns the evaluations of the same training outside Ray."""
    torch.set_num_threads(1)  # as a trial on one core has
    base = context.search.student_training
    config, training = trial_configs(settings, depth, base if seed is None else replace(base, seed=seed))
    seen: list[Evaluation] = []
    student_data = open_student_data(context.search.data, context.teacher, CPU)
    distill(student_data, config, training, seen.append)
    return seen
