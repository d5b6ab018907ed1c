"""What training costs on this machine, from a few real steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from pkd_tune.config import DistillConfig, SearchConfig, TrainingConfig
from pkd_tune.data.tokens import Split, take, used_tokens
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.inference import evaluate, predict
from pkd_tune.distillation.loop import Evaluation, fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.student import ModelPool, StudentData, distill
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import Graphs, TrainStep
from pkd_tune.encoders.folder import has_classifier, layer_count, sizes
from pkd_tune.encoders.modeling import load_classifier

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, PreTrainedModel

T = TypeVar("T")

TIMED_STEPS = {"cpu": 8, "cuda": 64}
"""Steps that are timed at each depth, after as many on the same examples, which on a GPU capture them for all lengths
of these examples, so that nothing is captured in the timed epoch. There a step takes little longer than the evaluation
of a few examples that ends the epoch: with more of them the evaluation counts for little."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one model costs, in seconds on one slot."""

    epoch: float
    """An epoch of training."""
    evaluation: float
    """A look at the splits that choose."""


def time_student(
    config: SearchConfig,
    splits: Mapping[str, Split],
    depth: int,
    device: torch.device,
    graphs: Graphs | None = None,
) -> Cost:
    """Times some training steps, and an evaluation, of a student whose teacher says random things.

    Args:
        config: Of the search.
        splits: Of the task.
        depth: The student's.
        device: Where it is trained.
        graphs: Where captured steps are kept; None: all steps are eager.
    """
    task = config.data.task
    ends: list[float] = []
    part = first_examples(splits["train"], TIMED_STEPS[device.type] * config.student_training.batch_size)
    loss = DistillConfig(student_layers=depth, alpha=0.5, beta=100, temperature=10, strategy="skip", normalize=True)
    once = replace(config, student_training=replace(config.student_training, evaluations_per_epoch=1))
    model_pool = ModelPool(graphs=graphs)
    student = train_student(once, splits, part, loss, device, model_pool, epochs=2, report=record_epoch_ends(ends))
    dev, precision = {name: splits[name] for name in task.dev_splits}, config.student_training.precision
    evaluation, _ = timed(lambda: evaluate(student, dev, task, precision=precision), device)
    return Cost(epoch=(ends[1] - ends[0]) * len(splits["train"]) / len(part), evaluation=evaluation)


def train_student(
    config: SearchConfig,
    splits: Mapping[str, Split],
    part: Split,
    loss: DistillConfig,
    device: torch.device,
    model_pool: ModelPool,
    *,
    epochs: int = 1,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
    dropout: bool = True,
) -> BertForSequenceClassification:
    """Trains a student on part of the training split, and hardly evaluates it; its teacher says random things.

    Args:
        config: Of the search.
        splits: Of the task.
        part: Of the training split.
        loss: The student's depth and the weights of its loss.
        device: Where it is trained.
        model_pool: Kept for the next student.
        epochs: How often it sees the part.
        report: Called at the end of each epoch, or as often as the search's configuration says.
        dropout: Whether a student made for this training has any.
    """
    task, data = config.data.task, config.data
    start = load_classifier(data.student_dir, task.labels, seed=0).to(device)
    if not dropout:
        remove_dropout(start)
    layers, width = layer_count(data.teacher_dir), sizes(data.teacher_dir)["hidden_size"]

    generator = torch.Generator().manual_seed(0)

    def random(split: Split) -> TeacherOutputs:
        n = len(split)
        logits_NC = torch.randn(n, task.outputs, generator=generator)
        cls_NLH = torch.randn(n, layers, width, generator=generator).half()
        return TeacherOutputs(logits_NC, cls_NLH, torch.arange(n))

    dev = {name: first_examples(splits[name], task.outputs) for name in task.dev_splits}
    student_data = StudentData(
        task=task,
        train=part,
        dev=dev,
        official_dev=dev,
        start=lambda init, seed: start,
        teacher_train=random(part),
        teacher_dev={name: random(split) for name, split in dev.items()},
        device=device,
        tokens=used_tokens([splits["train"], *(splits[name] for name in task.dev_splits)]),
    )
    training = replace(config.student_training, epochs=epochs)
    return distill(student_data, loss, training, report, model_pool=model_pool)[0]


def remove_dropout(model: PreTrainedModel) -> None:
    """Sets a model's dropout to 0, for the models that are made of it; families have other names for it."""
    for name, value in vars(model.config).items():
        if "dropout" in name and (value is None or isinstance(value, float)):
            setattr(model.config, name, 0.0)


def time_teacher(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, graphs: Graphs | None = None
) -> float:
    """Returns how many seconds the teacher would take: its training runs, where it needs any, and its outputs.

    Args:
        config: Of the search.
        splits: Of the task.
        device: Where it is trained.
        graphs: Where captured steps are kept; None: all steps are eager.
    """
    task, data = config.data.task, config.data
    model = load_classifier(data.teacher_dir, task.labels, seed=0).to(device)
    part = first_examples(splits["train"], TIMED_STEPS[device.type] // 2 * 32)
    whole = len(splits["train"]) / len(part)
    dev = {name: first_examples(splits[name], task.outputs) for name in task.dev_splits}

    twice = TrainingConfig(epochs=2, evaluations_per_epoch=1, precision=config.student_training.precision)
    ends: list[float] = []
    tokens = used_tokens([splits["train"], *(splits[name] for name in task.dev_splits)])
    train_step = TrainStep(model, tokens=tokens, graphs=graphs)
    fit(train_step, Loss(), open_source(part, model), dev, task, twice, record_epoch_ends(ends))
    outputs, _ = timed(lambda: predict(model, part, precision="fp32"), device)
    epochs = 0 if has_classifier(data.teacher_dir) else sum(each.epochs for each in config.teacher_trainings)
    return whole * (epochs * (ends[1] - ends[0]) + outputs)


def record_epoch_ends(ends: list[float]) -> Callable[[Evaluation], None]:
    """Returns what notes when each epoch of a training ends; whoever has its score has waited for the GPU.

    From one end to the next there is nothing but steps. Loading a model, and on a GPU capturing a step for every
    length, come before the first: they are done once, and not in every epoch.
    """
    return lambda evaluation: ends.append(time.perf_counter())


def first_examples(split: Split, examples: int) -> Split:
    """Returns a part of a split, of examples as long as its own are."""
    order = np.random.default_rng(0).permutation(len(split))
    return take(split, split.name, order[:examples])


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Returns the seconds that something takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result
