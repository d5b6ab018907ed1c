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


def outputs(model: PreTrainedModel, split: Split, *, precision: Precision) -> Iterator[tuple[Batch, Output]]:
    """Yields every example once, in batches of similar length, with the model's output in evaluation mode."""
    model.eval()
    for example_ids in scoring_batches(split.lengths, SCORING_TOKENS[model.device.type]):
        batch = collate(split, example_ids, model.device, model.config.pad_token_id)
        with torch.inference_mode(), mixed_precision(model.device, precision):
            output = run(model, batch)
        yield batch, output
