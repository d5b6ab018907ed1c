"""The only training loop: teacher, student without a teacher, KD and PKD differ in the step function they pass."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import TrainingConfig
from pkd_tune.data.batches import Batch, training_batches
from pkd_tune.data.task import Task
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import BatchSource, epoch_inputs, open_source, resident_where_it_fits
from pkd_tune.distillation.checkpoint import (
    StateFile,
    generator_states,
    load_optimizer_tensors,
    optimizer_tensors,
    set_generator_states,
)
from pkd_tune.distillation.inference import Watcher, evaluate
from pkd_tune.distillation.losses import LossParts
from pkd_tune.distillation.memory import keep_freed_memory
from pkd_tune.distillation.train_step import TrainStep, graph_capture, own_stream

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

logger = logging.getLogger(__name__)

CONSTANT_SPREAD = 1e-3
"""Predictions that differ by less are all the same: it is the last digit of a submitted value, and class ids differ
by 1."""

FINITE_CHECK_STEPS = {"cpu": 1, "cuda": 25}
"""After how many steps the loss is looked at: on a GPU every look waits for it."""


class TrainingDivergedError(ArithmeticError):
    """The loss became NaN or infinite; the model is of no use."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One look at the dev splits during training."""

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
    watched: dict[str, float] = field(default_factory=dict)
    """What the watcher saw."""
    micro_batches: int = 1
    """Parts in which a batch goes through the model: 2 after the device ran out of memory."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """A finished training; the model holds the weights of `best`."""

    best: Evaluation
    last: Evaluation


def fit(
    model: BertForSequenceClassification,
    step: Callable[[Batch], LossParts],
    train: Split,
    dev: Mapping[str, Split],
    task: Task,
    config: TrainingConfig,
    report: Callable[[Evaluation], None],
    *,
    watcher: Watcher | None = None,
    state: StateFile | None = None,
    train_step: TrainStep | None = None,
    source: BatchSource | None = None,
    structure: Hashable = (),
) -> FitResult:
    """Trains the model in place and leaves it with the weights of its best evaluation.

    The schedule always spans all epochs, so scores at one point of two trainings are comparable. Dropout stays on in
    every epoch and the order of examples is new in each: the authors' released code does neither, by oversight.

    Where the device runs out of memory, the batch is done again in two halves whose gradients are added up, and so are
    all later ones: the effective batch stays.

    Args:
        model: Trained on the device it is on.
        step: Returns the loss of a batch, with gradient to the model; its terms are means over the batch.
        train: Split with labels.
        dev: The splits by name, with labels, that are scored `evaluations_per_epoch` times an epoch.
        task: Says how they are scored.
        config: Epochs, batch size, learning rate and the rest.
        report: Called after every evaluation; what it raises ends the training.
        watcher: Sees every evaluation.
        state: Written at the end of epochs; a training that finds one goes on from there, to the same result as one
            that was never interrupted. Evaluations before it are not reported again.
        bench: The model on it is `model`; kept from an earlier training, or with a projection to train along. None: one
            of its own.
        supply: Of the training split, with what the teacher says of it; None: without a teacher.
        structure: Tells steps apart that consist of different operations, where the bench outlives this training.

    Raises:
        TrainingDivergedError: When a loss was not finite.
    """
    keep_freed_memory()
    device = model.device
    if train_step is None:
        train_step = TrainStep(model, capture=graph_capture(device))
    assert train_step.model is model
    if source is None:
        resident = resident_where_it_fits(train, None, device)
        source = open_source(
            train, device, model.config.pad_token_id, resident=resident, multiple=train_step.length_multiple
        )
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    evaluate_after = _evaluation_steps(config, steps_per_epoch)
    best: Evaluation | None = None
    best_weights: dict[str, Tensor] = {}
    steps_since = done = 0
    with own_stream(device):
        train_step.begin(config)
        found = state.load() if state is not None else None
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
            for inputs in epoch_inputs(source, training_batches(source.lengths_N, config.batch_size, rng)):
                if not model.training:  # asked first: setting it visits every module
                    model.train()
                learning_rate = config.learning_rate * schedule(done, total_steps, config.warmup_fraction)
                train_step.set_learning_rate(learning_rate)
                train_step.step(step, source, inputs, config, structure)
                steps_since, done = steps_since + 1, done + 1
                if done in evaluate_after or done % FINITE_CHECK_STEPS[device.type] == 0:
                    means = (train_step.sums_5 / steps_since).tolist()
                    if not all(map(math.isfinite, means)):
                        raise TrainingDivergedError(f"the loss was not finite at step {done} of {total_steps}")
                if done not in evaluate_after:
                    continue
                metrics, predicted = evaluate(model, dev, task, precision=config.precision, watcher=watcher)
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
                    watched=watcher.read() if watcher is not None else {},
                    micro_batches=train_step.parts,
                )
                if improved:
                    best = evaluation
                    best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
                report(evaluation)
                train_step.sums_5.zero_()
                steps_since = 0
            if state is not None and epoch + 1 < config.epochs and state.is_due():
                assert best is not None
                _write(
                    state,
                    train_step,
                    best_weights,
                    {"done": done, "best": asdict(best), "rng": rng.bit_generator.state},
                )
    assert best is not None
    model.load_state_dict(best_weights)
    return FitResult(best=best, last=evaluation)


def schedule(step: int, total_steps: int, warmup_fraction: float) -> float:
    """Returns the share of the peak learning rate at a step counted from 0.

    Rises linearly over the first `warmup_fraction` of the steps, then falls linearly towards 0. No step has rate 0:
    the first has one warm-up step's share, the last one decay step's share.
    """
    warmup_steps = math.ceil(warmup_fraction * total_steps)
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return (total_steps - step) / (total_steps - warmup_steps)


def _evaluation_steps(config: TrainingConfig, steps_per_epoch: int) -> list[int]:
    """Returns after how many steps the dev split is scored: evenly inside each epoch, the last at its end."""
    per_epoch = min(config.evaluations_per_epoch, steps_per_epoch)
    return [
        epoch * steps_per_epoch + round(part * steps_per_epoch / per_epoch)
        for epoch in range(config.epochs)
        for part in range(1, per_epoch + 1)
    ]


def _write(state: StateFile, train_step: TrainStep, best_weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Writes a training's state; where that fails, says so."""
    groups = {**{name: module.state_dict() for name, module in train_step.modules.items()}, "best": best_weights}
    tensors = {
        **{f"{name}.{key}": value for name, weights in groups.items() for key, value in weights.items()},
        **optimizer_tensors(train_step.optimizer),
        **generator_states(train_step.model.device),
    }
    try:
        state.write(tensors, facts)
    except OSError as error:
        logger.warning("an interruption would now repeat more than an epoch: %s", error)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
