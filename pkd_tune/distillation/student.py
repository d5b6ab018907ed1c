"""One student: a configuration in, a trained model and its scores out.

Shape suffixes: B examples, K imitated layers, L teacher layers, H hidden size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from transformers import BertForSequenceClassification

from pkd_tune.config import DataConfig, DistillConfig, TrainingConfig, UserError
from pkd_tune.distillation.batches import Batch
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.distillation.loop import Evaluation, FitResult, fit
from pkd_tune.distillation.losses import LossParts, pkd_loss
from pkd_tune.distillation.modeling import cut_to_depth, load_classifier, run
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.distillation.teacher_cache import TeacherOutputs, teacher_outputs
from pkd_tune.glue.data import Split, load_features
from pkd_tune.glue.tasks import TASKS, Task, predictions, score

REPRODUCTION_TOLERANCE = 0.5
"""Points by which the score of cached teacher logits may differ from the teacher's own: another machine's rounding."""


@dataclass(frozen=True, slots=True)
class Classroom:
    """What all students of a search share and none changes; a process opens it once."""

    task: Task
    train: Split
    dev: Mapping[str, Split]
    """The task's dev splits by name."""
    pretrained: BertForSequenceClassification
    """The full-depth model whose first layers every student starts from, on the CPU."""
    teacher_train: TeacherOutputs
    """What the teacher says of the training split."""
    device: torch.device


def open_classroom(data: DataConfig, teacher: Teacher, device: torch.device, seed: int) -> Classroom:
    """Opens tokens, teacher outputs and initial weights, computing the teacher's outputs where they are missing.

    Args:
        data: Which examples.
        teacher: From `prepare_teacher()`.
        device: Where students will be trained.
        seed: Seeds the weights that the pretrained folder does not hold: the classifier every student starts with.

    Raises:
        UserError: When the cached outputs do not reproduce the teacher's dev score.
    """
    task = TASKS[data.task]
    splits = load_features(task, data.data_dir, data.pretrained_dir, data.max_length)
    folder = data.data_dir / "teacher_cache" / task.name

    def load_teacher() -> BertForSequenceClassification:
        return load_classifier(teacher.folder, task.labels, seed).to(device)

    train, *cached = (
        teacher_outputs(folder, splits[name], teacher.key, load_teacher) for name in ("train", *task.dev_splits)
    )
    dev = {name: splits[name] for name in task.dev_splits}
    predicted = {
        name: predictions(task, outputs.logits(torch.arange(len(dev[name]))).numpy())
        for name, outputs in zip(dev, cached, strict=True)
    }
    reproduced = score(task, predicted, {name: split.labels for name, split in dev.items()})["score"]
    if abs(reproduced - teacher.metrics["score"]) > REPRODUCTION_TOLERANCE:
        raise UserError(
            f"{folder}: the cached teacher outputs score {reproduced:.1f} on dev, but the teacher scores "
            f"{teacher.metrics['score']:.1f}; delete this folder and run the command again"
        )
    return Classroom(
        task=task,
        train=splits["train"],
        dev=dev,
        pretrained=load_classifier(data.pretrained_dir, task.labels, seed),
        teacher_train=train,
        device=device,
    )


def distill(
    classroom: Classroom,
    config: DistillConfig,
    training: TrainingConfig,
    report: Callable[[Evaluation], None],
) -> tuple[BertForSequenceClassification, FitResult]:
    """Trains one student and returns it with the weights of its best evaluation.

    The result depends on the arguments alone, not on what the process did before.

    Args:
        classroom: Shared by all students; not changed.
        config: The student's depth and the weights of the three loss terms.
        training: Learning rate, epochs, seed and the rest.
        report: Called after every evaluation; what it raises ends the training.

    Raises:
        TrainingDivergedError: When the loss is not finite.
    """
    student = cut_to_depth(classroom.pretrained, config.student_layers).to(classroom.device)
    teacher = classroom.teacher_train
    imitated = teacher_layers(config.strategy, config.student_layers, teacher.cls_NLH.shape[1])
    use_logits, use_cls = config.alpha > 0, config.beta > 0 and len(imitated) > 0

    def step(batch: Batch) -> LossParts:
        output = run(student, batch)
        ids_B = batch.example_ids_B
        return pkd_loss(
            output.logits_BC,
            teacher.logits(ids_B).to(classroom.device) if use_logits else None,
            batch.labels_B,
            output.cls_BLH[:, :-1] if use_cls else None,
            teacher.cls(ids_B, imitated).to(classroom.device) if use_cls else None,
            alpha=config.alpha,
            beta=config.beta if use_cls else 0.0,
            temperature=config.temperature,
            normalize=config.normalize,
        )

    return student, fit(student, step, classroom.train, classroom.dev, classroom.task, training, report)
