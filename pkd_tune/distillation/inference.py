"""What a model says of whole splits: its outputs, its predictions and their scores.

Shape suffixes: N examples of a split, C classes.
"""

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from transformers import BertForSequenceClassification

from pkd_tune.distillation.batches import Batch, collate, scoring_batches
from pkd_tune.distillation.modeling import Output, run
from pkd_tune.glue.data import Split
from pkd_tune.glue.tasks import Task, predictions, score


class Watcher(Protocol):
    """Looks at what a model says of the dev splits beyond its metrics."""

    def see(self, split: str, batch: Batch, output: Output) -> None:
        """Takes in one batch of an evaluation."""

    def read(self) -> dict[str, float]:
        """Returns the numbers of the evaluation that just ended, and starts anew."""


def evaluate(
    model: BertForSequenceClassification,
    dev: Mapping[str, Split],
    task: Task,
    *,
    full_precision: bool = False,
    watcher: Watcher | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Returns the task's metrics on its dev splits, times 100, and what the model predicts for each of them.

    Raises:
        UserError: When a split has no labels.
    """
    predicted = {
        name: predictions(task, predict(model, split, full_precision=full_precision, watcher=watcher).numpy())
        for name, split in dev.items()
    }
    return score(task, predicted, {name: split.labels for name, split in dev.items()}), predicted


def predict(
    model: BertForSequenceClassification,
    split: Split,
    *,
    full_precision: bool = False,
    watcher: Watcher | None = None,
) -> Tensor:
    """Returns the logits of every example in the order of example ids: (N, C), fp32, on the CPU.

    Args:
        model: Put in evaluation mode, where it is left.
        split: Labels are not looked at.
        full_precision: fp32 throughout, as a plain reload of the exported model computes.
        watcher: Sees every batch.
    """
    logits_NC = torch.empty(len(split), model.config.num_labels)
    for batch, output in outputs(model, split, full_precision=full_precision):
        logits_NC[batch.example_ids_B] = output.logits_BC.float().cpu()
        if watcher is not None:
            watcher.see(split.name, batch, output)
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
