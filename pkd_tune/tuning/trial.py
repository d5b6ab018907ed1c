"""The trainable function: one trial of the search, in a process that is kept for the next ones.

The process opens its classroom (tokens, teacher outputs, initial weights) at its first trial and keeps it. A trial
depends on its settings alone: weights, optimiser and every random generator it uses are set anew.
"""

import os
import time
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from ray import tune
from safetensors.torch import save_file

from pkd_tune.config import DataConfig, DistillConfig, SearchConfig
from pkd_tune.distillation.loop import Evaluation, TrainingDivergedError
from pkd_tune.distillation.student import Classroom, distill, open_classroom
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.tuning.searcher import assignment_of
from pkd_tune.tuning.study import Assignment


def run_trial(
    config: dict[str, Any], *, search: SearchConfig, teacher: Teacher, device: str, checkpoints: Path
) -> None:
    """Distils one student, reports every evaluation to Ray, and saves its best weights when it reaches the end.

    Args:
        config: `depth` and `trial` say which trial this is; the rest are the values it tries.
        search: What all trials share.
        teacher: Whom the student learns from.
        device: `cpu` or `cuda`.
        checkpoints: Folder for `checkpoint_path()`.
    """
    classroom = _classroom(search.data, teacher, device, search.student_training.seed)
    chosen = {name: config[name] for name in ("alpha", "beta", "temperature", "strategy", "normalize")}
    started = time.perf_counter()
    evaluations = 0

    def report(evaluation: Evaluation) -> None:
        nonlocal evaluations
        evaluations = evaluation.number
        tune.report(
            {
                "evaluation": evaluation.number,
                "evaluations": evaluation.of,
                "epoch": evaluation.epoch,
                "score": evaluation.metrics["score"],
                "best_score": evaluation.best_score,
                "metrics": evaluation.metrics,
                "loss": evaluation.losses,
                "gradient_norm": evaluation.gradient_norm,
                "learning_rate": evaluation.learning_rate,
                "seconds": time.perf_counter() - started,
            }
        )

    try:
        student, _ = distill(
            classroom,
            DistillConfig(student_layers=config["depth"], **chosen),
            replace(search.student_training, learning_rate=config["learning_rate"]),
            report,
        )
    except TrainingDivergedError as error:
        # Some settings do this; the process is sound, and Ray would throw it away if the error left this function.
        tune.report({"evaluation": evaluations, "failure": str(error)})
        return
    path = checkpoint_path(checkpoints, assignment_of(config))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file({name: tensor.cpu() for name, tensor in student.state_dict().items()}, temporary)
    os.replace(temporary, path)


def checkpoint_path(checkpoints: Path, assignment: Assignment) -> Path:
    """Returns where the best weights of a complete trial lie."""
    return checkpoints / f"{assignment.name}.safetensors"


@lru_cache(maxsize=1)
def _classroom(data: DataConfig, teacher: Teacher, device: str, seed: int) -> Classroom:
    return open_classroom(data, teacher, torch.device(device), seed, verify=False)
