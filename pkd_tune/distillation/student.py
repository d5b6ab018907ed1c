"""One student: a configuration in, a trained model and its scores out.

Shape suffixes: B examples, C classes, K imitated layers, L teacher layers, H hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pkd_tune.config import DataConfig, DistillConfig, Init, TrainingConfig, UserError
from pkd_tune.data.batches import Batch
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.metrics import predictions, score
from pkd_tune.data.task import Task
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import ResidentData, TeacherTargets, open_source, resident_where_it_fits
from pkd_tune.distillation.checkpoint import StateFile
from pkd_tune.distillation.layer_map import start_layers, teacher_layers
from pkd_tune.distillation.loop import Evaluation, FitResult, fit
from pkd_tune.distillation.losses import LossParts, pkd_loss
from pkd_tune.distillation.similarity import TeacherSimilarity
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.distillation.teacher_outputs import TeacherOutputs, teacher_outputs
from pkd_tune.distillation.train_step import TrainStep, graph_capture
from pkd_tune.encoders.folder import weights_key
from pkd_tune.encoders.modeling import copy_layers, cut_to_layers, load_classifier, run

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

REPRODUCTION_TOLERANCE = 0.5
"""Points by which the score of cached teacher logits may differ from the teacher's own: another machine's rounding."""


@dataclass(frozen=True, slots=True)
class StudentData:
    """What all students of a search share and none changes; a process opens it once."""

    task: Task
    train: Split
    dev: Mapping[str, Split]
    """What students are chosen on: splits under the names of the task's dev splits."""
    official_dev: Mapping[str, Split]
    """The task's own dev splits by name; the same unless a part of the training split chooses."""
    start: BertForSequenceClassification
    """The model that every student is cut from."""
    init: Init
    """Says which of its layers."""
    teacher_train: TeacherOutputs
    """What the teacher says of the training split."""
    teacher_dev: Mapping[str, TeacherOutputs]
    """What the teacher says of the splits students are chosen on."""
    device: torch.device


def open_student_data(
    data: DataConfig, teacher: Teacher, device: torch.device, seed: int, *, verify: bool = True
) -> StudentData:
    """Opens tokens, teacher outputs and initial weights, computing the teacher's outputs where they are missing.

    Args:
        data: Which examples.
        teacher: From `prepare_teacher()`.
        device: Where students will be trained.
        seed: Seeds the weights that the pretrained folder does not hold: the classifier every student starts with.
        verify: Whether the teacher's outputs are checked byte by byte, where they are there already.

    Raises:
        UserError: When the cached outputs do not reproduce the teacher's dev score.
    """
    task = TASKS[data.task]
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length, verify=verify)
    chosen = selection_splits(task, splits, data.select_on)
    outputs = checked_teacher_outputs(data, teacher, device, verify=verify)
    return StudentData(
        task=task,
        train=chosen["train"],
        dev={name: chosen[name] for name in task.dev_splits},
        official_dev={name: splits[name] for name in task.dev_splits},
        start=load_classifier(data.student_dir if data.init == "pretrained" else teacher.folder, task.labels, seed).to(
            device
        ),
        init=data.init,
        teacher_train=outputs["train"],
        teacher_dev={name: outputs[name] for name in task.dev_splits},
        device=device,
    )


def checked_teacher_outputs(
    data: DataConfig, teacher: Teacher, device: torch.device, *, verify: bool = True
) -> dict[str, TeacherOutputs]:
    """Opens what the teacher says of the splits that students learn from and are chosen on, computing what is missing.

    Args:
        data: Which examples.
        teacher: From `prepare_teacher()`.
        device: Where it runs.
        verify: Whether files that are there are checked byte by byte.

    Raises:
        UserError: When they do not reproduce the teacher's dev score.
    """
    task = TASKS[data.task]
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length, verify=verify)
    chosen = selection_splits(task, splits, data.select_on)
    outputs = compute_teacher_outputs(data, teacher.folder, device, tuple(chosen), verify=verify)
    dev = {name: chosen[name] for name in task.dev_splits}
    predicted = {
        name: predictions(task, outputs[name].logits(torch.arange(len(split))).numpy()) for name, split in dev.items()
    }
    reproduced = score(task, predicted, {name: split.labels for name, split in dev.items()})["score"]
    if abs(reproduced - teacher.metrics["score"]) > REPRODUCTION_TOLERANCE:
        raise UserError(
            f"{teacher_cache_folder(data)}: the cached teacher outputs score {reproduced:.1f} on dev, but the teacher "
            f"scores {teacher.metrics['score']:.1f}; delete this folder, and dev-scores-*.json in "
            f"{data.data_dir / 'models' / 'finetuned' / data.task}, and run the command again"
        )
    return outputs


def teacher_cache_folder(data: DataConfig) -> Path:
    """Returns where the teacher outputs of a task lie."""
    return data.data_dir / "teacher_cache" / data.task


def compute_teacher_outputs(
    data: DataConfig,
    teacher_dir: Path,
    device: torch.device,
    names: Sequence[str] | None = None,
    *,
    verify: bool = True,
) -> dict[str, TeacherOutputs]:
    """Opens what a fine-tuned teacher says of the given splits, computing what is missing.

    Args:
        data: Which examples; the teacher reads them with its own tokenizer.
        teacher_dir: The fine-tuned teacher.
        device: Where it runs.
        names: Of splits; all of the task's where left out.
        verify: Whether files that are there are checked byte by byte.
    """
    task = TASKS[data.task]
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length, verify=verify)
    if data.select_on != "dev":
        splits = selection_splits(task, splits, data.select_on)
    key = weights_key(teacher_dir)

    def load_teacher() -> BertForSequenceClassification:
        return load_classifier(teacher_dir, task.labels, seed=0).to(device)

    return {
        name: teacher_outputs(teacher_cache_folder(data), splits[name], key, load_teacher, verify=verify)
        for name in names or splits
    }


@dataclass(frozen=True, slots=True, eq=False)
class ModelPool:
    """What a process keeps from one student to the next: models, optimisers, captured steps, examples on its GPU."""

    train_steps: dict[tuple[int, bool], TrainStep] = field(default_factory=dict)
    """By depth, and whether there is a projection."""
    residents: dict[str, ResidentData | None] = field(default_factory=dict)
    """By the split's key; None where it did not fit."""
    per_gpu: int = 1
    """Trials that share its GPU, each with a model pool in a process of its own."""

    def gpu_bytes(self) -> int:
        """Returns the bytes that benches keep on a GPU: weights and two moments, in fp32, and where graphs read.

        Not among them are residents, which are there from the first trial on, and the memory that graphs work in, which
        torch does not count as allocated.
        """
        train_steps = self.train_steps.values()
        of_models = sum(12 * trained.numel() for train_step in train_steps for trained in train_step.parameters())
        read = (
            tensor for train_step in train_steps for inputs in train_step.graph_inputs() for tensor in inputs.values()
        )
        return of_models + sum(tensor.nbytes for tensor in read)


def distill(
    student_data: StudentData,
    config: DistillConfig,
    training: TrainingConfig,
    report: Callable[[Evaluation], None],
    state: StateFile | None = None,
    model_pool: ModelPool | None = None,
) -> tuple[BertForSequenceClassification, FitResult]:
    """Trains one student and returns it with the weights of its best evaluation.

    The result depends on the arguments alone, not on what the process did before.

    Args:
        student data: Shared by all students; not changed.
        config: The student's depth and the weights of the three loss terms.
        training: Learning rate, epochs, seed and the rest.
        report: Called after every evaluation; what it raises ends the training.
        state: Lets an interrupted training go on from its last epoch.
        model pool: Kept for the next student of the same student data, whose training overwrites what is returned here.

    Raises:
        TrainingDivergedError: When the loss is not finite.
    """
    outputs, device = student_data.teacher_train, student_data.device
    imitated = teacher_layers(config.strategy, config.student_layers, outputs.cls_NLH.shape[1])
    use_logits, use_cls = config.alpha > 0, config.beta > 0 and len(imitated) > 0
    model_pool = ModelPool() if model_pool is None else model_pool
    train_step = _train_step(model_pool, student_data, config.student_layers, training.seed, use_cls=use_cls)
    student, projection = train_step.model, train_step.projection
    alpha, temperature = train_step.number("alpha", config.alpha), train_step.number("temperature", config.temperature)
    beta = train_step.number("beta", config.beta if use_cls else 0.0)

    def step(batch: Batch) -> LossParts:
        output = run(student, batch)
        student_cls_BKH = output.cls_BLH[:, :-1] if projection is None else projection(output.cls_BLH[:, :-1])
        return pkd_loss(
            output.logits_BC,
            batch.teacher_logits_BC,
            batch.labels_B,
            student_cls_BKH if use_cls else None,
            batch.teacher_cls_BKH,
            alpha=alpha,
            beta=beta,
            temperature=temperature,
            normalize=config.normalize,
        )

    key = student_data.train.key
    if key not in model_pool.residents:
        model_pool.residents[key] = resident_where_it_fits(student_data.train, outputs, device, model_pool.per_gpu)
    source = open_source(
        student_data.train,
        device,
        student.config.pad_token_id,
        TeacherTargets(outputs, use_logits, imitated if use_cls else ()),
        model_pool.residents[key],
        multiple=train_step.length_multiple,
    )
    return student, fit(
        student,
        step,
        student_data.train,
        student_data.dev,
        student_data.task,
        training,
        report,
        watcher=TeacherSimilarity(student_data.teacher_dev, imitated),
        state=state,
        train_step=train_step,
        source=source,
        structure=(use_logits, imitated if use_cls else (), config.normalize),
    )


def _train_step(model_pool: ModelPool, student_data: StudentData, depth: int, seed: int, *, use_cls: bool) -> TrainStep:
    """Returns the workbench of a depth with a student that has its initial weights on it."""
    start = student_data.start
    layers = start_layers(student_data.init, depth, start.config.num_hidden_layers)
    projection = (
        _projection(start.config.hidden_size, student_data.teacher_train.cls_NLH.shape[2], seed) if use_cls else None
    )
    key = (depth, projection is not None)
    train_step = model_pool.train_steps.get(key)
    if train_step is None:
        if student_data.device.type == "cpu":
            model_pool.train_steps.clear()  # there memory counts for more than the time that it takes to make another
        student = cut_to_layers(start, layers).to(student_data.device)
        others = [other.capture for other in model_pool.train_steps.values()]
        capture = others[0] if others else graph_capture(student_data.device)
        train_step = TrainStep(
            student,
            projection and projection.to(student_data.device),
            capture=capture,
            beside=model_pool.train_steps.values(),
        )
        model_pool.train_steps[key] = train_step
        return train_step
    copy_layers(start, layers, train_step.model)
    if projection is not None and train_step.projection is not None:
        train_step.projection.load_state_dict(projection.state_dict())
    return train_step


def _projection(student_width: int, teacher_width: int, seed: int) -> torch.nn.Linear | None:
    """Returns the map that carries a student's [CLS] states to the teacher's width; None where the widths are equal.

    It is trained with the student and is no part of it.
    """
    if student_width == teacher_width:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return torch.nn.Linear(student_width, teacher_width)
