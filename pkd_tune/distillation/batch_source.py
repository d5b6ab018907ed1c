"""Training batches: gathered on the GPU when the split and the teacher outputs fit there, else collated on the host.

Shape suffixes: N examples of a split, S tokens of all examples together, B examples of a batch, T its padded length,
C classes, L teacher layers, K imitated layers, H hidden size.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pkd_tune.data.batches import Batch, collate
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.allocator import release_memory
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.encoders.modeling import position_limit

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

RESIDENT_FRACTION = 0.25
"""Share of a GPU's free memory that examples and teacher outputs may take, those of all concurrent trials together."""


@dataclass(frozen=True, slots=True, eq=False)
class ResidentData:
    """A training split and all its teacher outputs on one device."""

    input_ids_S: Tensor
    starts_N: Tensor
    lengths_N: Tensor
    first_lengths_N: Tensor
    labels_N: Tensor
    labelled_N: Tensor | None
    outputs: TeacherOutputs | None


@dataclass(frozen=True, slots=True, eq=False)
class BatchSource:
    """A training split with its teacher outputs, from which batches on a device are made."""

    split: Split
    lengths_N: np.ndarray
    outputs: TeacherOutputs | None
    """Of the teacher, on the host; None for fine-tuning."""
    device: torch.device
    pad_id: int
    """Token id of padding."""
    positions: int
    """The longest input, padding included, that the model has positions for, in tokens."""
    resident: ResidentData | None
    """The same data on the device, where it fits there."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """The tensors from which `make_batch()` makes a batch: all of its fields, or example ids where data is resident."""

    tensors: dict[str, Tensor]
    examples: int
    length: int
    """Padded length of the batch."""


def open_source(
    split: Split, model: PreTrainedModel, outputs: TeacherOutputs | None = None, *, per_gpu: int = 1
) -> BatchSource:
    """Returns the batch source of a split, with the data on the model's device where that is a GPU with room for it.

    Args:
        split: Training split with labels.
        model: The model to train; its device, padding token and number of positions are used.
        outputs: The teacher's for this split; None for fine-tuning.
        per_gpu: Concurrent trials that share the GPU, each with a copy of its own; all may see the same memory free.
    """
    resident = _resident_if_it_fits(split, outputs, model.device, per_gpu)
    positions = position_limit(model)
    return BatchSource(split, split.lengths, outputs, model.device, model.config.pad_token_id, positions, resident)


def _resident_if_it_fits(
    split: Split, outputs: TeacherOutputs | None, device: torch.device, per_gpu: int
) -> ResidentData | None:
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if not may_be_resident(resident_bytes(split, outputs), free, per_gpu):
        return None
    try:
        return make_resident(split, outputs, device)
    except torch.OutOfMemoryError:
        logger.warning("not enough GPU memory for the examples of %s: batches are collated on the host", split.name)
    # Outside the handler: the error holds frames, and these the tensors that were copied.
    release_memory()
    return None


def resident_bytes(split: Split, outputs: TeacherOutputs | None) -> int:
    """Returns the bytes that a split and its teacher outputs take on a device."""
    arrays = (split.input_ids, split.offsets, split.offsets, split.first_lengths, split.labels, split.labelled)
    size = sum(array.nbytes for array in arrays if array is not None)
    if outputs is not None:
        size += outputs.logits_NC.nbytes + outputs.cls_NLH.nbytes + outputs.row_of_example_N.nbytes
    return size


def may_be_resident(size: int, free: int, per_gpu: int) -> bool:
    """Returns whether `per_gpu` trials may each keep `size` bytes of examples on a GPU with `free` bytes free."""
    return per_gpu * size <= RESIDENT_FRACTION * free


def make_resident(split: Split, outputs: TeacherOutputs | None, device: torch.device) -> ResidentData:
    """Copies a split with labels and its teacher outputs to a device."""

    def copied(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device)

    assert split.labels is not None
    return ResidentData(
        input_ids_S=copied(split.input_ids),
        starts_N=copied(split.offsets[:-1]),
        lengths_N=copied(split.lengths),
        first_lengths_N=copied(split.first_lengths),
        labels_N=copied(split.labels),
        labelled_N=None if split.labelled is None else copied(split.labelled),
        outputs=None
        if outputs is None
        else TeacherOutputs(*(getattr(outputs, field.name).to(device) for field in fields(TeacherOutputs))),
    )


def padded_length(source: BatchSource, longest: int, multiple: int) -> int:
    """Returns the length that a batch is padded to: a multiple, unless the model has fewer positions.

    Args:
        source: Of the batch.
        longest: Length of its longest example.
        multiple: Of what, if there are enough positions.
    """
    return max(longest, min(-(-longest // multiple) * multiple, source.positions))


def epoch_inputs(source: BatchSource, loss: Loss, batches: Sequence[np.ndarray], *, multiple: int) -> Iterator[Inputs]:
    """Yields the inputs of each batch of an epoch; on the host in pinned memory where the device is a GPU.

    Nothing here synchronises with the GPU, so that the next batch is prepared while it works on the last.

    Args:
        source: Of the training split.
        loss: Decides which teacher outputs a batch has.
        batches: Arrays of example ids, one per batch.
        multiple: Of which lengths are, as in `padded_length()`.
    """
    lengths = [padded_length(source, int(source.lengths_N[ids_B].max()), multiple) for ids_B in batches]
    if source.resident is None:
        for ids_B, length in zip(batches, lengths, strict=True):
            yield _host_inputs(source, loss, ids_B, length)
        return
    ids_of_epoch = torch.from_numpy(np.concatenate(batches)).to(source.device)
    on_device = torch.split(ids_of_epoch, [len(ids_B) for ids_B in batches])
    for device_ids_B, length in zip(on_device, lengths, strict=True):
        yield Inputs({"example_ids_B": device_ids_B}, len(device_ids_B), length)


def _host_inputs(source: BatchSource, loss: Loss, example_ids_B: np.ndarray, length: int) -> Inputs:
    batch = collate(source.split, example_ids_B, torch.device("cpu"), source.pad_id, length=length)
    tensors: dict[str, Tensor] = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    tensors |= _teacher_fields(loss, source.outputs, batch.example_ids_B)
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if source.device.type == "cuda":
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return Inputs(tensors, *batch.input_ids_BT.shape)


def input_buffers(inputs: Inputs, length: int, device: torch.device) -> dict[str, Tensor]:
    """Returns zeros on a device with the shapes and types of inputs like these, but of another padded length."""
    return {
        name: torch.zeros((inputs.examples, length) if name.endswith("_BT") else tensor.shape, dtype=tensor.dtype).to(
            device
        )
        for name, tensor in inputs.tensors.items()
    }


def make_batch(source: BatchSource, loss: Loss, tensors: dict[str, Tensor], length: int) -> Batch:
    """Returns the batch of given inputs, which must be on the device by now.

    From example ids it is gathered without synchronising with the host, so that a CUDA graph can contain it.

    Args:
        source: Of the training split.
        loss: The one of `epoch_inputs()`, or one with the same structure.
        tensors: Of the inputs.
        length: Of the inputs.
    """
    resident = source.resident
    if resident is None:
        return Batch(**tensors)
    ids_B = tensors["example_ids_B"]
    position_T = torch.arange(length, device=ids_B.device)
    mask_BT = position_T < resident.lengths_N[ids_B, None]
    source_BT = (resident.starts_N[ids_B, None] + position_T) * mask_BT
    return Batch(
        example_ids_B=ids_B,
        input_ids_BT=resident.input_ids_S[source_BT].masked_fill(~mask_BT, source.pad_id).long(),
        token_types_BT=((position_T >= resident.first_lengths_N[ids_B, None]) & mask_BT).long(),
        mask_BT=mask_BT,
        labels_B=resident.labels_N[ids_B],
        labelled_B=None if resident.labelled_N is None else resident.labelled_N[ids_B],
        **_teacher_fields(loss, resident.outputs, ids_B),
    )


def _teacher_fields(loss: Loss, outputs: TeacherOutputs | None, ids_B: Tensor) -> dict[str, Tensor]:
    """Returns the teacher outputs that the loss needs, by the names of a batch's fields, where `outputs` is."""
    found = {}
    if outputs is not None and loss.needs_logits:
        found["teacher_logits_BC"] = outputs.logits(ids_B)
    if outputs is not None and loss.needs_layers:
        found["teacher_cls_BKH"] = outputs.cls(ids_B, loss.needs_layers)
    return found
