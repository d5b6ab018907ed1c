"""The trainable function: one trial of the search, in a process that is kept for the next ones.

The process opens its student data (tokens, teacher outputs, initial weights) at its first trial and keeps them, with a
model pool (models, optimisers, captured steps). A trial depends on its settings alone: weights, optimiser and every
random generator it uses are reset in place.
"""

import json
import textwrap
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow
import torch
from ray import tune
from safetensors import SafetensorError

from pkd_tune.config import DataConfig, SearchConfig, UserError
from pkd_tune.data.tokens import file_hash
from pkd_tune.distillation.checkpoint import Checkpoint, write_tensors
from pkd_tune.distillation.inference import evaluate
from pkd_tune.distillation.loop import Evaluation, TrainingDivergedError
from pkd_tune.distillation.student import ModelPool, StudentData, distill, open_student_data
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.distillation.train_step import BatchTooLargeError, is_out_of_memory, stream_graphs
from pkd_tune.files import REASON_LENGTH, machine_failure
from pkd_tune.tuning import trial_process
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.cluster import node_folder
from pkd_tune.tuning.cores import bind_to_cores
from pkd_tune.tuning.plan import TrialId
from pkd_tune.tuning.ray_bridge import trial_id_of
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.space import Settings, trial_configs

SURROUNDINGS = (OSError, MemoryError, UserError, SafetensorError, pyarrow.ArrowException)
"""Errors that no setting of a trial causes: files or memory that the machine refuses, files that somebody changed."""


OTHERS = 0.1
"""Share of a GPU's memory in the hands of other processes, above which they are to blame where it runs out."""

FULL_GPU = "the GPU is full of other programs or trials; free it, or give a lower --trials-per-gpu"


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialContext:
    """What all trials of a search share, besides their settings."""

    search: SearchConfig
    teacher: Teacher
    resources: Resources
    """The devices, and how many trials share them."""
    artifacts: ArtifactStore
    """The weights, training states and predictions of trials."""
    timeout: float | None = None
    """Seconds after which a trial fails; None: no limit."""
    scratch: Path | None = None
    """Folder on each node for lock files and for copies of files at a URI; None: one of the node's Ray session."""


def run_trial(config: dict[str, Any], *, context: TrialContext) -> None:
    """Distils one student, reports every evaluation to Ray, and saves its best weights when it completes.

    A trial that raises has failed, and reports that as its last result; where an error is one of `SURROUNDINGS`, the
    trial has not failed and the search is to stop. A trial whose process dies is restarted by Ray and continues from
    its last epoch.

    Args:
        config: `depth`, `method`, `stage` and `trial` identify the trial; `seed` is that of a confirmation, or None;
            `settings` are the values it tries.
        context: What all trials share.
    """
    trial_id = trial_id_of(config)
    resources = context.resources
    scratch = context.scratch or node_folder()
    artifacts = context.artifacts.with_cache_dir(scratch / "artifacts")
    if resources.device == "cpu":
        bind_to_cores(scratch / "cores", resources.threads)
    unusable = trial_process.begin_trial(threads=resources.threads if resources.device == "cpu" else None)
    if unusable is not None:
        tune.report({"replaced": f"started in a new process: {unusable}"})
        trial_process.exit_process()
    trace = artifacts.path(f"{trial_id.name}.hung")
    if trace.exists() and trace.stat().st_size:
        where = trace.read_text()
        trace.unlink()
        tune.report({"failure": f"took longer than {context.timeout:g} seconds", "traceback": where})
        return
    try:
        with trial_process.deadline(context.timeout, trace):
            official, file = _distil(config, trial_id, context, artifacts, _report)
        tune.report({"finished": json.dumps(official), "file": file})
    except TrainingDivergedError as error:
        tune.report({"failure": str(error)})  # a matter of the settings; the process stays usable
    except BatchTooLargeError as error:
        trial_process.mark_for_replacement(f"the trial before ended with {type(error).__name__}")
        if _is_full_of_others(error):
            tune.report({"machine": f"{trial_id.name}: {FULL_GPU}", "traceback": traceback.format_exc()})
        else:
            tune.report({"failure": str(error)})
    except SURROUNDINGS as error:
        trial_process.mark_for_replacement(f"the trial before ended with {type(error).__name__}")
        reason = machine_failure(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
        tune.report({"machine": f"{trial_id.name}: {reason}", "traceback": traceback.format_exc()})
    except Exception as error:
        trial_process.mark_for_replacement(f"the trial before ended with {type(error).__name__}")
        reason = traceback.format_exception_only(error)[-1].strip()
        last_line = textwrap.shorten(reason.splitlines()[-1], REASON_LENGTH)
        if _is_full_of_others(error):
            tune.report({"machine": f"{trial_id.name}: {FULL_GPU}", "traceback": traceback.format_exc()})
        else:
            tune.report({"failure": last_line, "traceback": traceback.format_exc()})


def _is_full_of_others(error: Exception) -> bool:
    """Returns whether an error says that a GPU's memory ran out while other processes have much of it."""
    of_memory = isinstance(error, BatchTooLargeError) or is_out_of_memory(error)
    return of_memory and torch.cuda.is_initialized() and trial_process.share_of_others() > OTHERS


def repeat_trial(trial_id: TrialId, settings: Settings, seed: int | None, context: TrialContext) -> None:
    """Trains a complete trial once more in this process, for the file it left: its weights, or its predictions.

    Args:
        trial_id: The trial.
        settings: That it tried.
        seed: Of a confirmation; None for other trials.
        context: What all trials share.
    """
    _distil({"settings": settings, "seed": seed}, trial_id, context, context.artifacts, lambda evaluation: None)


def _distil(
    config: dict[str, Any],
    trial_id: TrialId,
    context: TrialContext,
    artifacts: ArtifactStore,
    report: Callable[[Evaluation], None],
) -> tuple[dict[str, float] | None, str]:
    """Trains the student and leaves a file.

    Returns:
        The metrics of a confirmation on the official dev splits, None for other trials; the SHA-256 of the file.
    """
    search, state = context.search, state_name(trial_id)
    student_data, model_pool = _open_data(search.data, context.teacher, context.resources)
    seed = search.student_training.seed if config["seed"] is None else config["seed"]
    student_config, training = trial_configs(
        config["settings"], trial_id.study_key.depth, replace(search.student_training, seed=seed)
    )
    try:
        student, _ = distill(
            student_data,
            student_config,
            training,
            report,
            Checkpoint(artifacts.fetch(state), lambda: artifacts.publish(state)),
            model_pool,
        )
    finally:  # Ray stops a trial by an exception, and one that diverges ends with one
        artifacts.evict(state)
        trial_process.set_expected_gpu_bytes(model_pool.gpu_bytes())
    if trial_id.stage == "search":
        return None, _publish_tensors(artifacts, weights_name(trial_id), student.state_dict())
    metrics, predicted = evaluate(student, student_data.official_dev, student_data.task, precision=training.precision)
    tensors = {name: torch.from_numpy(values) for name, values in predicted.items()}
    return metrics, _publish_tensors(artifacts, predictions_name(trial_id), tensors)


def _publish_tensors(artifacts: ArtifactStore, name: str, tensors: dict[str, torch.Tensor]) -> str:
    """Writes a trial's file where all nodes see it; returns its SHA-256."""
    write_tensors(artifacts.path(name), tensors)
    digest = file_hash(artifacts.path(name))
    artifacts.publish(name)
    return digest


def _report(evaluation: Evaluation) -> None:
    """Reports an evaluation to Ray: scalars for TensorBoard, and everything as JSON for the journal."""
    details = {
        "metrics": evaluation.metrics,
        "epoch": evaluation.epoch,
        "loss": evaluation.losses,
        "gradient_norm": evaluation.gradient_norm,
        "learning_rate": evaluation.learning_rate,
        "watched": evaluation.similarity,
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
            "teacher": evaluation.similarity,
            "details": json.dumps(details),
        }
    )


def weights_name(trial_id: TrialId) -> str:
    """Returns the name of the file with the best weights of a complete trial of a search."""
    return f"{trial_id.name}.safetensors"


def state_name(trial_id: TrialId) -> str:
    """Returns the name of the file with the training state of a running trial, from which it continues."""
    return f"{trial_id.name}.training"


def predictions_name(trial_id: TrialId) -> str:
    """Returns the name of the file with a confirmation's predictions for the dev splits."""
    return f"{trial_id.name}.predictions"


@lru_cache(maxsize=1)
def _open_data(data: DataConfig, teacher: Teacher, resources: Resources) -> tuple[StudentData, ModelPool]:
    student_data = open_student_data(data, teacher, torch.device(resources.device), verify=False)
    graphs = stream_graphs(student_data.device, captured=resources.eager is None)
    return student_data, ModelPool(graphs=graphs, per_gpu=resources.trials_per_gpu)
