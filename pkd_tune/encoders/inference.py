"""A model in evaluation mode on a whole split, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from pkd_tune.config import Precision
from pkd_tune.data.batches import SCORING_TOKENS, Batch, collate, scoring_batches
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.modeling import Output, run
from pkd_tune.encoders.precision import mixed_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def outputs(
    model: PreTrainedModel, split: Split, *, precision: Precision, first: int = 0
) -> Iterator[tuple[Batch, Output]]:
    """Yields every example once, in batches of similar length, with the model's output in evaluation mode.

    Args:
        model: On its device.
        split: The longest of its examples come first, on every device in the same order.
        precision: Of the forward pass.
        first: Examples at the beginning of this order that are left out.
    """
    model.eval()
    before = 0
    for of_batch in scoring_batches(split.lengths, SCORING_TOKENS[model.device.type]):
        example_ids = of_batch[max(0, first - before) :]
        before += len(of_batch)
        if not len(example_ids):
            continue
        batch = collate(split, example_ids, model.device, model.config.pad_token_id)
        with torch.inference_mode(), mixed_precision(model.device, precision):
            output = run(model, batch)
        yield batch, output
