"""The only training loop: teacher, student without a teacher, KD and PKD differ in the step function they pass.

Shape suffixes: 4 and 5 the loss and its terms (total, ce, kd, pt), and the gradient norm.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from pkd_tune.config import Precision, TrainingConfig
from pkd_tune.distillation.batches import Batch, collate, in_parts, training_batches
from pkd_tune.distillation.inference import Watcher, evaluate
from pkd_tune.distillation.losses import LossParts
from pkd_tune.distillation.precision import mixed_precision
from pkd_tune.distillation.training_state import (
    StateFile,
    generator_states,
    load_optimizer_tensors,
    optimizer_tensors,
    set_generator_states,
)
from pkd_tune.glue.data import Split
from pkd_tune.glue.tasks import Task

logger = logging.getLogger(__name__)

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""

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
    projection: torch.nn.Module | None = None,
    watcher: Watcher | None = None,
    state: StateFile | None = None,
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
        projection: Trained along with the model when the step uses one; not part of the model.
        watcher: Sees every evaluation.
        state: Written at the end of epochs; a training that finds one goes on from there, to the same result as one
            that was never interrupted. Evaluations before it are not reported again.

    Raises:
        TrainingDivergedError: When a loss was not finite.
    """
    device = model.device
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    trained = [*model.named_parameters(), *(projection.named_parameters() if projection is not None else ())]
    optimizer = _optimizer(trained, config)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    evaluate_after = _evaluation_steps(config, steps_per_epoch)
    best: Evaluation | None = None
    best_weights: dict[str, Tensor] = {}
    sums_5 = torch.zeros(5, device=device)  # total, ce, kd, pt, gradient norm
    steps_since = done = 0
    parts = 1
    modules = {"model": model, **({} if projection is None else {"projection": projection})}
    found = state.load() if state is not None else None
    if found is not None:
        tensors, facts = found
        done, best = facts["done"], Evaluation(**facts["best"])
        for name, module in modules.items():
            module.load_state_dict(_under(name, tensors))
        best_weights = {name: tensor.to(device) for name, tensor in _under("best", tensors).items()}
        load_optimizer_tensors(optimizer, tensors)
        set_generator_states(tensors, device)
        rng.bit_generator.state = facts["rng"]
    for epoch in range(done // steps_per_epoch, config.epochs):
        for example_ids in training_batches(train.lengths, config.batch_size, rng):
            model.train()
            learning_rate = config.learning_rate * schedule(done, total_steps, config.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            batch = collate(train, example_ids, device, model.config.pad_token_id)
            losses_4 = _backward(step, batch, parts, config.precision)
            if losses_4 is None:
                parts = 2
                optimizer.zero_grad(set_to_none=True)
                logger.warning("out of memory: going on with batches in two halves, their gradients added up")
                losses_4 = _backward(step, batch, parts, config.precision)
                if losses_4 is None:
                    raise MemoryError(f"out of memory with batches of {config.batch_size} in halves; lower batch_size")
            norm = torch.nn.utils.clip_grad_norm_([parameter for _, parameter in trained], config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sums_5 += torch.cat([losses_4, norm.detach()[None]])
            steps_since, done = steps_since + 1, done + 1
            if done in evaluate_after or done % FINITE_CHECK_STEPS[device.type] == 0:
                means = (sums_5 / steps_since).tolist()
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
                micro_batches=parts,
            )
            if improved:
                best = evaluation
                best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            report(evaluation)
            sums_5.zero_()
            steps_since = 0
        if state is not None and epoch + 1 < config.epochs and state.is_due():
            assert best is not None
            tensors = {
                **{
                    f"{name}.{key}": value
                    for name, weights in {
                        **{n: m.state_dict() for n, m in modules.items()},
                        "best": best_weights,
                    }.items()
                    for key, value in weights.items()
                },
                **optimizer_tensors(optimizer),
                **generator_states(device),
            }
            try:
                state.write(tensors, {"done": done, "best": asdict(best), "rng": rng.bit_generator.state})
            except OSError as error:
                logger.warning("an interruption would now repeat more than an epoch: %s", error)
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


def _optimizer(parameters: list[tuple[str, torch.nn.Parameter]], config: TrainingConfig) -> torch.optim.AdamW:
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in parameters:
        (plain if name.endswith("bias") or "LayerNorm" in name else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, eps=ADAM_EPSILON, fused=True)


def _backward(step: Callable[[Batch], LossParts], batch: Batch, parts: int, precision: Precision) -> Tensor | None:
    """Adds the batch's gradients to the parameters; returns its total, ce, kd and pt, or None when memory ran out.

    In several parts, losses and gradients are weighted by size: the terms are means, so that the sum is that of the
    whole batch.
    """
    device = batch.labels_B.device
    sums_4 = torch.zeros(4, device=device)
    try:
        for part in in_parts(batch, parts) if parts > 1 else [batch]:
            with mixed_precision(device, precision):
                losses = step(part)
            share = len(part.labels_B) / len(batch.labels_B)
            (losses.total * share).backward()  # type: ignore[no-untyped-call]
            sums_4 += share * torch.stack([*losses]).detach()
        return sums_4
    except RuntimeError as error:
        if not _is_out_of_memory(error):
            raise
    # Only here, after the error and the frames it holds are gone, can the memory be given back.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns the tensors whose names begin with a prefix and a dot, without it."""
    return {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
