"""The training loop of every model: teacher, fine-tuned student, KD and PKD differ in their loss alone."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import Task, TrainingConfig
from pkd_tune.data.batches import training_batches
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.allocator import TRIM_STEPS, trim_heap, tune_allocator
from pkd_tune.distillation.batch_source import BatchSource
from pkd_tune.distillation.checkpoint import (
    Checkpoint,
    generator_states,
    load_optimizer_tensors,
    optimizer_tensors,
    set_generator_states,
)
from pkd_tune.distillation.inference import TeacherSimilarity, evaluate
from pkd_tune.distillation.losses import Loss, LossParts
from pkd_tune.distillation.train_step import TrainStep, side_stream

logger = logging.getLogger(__name__)

CONSTANT_SPREAD = 1e-3
"""Predictions with a smaller range count as constant: GLUE takes values with three decimals, class ids differ by 1."""

FINITE_CHECK_STEPS = {"cpu": 1, "cuda": 25}
"""Every how many steps the loss is checked to be finite: on a GPU each check synchronises with it."""


class TrainingDivergedError(ArithmeticError):
    """The loss became NaN or infinite."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One evaluation on the dev splits during training."""

    number: int
    """Counts the evaluations of this training from 1."""
    of: int
    """How many there will be in all."""
    epoch: float
    """Epochs done."""
    epochs: int
    """How many there will be in all."""
    metrics: dict[str, float]
    """The task's metrics on its dev splits by name, times 100, and their `score`."""
    best_score: float
    """The highest score so far, this one included."""
    losses: dict[str, float]
    """Means of total, ce, kd and pt over the steps since the last evaluation."""
    gradient_norm: float
    """Mean L2 norm before clipping since the last evaluation."""
    learning_rate: float
    """Of the last step."""
    degenerate: bool
    """True where every prediction is the same class, or the same value."""
    similarity: dict[str, float] = field(default_factory=dict)
    """How similar a student is to its teacher: what `TeacherSimilarity.compute()` returns."""
    micro_batches: int = 1
    """Micro-batches per batch: 2 after the device ran out of memory."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """A finished training; the model has the weights of `best`."""

    best: Evaluation
    last: Evaluation


def fit(
    train_step: TrainStep,
    loss: Loss,
    source: BatchSource,
    dev: Mapping[str, Split],
    task: Task,
    config: TrainingConfig,
    report: Callable[[Evaluation], None],
    *,
    similarity: TeacherSimilarity | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Trains a model in place and leaves it with the weights of its best evaluation.

    The schedule always spans all epochs, so scores at one point of two training runs are comparable. Dropout stays on
    in every epoch and the order of examples is new in each: the authors' released code does neither, by oversight.

    Where the device runs out of memory, the batch is repeated as two micro-batches with accumulated gradients, and so
    are all later ones: the effective batch size stays.

    Args:
        train_step: The model to train, possibly kept from an earlier training; if of some tokens, then of all in
            `source` and `dev`.
        loss: What is minimised.
        source: Of the training split, with teacher outputs where the loss needs them.
        dev: The splits by name, with labels, that are scored `evaluations_per_epoch` times an epoch.
        task: Its metrics score them.
        config: Epochs, batch size, learning rate and the rest.
        report: Called after every evaluation; what it raises ends the training.
        similarity: Compares the model with its teacher at every evaluation.
        checkpoint: Written at the end of epochs; a training that finds one resumes from it, with the same result as an
            uninterrupted one. Evaluations before it are not reported again.

    Raises:
        TrainingDivergedError: When a loss was not finite.
        ValueError: When the loss needs teacher outputs and the source has none.
    """
    tune_allocator()
    model = train_step.model
    device = model.device
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    steps_per_epoch = math.ceil(len(source.split) / config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    evaluate_after = evaluation_steps(config, steps_per_epoch)
    best: Evaluation | None = None
    best_weights: dict[str, Tensor] = {}
    steps_since = done = 0
    with side_stream(device), train_step.used_tokens():
        train_step.begin(config, loss, source)
        found = checkpoint.load(_tensors(train_step, model.state_dict())) if checkpoint is not None else None
        if found is not None:
            tensors, facts = found
            done, best = facts["done"], Evaluation(**facts["best"])
            for name, module in train_step.modules.items():
                module.load_state_dict(_under(name, tensors))
            best_weights = {name: tensor.to(device) for name, tensor in _under("best", tensors).items()}
            load_optimizer_tensors(train_step.optimizer, tensors)
            set_generator_states(tensors, device)
            rng.bit_generator.state = facts["rng"]
        for epoch in range(done // steps_per_epoch, config.epochs):
            for inputs in train_step.epoch_inputs(training_batches(source.lengths_N, config.batch_size, rng)):
                if not model.training:  # checked first, because train() visits every module
                    model.train()
                learning_rate = config.learning_rate * schedule(done, total_steps, config.warmup_fraction)
                train_step.set_learning_rate(learning_rate)
                train_step(inputs)
                steps_since, done = steps_since + 1, done + 1
                if device.type == "cpu" and done % TRIM_STEPS == 0:
                    trim_heap()
                if done in evaluate_after or done % FINITE_CHECK_STEPS[device.type] == 0:
                    means = (train_step.sums_5 / steps_since).tolist()
                    if not all(map(math.isfinite, means)):
                        raise TrainingDivergedError(f"the loss was not finite at step {done} of {total_steps}")
                if done not in evaluate_after:
                    continue
                metrics, predicted = evaluate(model, dev, task, precision=config.precision, similarity=similarity)
                if device.type == "cpu":
                    trim_heap()
                improved = best is None or metrics["score"] > best.best_score
                evaluation = Evaluation(
                    number=evaluate_after.index(done) + 1,
                    of=len(evaluate_after),
                    epoch=done / steps_per_epoch,
                    epochs=config.epochs,
                    metrics=metrics,
                    best_score=metrics["score"] if best is None or improved else best.best_score,
                    losses=dict(zip(LossParts._fields, means[:4], strict=True)),
                    gradient_norm=means[4],
                    learning_rate=learning_rate,
                    degenerate=bool(np.ptp(np.concatenate([*predicted.values()])) < CONSTANT_SPREAD),
                    similarity=similarity.compute() if similarity is not None else {},
                    micro_batches=train_step.parts,
                )
                if improved:
                    best = evaluation
                    best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                report(evaluation)
                train_step.sums_5.zero_()
                steps_since = 0
            if checkpoint is not None and epoch + 1 < config.epochs:
                tensors = _tensors(train_step, best_weights)
                if checkpoint.is_due(sum(tensor.nbytes for tensor in tensors.values())):
                    assert best is not None
                    facts = {"done": done, "best": asdict(best), "rng": rng.bit_generator.state}
                    _write(checkpoint, {**tensors, **generator_states(device)}, facts)
        assert best is not None
        model.load_state_dict(best_weights)
    steps = evaluate_after[best.number - 1]
    train_step.decay_unused_tokens(_total_weight_decay(config, steps, total_steps))
    return FitResult(best=best, last=evaluation)


def schedule(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Returns the factor of the peak learning rate at a step counted from 0: linear warm-up, then linear decay.

    With W = ceil(warmup_fraction * total_steps) it is (step + 1) / W before step W, and (total_steps - step) /
    (total_steps - W) from there on, so that no step has rate 0.
    """
    warmup_steps = math.ceil(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total_steps - step) / (total_steps - warmup_steps)


def _total_weight_decay(config: TrainingConfig, steps: int, total_steps: int) -> float:
    """Returns what AdamW's weight decay multiplies a weight with in some steps, where it has no gradient in any."""
    rates = (config.learning_rate * schedule(step, total_steps, config.warmup_fraction) for step in range(steps))
    return math.prod(1 - rate * config.weight_decay for rate in rates)


def evaluation_steps(config: TrainingConfig, steps_per_epoch: int) -> list[int]:
    """Returns after how many steps the dev splits are scored: evenly spaced in each epoch, the last at its end.

    Where they do not divide an epoch, an evaluation is at the first step after its part of the epoch, never before, so
    that it is at the rung of that part.
    """
    per_epoch = min(config.evaluations_per_epoch, steps_per_epoch)
    return [
        epoch * steps_per_epoch + math.ceil(part * steps_per_epoch / per_epoch)
        for epoch in range(config.epochs)
        for part in range(1, per_epoch + 1)
    ]


def _tensors(train_step: TrainStep, best_weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns what a checkpoint holds besides the states of the random generators."""
    groups = {**{name: module.state_dict() for name, module in train_step.modules.items()}, "best": best_weights}
    return {
        **{f"{name}.{key}": value for name, weights in groups.items() for key, value in weights.items()},
        **optimizer_tensors(train_step.optimizer),
    }


def _write(checkpoint: Checkpoint, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes a checkpoint; where that fails, warns."""
    try:
        checkpoint.write(tensors, facts)
    except OSError as error:
        logger.warning("no checkpoint was written, so an interruption would repeat more than an epoch: %s", error)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
