"""The only training loop: teacher, student without a teacher, KD and PKD differ in the step function they pass.

Shape suffixes: N examples of a split, C classes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from pkd_tune.config import TrainingConfig
from pkd_tune.distillation.batches import Batch, collate, scoring_batches, training_batches
from pkd_tune.distillation.losses import LossParts
from pkd_tune.distillation.modeling import Output, run
from pkd_tune.glue.data import Split
from pkd_tune.glue.tasks import Task, predictions, score

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""


CONSTANT_SPREAD = 1e-3
"""Predictions that differ by less are all the same: it is the last digit of a submitted value, and class ids differ
by 1."""


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
    losses: LossParts
    """Means over the steps since the last evaluation, as scalar tensors."""
    gradient_norm: float
    """Mean L2 norm before clipping since the last evaluation."""
    learning_rate: float
    """Of the last step."""
    degenerate: bool
    """True where every prediction is the same class, or the same value."""


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
    projection: torch.nn.Module | None = None,
) -> FitResult:
    """Trains the model in place and leaves it with the weights of its best evaluation.

    The schedule always spans all epochs, so scores at one point of two trainings are comparable. Dropout stays on in
    every epoch and the order of examples is new in each: the authors' released code does neither, by oversight.

    Args:
        model: Trained on the device it is on.
        step: Returns the loss of a batch, with gradient to the model.
        train: Split with labels.
        dev: The task's dev splits by name, with labels, scored `evaluations_per_epoch` times an epoch.
        task: Says how the dev splits are scored.
        config: Epochs, batch size, learning rate and the rest.
        report: Called after every evaluation; what it raises ends the training.
        projection: Trained along with the model when the step uses one; not part of the model.

    Raises:
        TrainingDivergedError: When a loss was not finite; found at the next evaluation.
    """
    device, pad_id = model.device, model.config.pad_token_id
    torch.manual_seed(config.seed)
    rng = np.random.default_rng(config.seed)
    trained = [*model.named_parameters(), *(projection.named_parameters() if projection is not None else ())]
    optimizer = _optimizer(trained, config)
    steps_per_epoch = math.ceil(len(train) / config.batch_size)
    total_steps = config.epochs * steps_per_epoch
    evaluate_after = _evaluation_steps(config, steps_per_epoch)
    best: Evaluation | None = None
    best_weights: dict[str, Tensor] = {}
    sums_5 = torch.zeros(5, device=device)  # total, ce, kd, pt, gradient norm: read only at an evaluation
    steps_since = done = 0
    for _ in range(config.epochs):
        for example_ids in training_batches(train.lengths, config.batch_size, rng):
            model.train()
            learning_rate = config.learning_rate * schedule(done, total_steps, config.warmup_fraction)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate
            batch = collate(train, example_ids, device, pad_id)
            with mixed_precision(device):
                losses = step(batch)
            losses.total.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_([parameter for _, parameter in trained], config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            sums_5 += torch.stack([*losses, norm]).detach()
            steps_since, done = steps_since + 1, done + 1
            if done not in evaluate_after:
                continue
            means = (sums_5 / steps_since).cpu()
            if not torch.isfinite(means).all():
                raise TrainingDivergedError(f"the loss was not finite at step {done} of {total_steps}")
            metrics, predicted = evaluate(model, dev, task)
            improved = best is None or metrics["score"] > best.best_score
            evaluation = Evaluation(
                number=evaluate_after.index(done) + 1,
                of=len(evaluate_after),
                epoch=done / steps_per_epoch,
                epochs=config.epochs,
                metrics=metrics,
                best_score=metrics["score"] if best is None or improved else best.best_score,
                losses=LossParts(*means[:4]),
                gradient_norm=means[4].item(),
                learning_rate=learning_rate,
                degenerate=bool(np.ptp(np.concatenate([*predicted.values()])) < CONSTANT_SPREAD),
            )
            if improved:
                best = evaluation
                best_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
            report(evaluation)
            sums_5.zero_()
            steps_since = 0
    assert best is not None
    model.load_state_dict(best_weights)
    return FitResult(best=best, last=evaluation)


def evaluate(
    model: BertForSequenceClassification, dev: Mapping[str, Split], task: Task, *, full_precision: bool = False
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Returns the task's metrics on its dev splits, times 100, and what the model predicts for each of them.

    Raises:
        UserError: When a split has no labels.
    """
    predicted = {
        name: predictions(task, predict(model, split, full_precision=full_precision).numpy())
        for name, split in dev.items()
    }
    return score(task, predicted, {name: split.labels for name, split in dev.items()}), predicted


def predict(model: BertForSequenceClassification, split: Split, *, full_precision: bool = False) -> Tensor:
    """Returns the logits of every example in the order of example ids: (N, C), fp32, on the CPU.

    Args:
        model: Put in evaluation mode, where it is left.
        split: Labels are not looked at.
        full_precision: fp32 throughout, as a plain reload of the exported model computes.
    """
    logits_NC = torch.empty(len(split), model.config.num_labels)
    for batch, output in outputs(model, split, full_precision=full_precision):
        logits_NC[batch.example_ids_B] = output.logits_BC.float().cpu()
    return logits_NC


def outputs(
    model: BertForSequenceClassification, split: Split, *, full_precision: bool
) -> Iterator[tuple[Batch, Output]]:
    """Yields every example once, in batches of similar length, with what the model says of them in evaluation mode."""
    model.eval()
    for example_ids in scoring_batches(split.lengths):
        batch = collate(split, example_ids, model.device, model.config.pad_token_id)
        with torch.inference_mode(), nullcontext() if full_precision else mixed_precision(model.device):
            output = run(model, batch)
        yield batch, output


def mixed_precision(device: torch.device) -> torch.autocast | nullcontext[None]:
    """Returns bf16 autocast where the device multiplies bf16 matrices in hardware, else a context that does nothing.

    Master weights, losses and optimiser state stay fp32 either way.
    """
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        supported = torch.cpu._is_avx512_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16) if supported else nullcontext()


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
