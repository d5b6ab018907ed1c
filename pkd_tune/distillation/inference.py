"""What a model says of whole splits: its outputs, its predictions and their scores.

Shape suffixes: N examples of a split, C classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from pkd_tune.config import Precision
from pkd_tune.data.batches import SCORING_TOKENS, Batch, collate, scoring_batches
from pkd_tune.data.metrics import predictions, score
from pkd_tune.data.task import Task
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.modeling import Output, run
from pkd_tune.encoders.precision import mixed_precision

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification


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
    precision: Precision = "auto",
    watcher: Watcher | None = None,
) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Returns the task's metrics on its dev splits, times 100, and what the model predicts for each of them.

    Raises:
        UserError: When a split has no labels.
    """
    predicted = {
        name: predictions(task, predict(model, split, precision=precision, watcher=watcher).numpy())
        for name, split in dev.items()
    }
    return score(task, predicted, {name: split.labels for name, split in dev.items()}), predicted


def predict(
    model: BertForSequenceClassification,
    split: Split,
    *,
    precision: Precision = "auto",
    watcher: Watcher | None = None,
) -> Tensor:
    """Returns the logits of every example in the order of example ids: (N, C), fp32, on the CPU.

    Args:
        model: Put in evaluation mode, where it is left.
        split: Labels are not looked at.
        precision: Of matrix products; fp32 is what a plain reload of the exported model computes in.
        watcher: Sees every batch.
    """
    logits_NC = torch.empty(len(split), model.config.num_labels)
    for batch, output in outputs(model, split, precision=precision):
        logits_NC[batch.example_ids_B] = output.logits_BC.float().cpu()
        if watcher is not None:
            watcher.see(split.name, batch, output)
    return logits_NC


def outputs(
    model: BertForSequenceClassification, split: Split, *, precision: Precision
) -> Iterator[tuple[Batch, Output]]:
    """Yields every example once, in batches of similar length, with what the model says of them in evaluation mode."""
    model.eval()
    for example_ids in scoring_batches(split.lengths, SCORING_TOKENS[model.device.type]):
        batch = collate(split, example_ids, model.device, model.config.pad_token_id)
        with torch.inference_mode(), mixed_precision(model.device, precision):
            output = run(model, batch)
        yield batch, output
