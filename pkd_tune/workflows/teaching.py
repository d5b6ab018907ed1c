"""The teacher of a search and its outputs, made in this process or by jobs on the nodes that run trials.

Jobs read tokens and models from the data folder, and leave there what they make, for all nodes to see.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pkd_tune.config import DataConfig, SearchConfig, TrainingConfig
from pkd_tune.data.loading import load_features, load_raw, selection_splits
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.allocator import release_memory
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.plain import check_plain
from pkd_tune.distillation.student import checked_teacher_outputs
from pkd_tune.distillation.teacher import Teacher, finetune_once, finetuned_cache, prepare_teacher, teacher_scores
from pkd_tune.distillation.teacher_outputs import OutputsMissingError, check_states
from pkd_tune.encoders.folder import layer_count
from pkd_tune.tuning.jobs import Done, Job
from pkd_tune.tuning.resources import Resources
from pkd_tune.workflows.progress import training_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Nodes:
    """Runs jobs, and remembers which node did each."""

    run: Callable[[Sequence[Job]], list[Done]]
    work: list[dict[str, str]] = field(default_factory=list)
    """The `job` and the address of its `node`, as run.json has them."""

    def __call__(self, *jobs: Job) -> list[Any]:
        """Returns what the jobs return."""
        done = self.run(jobs)
        self.work.extend({"job": job.name, "node": each.node} for job, each in zip(jobs, done, strict=True))
        return [each.result for each in done]


def make_teacher(
    config: SearchConfig,
    splits: dict[str, Split],
    resources: Resources,
    *,
    nodes: Nodes | None,
    quiet: bool = False,
) -> Teacher:
    """Returns the teacher of a search, fine-tuning it first unless that was done before.

    Args:
        config: Of the search.
        splits: Those that train and choose the teacher, tokenised by its tokenizer.
        resources: Of the search.
        nodes: Train the learning rates side by side; None: this process trains one after the other.
        quiet: Whether no progress is shown.

    Raises:
        UserError: When the teacher is not good enough, or differs from itself in plain transformers.
        MachineError: When the process of a job died too often.
    """
    data, task = config.data, config.data.task
    captured = resources.eager is None

    def train(paths: Sequence[Path]) -> list[float]:
        assert nodes is not None
        with ExitStack() as stack:
            jobs = []
            for training, path in zip(config.teacher_trainings, paths, strict=True):
                name = f"teacher at learning rate {training.learning_rate:g}"
                show = stack.enter_context(training_progress(name, data.select_on, quiet=quiet))
                arguments = (data, training, path, resources.device, captured)
                jobs.append(Job(name=name, function=_finetune, arguments=arguments, report=show))
            return nodes(*jobs)

    def score(folder: Path) -> dict[str, float]:
        assert nodes is not None
        arguments = (data, folder, resources.device)
        (metrics,) = nodes(Job(name="score of the teacher", function=_score, arguments=arguments))
        return dict(metrics)

    device = _device_here(resources)
    with training_progress("teacher", data.select_on, quiet=quiet) as show:
        teacher = prepare_teacher(
            task,
            splits,
            data.teacher_dir,
            finetuned_cache(data),
            config.teacher_trainings,
            device,
            show,
            captured=captured,
            max_length=data.max_length,
            train=None if nodes is None else train,
            score=None if nodes is None else score,
        )
    if teacher.finetuned_here:
        return teacher
    if nodes is None:
        _compare_plain(data, teacher.folder, device.type)
    else:
        arguments = (data, teacher.folder, resources.device)
        nodes(Job(name="comparison with plain transformers", function=_compare_plain, arguments=arguments))
    return teacher


def make_teacher_outputs(
    data: DataConfig, teacher: Teacher, resources: Resources, nodes: Nodes | None, *, imitated: bool
) -> list[dict[str, str]]:
    """Computes the outputs of the teacher that are missing, and checks all that trials read.

    Args:
        data: The task and its models.
        teacher: From `make_teacher()`.
        resources: Of the search.
        nodes: One of them computes them; None: this process does.
        imitated: Whether any student imitates [CLS] states.

    Returns:
        What `Nodes.work` has more because of it.

    Raises:
        UserError: When they do not reproduce the teacher's dev score, or [CLS] states to imitate are too large.
        MachineError: When the process of the job died too often.
    """
    if nodes is None:
        _check_outputs(data, teacher, _device_here(resources), imitated)
        release_memory()  # the trials need it
        return []
    before = len(nodes.work)
    try:
        _check_outputs(data, teacher, None, imitated)
    except OutputsMissingError:
        arguments = (data, teacher, resources.device, imitated)
        nodes(Job(name="teacher outputs", function=_compute_outputs, arguments=arguments))
    return nodes.work[before:]


def _device_here(resources: Resources) -> torch.device:
    return torch.device(resources.device if torch.cuda.is_available() else "cpu")


def _finetune(
    data: DataConfig,
    training: TrainingConfig,
    path: Path,
    device: str,
    captured: bool,
    report: Callable[[Evaluation], None],
) -> float:
    """Fine-tunes the teacher with one configuration, as a job."""
    features = load_features(data.task, data.data_dir, data.teacher_dir, data.max_length, verify=False)
    splits = selection_splits(data.task, features, data.select_on)
    layers = layer_count(data.teacher_dir)
    return finetune_once(
        data.task,
        splits,
        data.teacher_dir,
        layers,
        training,
        torch.device(device),
        report,
        path=path,
        captured=captured,
    )


def _score(data: DataConfig, folder: Path, device: str) -> dict[str, float]:
    """Scores a classifier, as a job."""
    features = load_features(data.task, data.data_dir, data.teacher_dir, data.max_length, verify=False)
    splits = selection_splits(data.task, features, data.select_on)
    return teacher_scores(data.task, folder, splits, torch.device(device))


def _compare_plain(data: DataConfig, folder: Path, device: str) -> None:
    """Compares a given teacher with itself in plain transformers, here or as a job."""
    raw = load_raw(data.task, data.data_dir)
    features = load_features(data.task, data.data_dir, data.teacher_dir, data.max_length, verify=False)
    check_plain(data.task, folder, raw, features, data.max_length, torch.device(device))


def _compute_outputs(data: DataConfig, teacher: Teacher, device: str, imitated: bool) -> None:
    """Computes and checks the teacher's outputs, as a job."""
    _check_outputs(data, teacher, torch.device(device), imitated)


def _check_outputs(data: DataConfig, teacher: Teacher, device: torch.device | None, imitated: bool) -> None:
    """Opens and checks the teacher's outputs, after computing them where they are missing and there is a device."""
    outputs = checked_teacher_outputs(data, teacher, device)
    if imitated:
        check_states(outputs.values(), teacher.folder)
