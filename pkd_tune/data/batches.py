"""Batches of a split: which examples they consist of, and their padded tensors.

Shape suffixes: N examples of a split, B of a batch, T its padded length, C classes, K imitated layers, H hidden size.
"""

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pkd_tune.data.tokens import Split

SCORING_TOKENS = {"cpu": 2048, "cuda": 8192}
"""Tokens per batch in evaluation, with padding. On a CPU larger batches are slower: more padding, more cache misses."""

WINDOW_BATCHES = 16
"""Examples are sorted by length within windows of this many batches: little padding in a nearly random order."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded to a common length."""

    example_ids_B: Tensor
    """Row numbers in the split, int64, by which teacher outputs are found."""
    input_ids_BT: Tensor
    """int64."""
    token_types_BT: Tensor
    """int64: 0 for the first sentence and padding, 1 for the second sentence; all 0 where the tokenizer has no segment
    ids. A model without segment embeddings ignores them."""
    mask_BT: Tensor
    """True for tokens, False for padding."""
    labels_B: Tensor
    """Class ids, int64, or the labels of a regression task, fp32."""
    labelled_B: Tensor | None = None
    """Whether each example has a label; None in a split where all have one, or none."""
    teacher_logits_BC: Tensor | None = None
    """The teacher's logits, fp32; None if the loss does not need them."""
    teacher_cls_BKH: Tensor | None = None
    """The teacher's [CLS] states after the imitated layers, fp16; None if the loss does not need them."""


def in_parts(batch: Batch, parts: int) -> list[Batch]:
    """Splits a batch into at most `parts` micro-batches of about equal size, none of them empty."""
    size = -(-len(batch.labels_B) // parts)
    tensors = {field.name: getattr(batch, field.name) for field in fields(Batch)}
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    return [
        Batch(**{name: tensor[start : start + size] for name, tensor in tensors.items()})
        for start in range(0, len(batch.labels_B), size)
    ]


def training_batches(lengths_N: np.ndarray, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Returns the batches of one epoch: arrays of example ids, in which every example occurs once.

    Examples are shuffled, then sorted by length within windows of `WINDOW_BATCHES` batches; then the batches are
    shuffled. At most one batch is smaller than `batch_size`.
    """
    order_N = rng.permutation(len(lengths_N))
    window = WINDOW_BATCHES * batch_size
    batches = []
    for start in range(0, len(order_N), window):
        ids = order_N[start : start + window]
        ids = ids[np.argsort(lengths_N[ids], kind="stable")]
        batches += [ids[i : i + batch_size] for i in range(0, len(ids), batch_size)]
    return [batches[i] for i in rng.permutation(len(batches))]


def scoring_batches(lengths_N: np.ndarray, tokens_per_batch: int) -> list[np.ndarray]:
    """Returns every example once, longest first, in batches of at most `tokens_per_batch` tokens including padding.

    A single example may be longer than that.
    """
    order_N = np.argsort(-lengths_N, kind="stable")
    batches = []
    start = 0
    while start < len(order_N):
        size = max(1, tokens_per_batch // int(lengths_N[order_N[start]]))
        batches.append(order_N[start : start + size])
        start += size
    return batches


def collate(
    split: Split, example_ids_B: np.ndarray, device: torch.device, pad_id: int, *, length: int | None = None
) -> Batch:
    """Returns a padded batch of the given examples of a split; labels are 0 in a split without labels.

    Args:
        split: The split.
        example_ids_B: Row numbers.
        device: Device of the batch, except for the example ids, which stay on the CPU.
        pad_id: Token id of padding.
        length: The padded length; None: that of the longest example.
    """
    starts_B, ends_B = split.offsets[example_ids_B], split.offsets[example_ids_B + 1]
    lengths_B = ends_B - starts_B
    position_T = np.arange(lengths_B.max() if length is None else length)
    mask_BT = position_T[None, :] < lengths_B[:, None]
    source_BT = np.where(mask_BT, starts_B[:, None] + position_T[None, :], 0)
    input_ids_BT = np.where(mask_BT, split.input_ids[source_BT], pad_id).astype(np.int64)
    token_types_BT = ((position_T[None, :] >= split.first_lengths[example_ids_B][:, None]) & mask_BT).astype(np.int64)
    labels_B = np.zeros(len(example_ids_B), np.int64) if split.labels is None else split.labels[example_ids_B]
    return Batch(
        example_ids_B=torch.from_numpy(example_ids_B.astype(np.int64)),
        input_ids_BT=torch.from_numpy(input_ids_BT).to(device),
        token_types_BT=torch.from_numpy(token_types_BT).to(device),
        mask_BT=torch.from_numpy(mask_BT).to(device),
        labels_B=torch.from_numpy(np.ascontiguousarray(labels_B)).to(device),
        labelled_B=None if split.labelled is None else torch.from_numpy(split.labelled[example_ids_B]).to(device),
    )
