"""The trainable function: one trial of the search, in a process that is kept for the next ones.

The process opens its classroom (tokens, teacher outputs, initial weights) at its first trial and keeps it, and with it
a workshop (models, optimisers, captured steps). A trial depends on its settings alone: weights, optimiser and every
random generator it uses are set anew, in place.
"""

import json
import textwrap
import traceback
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
from ray import tune

from pkd_tune.config import DataConfig, DistillConfig, SearchConfig
from pkd_tune.distillation.inference import evaluate
from pkd_tune.distillation.loop import Evaluation, TrainingDivergedError
from pkd_tune.distillation.student import Classroom, Workshop, distill, open_classroom
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.distillation.training_state import StateFile, write_tensors
from pkd_tune.tuning import process
from pkd_tune.tuning.arms import Assignment
from pkd_tune.tuning.cores import cores_folder, keep_to_cores
from pkd_tune.tuning.searcher import assignment_of
from pkd_tune.tuning.slots import Slots
from pkd_tune.tuning.store import Store

LOSS_PARAMETERS = ("alpha", "beta", "temperature", "strategy", "normalize")
REASON_LENGTH = 200


@dataclass(frozen=True, kw_only=True, slots=True)
class Workplace:
    """What all trials of a search share, besides their settings."""

    search: SearchConfig
    teacher: Teacher
    slots: Slots
    """How many of them run at once, on what."""
    store: Store
    """Where trials keep their weights, states and predictions."""
    timeout: float | None = None
    """Seconds after which a trial is given up."""


def run_trial(config: dict[str, Any], *, workplace: Workplace) -> None:
    """Distils one student, reports every evaluation to Ray, and saves what is needed of it when it reaches the end.

    A trial that raises is over, and says so in its last result; one whose process dies is started again by Ray and
    goes on from its last epoch.

    Args:
        config: `depth`, `method`, `stage` and `trial` say which trial this is; the rest are the values it tries.
        workplace: What all trials share.
    """
    assignment = assignment_of(config)
    slots = workplace.slots
    if slots.device == "cpu":
        keep_to_cores(cores_folder(workplace.store.folder), slots.threads)
    unusable = process.begin_trial(threads=slots.threads if slots.device == "cpu" else None)
    if unusable is not None:
        tune.report({"replaced": f"started in a new process: {unusable}"})
        process.leave()
    trace = workplace.store.path(f"{assignment.name}.hung")
    if trace.exists() and trace.stat().st_size:
        where = trace.read_text()
        trace.unlink()
        tune.report({"failure": f"took longer than {workplace.timeout:g} seconds", "traceback": where})
        return
    try:
        with process.deadline(workplace.timeout, trace):
            official = _distil(config, assignment, workplace)
        tune.report({"finished": json.dumps(official)})
    except TrainingDivergedError as error:
        tune.report({"failure": str(error)})  # some settings do this; the process is sound
    except Exception as error:
        process.spoil(f"the trial before ended with {type(error).__name__}")
        reason = traceback.format_exception_only(error)[-1].strip()
        last_line = textwrap.shorten(reason.splitlines()[-1], REASON_LENGTH)
        tune.report({"failure": last_line, "traceback": traceback.format_exc()})


def _distil(config: dict[str, Any], assignment: Assignment, workplace: Workplace) -> dict[str, float] | None:
    """Trains the student; returns its metrics on the official dev splits where this trial may look at them."""
    search = workplace.search
    classroom, workshop = _opened(search.data, workplace.teacher, workplace.slots, search.student_training.seed)
    identity = ("depth", "method", "stage", "trial", "seed", *LOSS_PARAMETERS)
    training = replace(search.student_training, **{name: v for name, v in config.items() if name not in identity})
    if config["seed"] is not None:
        training = replace(training, seed=config["seed"])
    store, state = workplace.store, state_name(assignment)
    try:
        student, _ = distill(
            classroom,
            DistillConfig(student_layers=config["depth"], **{name: config[name] for name in LOSS_PARAMETERS}),
            training,
            _report,
            StateFile(store.fetch(state), lambda: store.publish(state)),
            workshop,
        )
    finally:  # Ray stops a trial by an exception, and one that diverges ends with one
        store.forget(state)
        process.expect_on_gpu(workshop.gpu_bytes())
    if assignment.stage == "search":
        write_tensors(store.path(weights_name(assignment)), student.state_dict())
        store.publish(weights_name(assignment))
        return None
    metrics, predicted = evaluate(student, classroom.official_dev, classroom.task, precision=training.precision)
    tensors = {name: torch.from_numpy(values) for name, values in predicted.items()}
    write_tensors(store.path(predictions_name(assignment)), tensors)
    store.publish(predictions_name(assignment))
    return metrics


def _report(evaluation: Evaluation) -> None:
    """Sends an evaluation to Ray: scalars for TensorBoard, and everything as JSON for the journal."""
    details = {
        "metrics": evaluation.metrics,
        "epoch": evaluation.epoch,
        "loss": evaluation.losses,
        "gradient_norm": evaluation.gradient_norm,
        "learning_rate": evaluation.learning_rate,
        "watched": evaluation.watched,
        "degenerate": evaluation.degenerate,
        "micro_batches": evaluation.micro_batches,
    }
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
            "teacher": evaluation.watched,
            "details": json.dumps(details),
        }
    )


def weights_name(assignment: Assignment) -> str:
    """Returns the name of the file with the best weights of a complete trial of a search."""
    return f"{assignment.name}.safetensors"


def state_name(assignment: Assignment) -> str:
    """Returns the name of the file with the state of a running trial, from which it can go on."""
    return f"{assignment.name}.training"


def predictions_name(assignment: Assignment) -> str:
    """Returns the name of the file with a confirmation's predictions for the dev splits."""
    return f"{assignment.name}.predictions"


@lru_cache(maxsize=1)
def _opened(data: DataConfig, teacher: Teacher, slots: Slots, seed: int) -> tuple[Classroom, Workshop]:
    classroom = open_classroom(data, teacher, torch.device(slots.device), seed, verify=False)
    return classroom, Workshop(per_gpu=slots.per_gpu)
