"""Distillation of one student: from its configuration to a trained model, its evaluations and teacher outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from pkd_tune.config import DataConfig, DistillConfig, Init, Task, TrainingConfig, UserError
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.metrics import predictions, rounding_points, score
from pkd_tune.data.tokens import Split, used_tokens
from pkd_tune.data.unlabeled import load_unlabeled, with_unlabeled
from pkd_tune.distillation.batch_source import BatchSource, open_source
from pkd_tune.distillation.checkpoint import Checkpoint
from pkd_tune.distillation.inference import TeacherSimilarity
from pkd_tune.distillation.layer_map import start_layers, teacher_layers
from pkd_tune.distillation.loop import Evaluation, FitResult, fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.distillation.teacher_outputs import TeacherOutputs, teacher_outputs
from pkd_tune.distillation.train_step import Graphs, TrainStep, graphs_of_a_training
from pkd_tune.encoders.folder import has_classifier
from pkd_tune.encoders.modeling import copy_layers, cut_to_layers, layer_kinds, load_classifier

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class StudentData:
    """The data and initial weights that all students of a search share; a process opens them once."""

    task: Task
    train: Split
    """With the texts that have no label, where there are any, after the labelled examples."""
    dev: Mapping[str, Split]
    """The splits that select epochs and trials, by the names of the task's dev splits."""
    official_dev: Mapping[str, Split]
    """The task's own dev splits by name; the same as `dev` unless part of the training split is held out."""
    start: Callable[[Init, int], PreTrainedModel]
    """Returns the model whose layers a student of this `init` starts from, which must not be changed. Weights that a
    pretrained folder does not have, such as the classifier, are drawn from the seed."""
    teacher_train: TeacherOutputs
    """Teacher outputs of the training split."""
    teacher_dev: Mapping[str, TeacherOutputs]
    """Teacher outputs of the splits in `dev`."""
    device: torch.device
    labelled: Split | None = None
    """The labelled examples of `train` alone, from which a student learns that has no teacher; None: all of them."""
    tokens: np.ndarray | None = None
    """Ids of the tokens that occur in `train` and `dev`, of which alone students train embeddings; None: of all."""


def open_student_data(data: DataConfig, teacher: Teacher, device: torch.device, *, verify: bool = True) -> StudentData:
    """Opens tokens and teacher outputs, computing the latter where they are missing.

    Models that students start from are loaded when the first student needs them, and kept; of a pretrained one, with
    the weights of the last seed.

    Args:
        data: The task and its models.
        teacher: From `prepare_teacher()`.
        device: Where students will be trained.
        verify: Whether cached teacher outputs are checked against their hash.

    Raises:
        UserError: When the teacher outputs do not reproduce the teacher's dev score.
    """
    task = data.task
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length, verify=verify)
    chosen = selection_splits(task, splits, data.select_on)
    outputs = checked_teacher_outputs(data, teacher, device, verify=verify)

    starts: dict[Path, tuple[int | None, PreTrainedModel]] = {}

    def start(init: Init, seed: int) -> PreTrainedModel:
        folder = start_folder(data, teacher.folder, init)
        drawn_from = None if has_classifier(folder) else seed
        if folder not in starts or starts[folder][0] != drawn_from:
            starts[folder] = drawn_from, load_classifier(folder, task.labels, seed).to(device)
        return starts[folder][1]

    train = training_split(data, chosen["train"], data.student_dir, verify=verify)
    dev = {name: chosen[name] for name in task.dev_splits}
    return StudentData(
        task=task,
        train=train,
        labelled=None if data.unlabeled is None else chosen["train"],
        tokens=used_tokens([train, *dev.values()]),
        dev=dev,
        official_dev={name: splits[name] for name in task.dev_splits},
        start=start,
        teacher_train=outputs["train"],
        teacher_dev={name: outputs[name] for name in task.dev_splits},
        device=device,
    )


def start_folder(data: DataConfig, teacher_dir: Path, init: Init) -> Path:
    """Returns the folder of the model that students of an `init` start from.

    Args:
        data: Has the pretrained model.
        teacher_dir: The fine-tuned teacher.
        init: Of the students.
    """
    return data.student_dir if init == "pretrained" else teacher_dir


def checked_teacher_outputs(
    data: DataConfig, teacher: Teacher, device: torch.device | None, *, verify: bool = True
) -> dict[str, TeacherOutputs]:
    """Opens the teacher outputs of the splits for training and selection, computing them where they are missing.

    Args:
        data: The task and its models.
        teacher: From `prepare_teacher()`.
        device: Where the teacher runs; None: nowhere here, so that missing outputs are an error.
        verify: Whether cached outputs are checked against their hash.

    Raises:
        OutputsMissingError: When outputs are missing and there is no device.
        UserError: When they do not reproduce the teacher's dev score.
    """
    task = data.task
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length, verify=verify)
    chosen = selection_splits(task, splits, data.select_on)
    outputs = compute_teacher_outputs(data, teacher.folder, teacher.key, device, tuple(chosen), verify=verify)
    dev = {name: chosen[name] for name in task.dev_splits}
    predicted = {
        name: predictions(task, outputs[name].logits(torch.arange(len(split))).numpy()) for name, split in dev.items()
    }
    reproduced = score(task, predicted, {name: split.labels for name, split in dev.items()})["score"]
    if abs(reproduced - teacher.metrics["score"]) > rounding_points(len(split) for split in dev.values()):
        raise UserError(
            f"{teacher_cache_folder(data)}: the cached teacher outputs score {reproduced:.1f} on dev, but the teacher "
            f"scores {teacher.metrics['score']:.1f}; delete this folder, and dev-scores-*.json in "
            f"{data.data_dir / 'models' / 'finetuned' / task.name}, and run the command again"
        )
    return outputs


def training_split(data: DataConfig, train: Split, model_dir: Path, *, verify: bool = True) -> Split:
    """Returns what students are trained on: the training split, with the texts that have no label where there are any.

    Args:
        data: The task and its models.
        train: The training split, tokenised as `model_dir` does.
        model_dir: The folder of the model whose tokenizer is used.
        verify: Whether cached tokens are checked against their hash.
    """
    if data.unlabeled is None:
        return train
    texts = load_unlabeled(data.task, data.data_dir, data.unlabeled, model_dir, data.max_length, verify=verify)
    return with_unlabeled(train, texts)


def teacher_cache_folder(data: DataConfig) -> Path:
    """Returns the cache folder of a task's teacher outputs."""
    return data.data_dir / "teacher_cache" / data.task.name


def compute_teacher_outputs(
    data: DataConfig,
    teacher_dir: Path,
    teacher_key: str,
    device: torch.device | None,
    names: Sequence[str] | None = None,
    *,
    verify: bool = True,
) -> dict[str, TeacherOutputs]:
    """Opens the outputs of a fine-tuned teacher for the given splits, computing them where they are missing.

    Args:
        data: The task and its models; the examples are tokenised with the teacher's tokenizer.
        teacher_dir: The fine-tuned teacher.
        teacher_key: Its `classifier_key()`.
        device: Where the teacher runs; None: nowhere here, so that missing outputs are an error.
        names: Names of the splits; None: all of the task's.
        verify: Whether cached outputs are checked against their hash.

    Raises:
        OutputsMissingError: When outputs are missing and there is no device.
    """
    task = data.task
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length, verify=verify)
    if data.select_on != "dev":
        splits = selection_splits(task, splits, data.select_on)
    splits = {**splits, "train": training_split(data, splits["train"], data.teacher_dir, verify=verify)}

    def load_teacher() -> PreTrainedModel:
        return load_classifier(teacher_dir, task.labels, seed=0).to(device)

    load = None if device is None else load_teacher
    return {
        name: teacher_outputs(teacher_cache_folder(data), splits[name], teacher_key, load, verify=verify)
        for name in names or splits
    }


@dataclass(frozen=True, slots=True, eq=False)
class ModelPool:
    """What a process keeps from one student to the next: models, optimisers, captured steps, examples on its GPU."""

    train_steps: dict[tuple[int, bool, tuple[str, ...]], TrainStep] = field(default_factory=dict)
    """By depth, whether there is a projection, and the `layer_kinds()` of the student."""
    sources: dict[str, BatchSource] = field(default_factory=dict)
    """By the split's key."""
    graphs: Graphs | None = None
    """Where captured steps are kept; None: all steps are eager."""
    per_gpu: int = 1
    """Concurrent trials on its GPU, each with a model pool in a process of its own."""

    def gpu_bytes(self) -> int:
        """Returns the bytes that train steps keep on a GPU: weights, moments and graph inputs.

        Resident data is not among them, because it is there from the first trial on; nor is the memory pool of the
        graphs, which torch does not count as allocated.
        """
        train_steps = self.train_steps.values()
        of_graphs = (tensor for step in train_steps for inputs in step.graph_inputs() for tensor in inputs.values())
        return sum(step.kept_bytes() for step in train_steps) + sum(tensor.nbytes for tensor in of_graphs)


def distill(
    student_data: StudentData,
    config: DistillConfig,
    training: TrainingConfig,
    report: Callable[[Evaluation], None],
    checkpoint: Checkpoint | None = None,
    model_pool: ModelPool | None = None,
) -> tuple[PreTrainedModel, FitResult]:
    """Trains one student and returns it with the weights of its best evaluation.

    The result depends on the arguments alone, not on what the process did before.

    Args:
        student_data: Shared by all students; not changed.
        config: The student's depth, what it starts from, and the weights of the three loss terms.
        training: Learning rate, epochs, seed and the rest.
        report: Called after every evaluation; what it raises ends the training.
        checkpoint: Lets an interrupted training resume from its last epoch.
        model_pool: Kept for the next student of the same student data, which overwrites the student returned here;
            None: nothing is kept, and on a GPU steps are captured.

    Raises:
        TrainingDivergedError: When the loss is not finite.
    """
    if model_pool is None:
        with graphs_of_a_training(student_data.device) as graphs:
            return distill(student_data, config, training, report, checkpoint, ModelPool(graphs=graphs))
    outputs = student_data.teacher_train
    imitated = teacher_layers(config.strategy, config.student_layers, outputs.cls_NLH.shape[1])
    loss = Loss(
        alpha=config.alpha,
        beta=config.beta if imitated else 0.0,
        temperature=config.temperature,
        normalize=config.normalize,
        imitated=imitated,
    )
    train_step = _train_step(model_pool, student_data, config, training.seed, loss)
    student, train = train_step.model, student_data.train
    if student_data.labelled is not None and not (loss.needs_logits or loss.needs_layers):
        train = student_data.labelled
    if train.key not in model_pool.sources:
        taught = None if train is student_data.labelled else outputs
        model_pool.sources[train.key] = open_source(train, student, taught, per_gpu=model_pool.per_gpu)
    return student, fit(
        train_step,
        loss,
        model_pool.sources[train.key],
        student_data.dev,
        student_data.task,
        training,
        report,
        similarity=TeacherSimilarity(student_data.teacher_dev, imitated),
        checkpoint=checkpoint,
    )


def _train_step(
    model_pool: ModelPool, student_data: StudentData, config: DistillConfig, seed: int, loss: Loss
) -> TrainStep:
    """Returns the train step of a depth with a student that has its initial weights."""
    start, depth, device = student_data.start(config.init, seed), config.student_layers, student_data.device
    layers = start_layers(config.init, depth, start.config.num_hidden_layers)
    projection = None
    if loss.needs_layers:
        projection = _projection(start.config.hidden_size, student_data.teacher_train.cls_NLH.shape[2], seed)
    key = (depth, projection is not None, layer_kinds(start, layers))
    train_step = model_pool.train_steps.get(key)
    if train_step is None:
        if device.type == "cpu":
            model_pool.train_steps.clear()  # there memory is scarcer than the time to make another
        student = cut_to_layers(start, layers).to(device)
        train_step = TrainStep(
            student, projection and projection.to(device), tokens=student_data.tokens, graphs=model_pool.graphs
        )
        model_pool.train_steps[key] = train_step
        return train_step
    copy_layers(start, layers, train_step.model)
    if projection is not None and train_step.projection is not None:
        train_step.projection.load_state_dict(projection.state_dict())
    return train_step


def _projection(student_width: int, teacher_width: int, seed: int) -> torch.nn.Linear | None:
    """Returns the linear map from a student's [CLS] states to the teacher's width; None where the widths are equal.

    It is trained with the student and is no part of it.
    """
    if student_width == teacher_width:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(student_width, teacher_width)
