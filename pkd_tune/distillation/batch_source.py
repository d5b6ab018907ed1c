"""Where training batches come from: gathered on the device when the examples fit there, else on the host.

Shape suffixes: N examples of a split, S tokens of all examples together, B examples of a batch, T its padded length,
C classes, L teacher layers, K imitated layers, H hidden size.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from pkd_tune.data.batches import Batch, collate
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.memory import give_back_freed_memory
from pkd_tune.distillation.teacher_outputs import TeacherOutputs

logger = logging.getLogger(__name__)

RESIDENT_SHARE = 0.25
"""Of a GPU's free memory, what examples and the teacher's outputs may take to live there, in all trials together."""

LENGTH_MULTIPLE = 8
"""Captured steps are padded to a multiple of this: few lengths, and what a GPU's matrix units like."""


@dataclass(frozen=True, slots=True, eq=False)
class TeacherTargets:
    """What of a teacher's outputs a student learns from."""

    outputs: TeacherOutputs
    logits: bool
    layers: tuple[int, ...]
    """Whose [CLS] states are imitated, counted from 1."""


@dataclass(frozen=True, slots=True, eq=False)
class ResidentData:
    """A training split, and all that the teacher says of it, on one device."""

    input_ids_S: Tensor
    starts_N: Tensor
    lengths_N: Tensor
    first_lengths_N: Tensor
    labels_N: Tensor
    outputs: TeacherOutputs | None


@dataclass(frozen=True, slots=True, eq=False)
class BatchSource:
    """The batches of a training split."""

    split: Split
    lengths_N: np.ndarray
    device: torch.device
    pad_id: int
    targets: TeacherTargets | None
    resident: ResidentData | None
    multiple: int
    """Batches are padded to a multiple of this length."""


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What a batch is made of: `Batch`'s own tensors from the host, or example ids on the device."""

    tensors: dict[str, Tensor]
    examples: int
    length: int


def open_source(
    split: Split,
    device: torch.device,
    pad_id: int,
    targets: TeacherTargets | None = None,
    resident: ResidentData | None = None,
    *,
    multiple: int = 1,
) -> BatchSource:
    """Returns the supply of a split with labels.

    Args:
        split: What is trained on.
        device: Where batches are needed.
        pad_id: Token id of padding.
        teacher targets: Of the teacher, where there is one.
        resident: The same split on the device, where it fits.
        multiple: Batches are padded to a multiple of this length.
    """
    return BatchSource(split, split.lengths, device, pad_id, targets, resident, multiple)


def resident_where_it_fits(
    split: Split, outputs: TeacherOutputs | None, device: torch.device, per_gpu: int = 1
) -> ResidentData | None:
    """Copies a split to a GPU, with the outputs of every teacher layer; None where that is too much, or on a CPU.

    Args:
        split: What is trained on.
        outputs: Of the teacher, where there is one.
        device: Where it would live.
        per_gpu: Trials that share the GPU, each with a copy of its own; all may see the same memory free at once.
    """
    if device.type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if not may_be_resident(resident_bytes(split, outputs), free, per_gpu):
        return None
    try:
        return make_resident(split, outputs, device)
    except torch.OutOfMemoryError:
        logger.warning("the GPU has no room left for the examples of %s: they come from the host's memory", split.name)
    # Only here, after the error and the frames it holds are gone, can what was copied be given back.
    give_back_freed_memory()
    return None


def resident_bytes(split: Split, outputs: TeacherOutputs | None) -> int:
    """Returns what a split, and all that the teacher says of it, take on a device."""
    arrays = (split.input_ids, split.offsets, split.offsets, split.first_lengths, split.labels)
    size = sum(array.nbytes for array in arrays if array is not None)
    if outputs is not None:
        size += outputs.logits_NC.nbytes + outputs.cls_NLH.nbytes + outputs.row_of_example_N.nbytes
    return size


def may_be_resident(size: int, free: int, per_gpu: int) -> bool:
    """Returns whether as many trials may each have so many bytes of examples on a GPU that has so many free."""
    return per_gpu * size <= RESIDENT_SHARE * free


def make_resident(split: Split, outputs: TeacherOutputs | None, device: torch.device) -> ResidentData:
    """Copies a split with labels, and what the teacher says of it, to a device."""

    def copied(array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(array)).to(device)

    assert split.labels is not None
    return ResidentData(
        input_ids_S=copied(split.input_ids),
        starts_N=copied(split.offsets[:-1]),
        lengths_N=copied(split.lengths),
        first_lengths_N=copied(split.first_lengths),
        labels_N=copied(split.labels),
        outputs=None
        if outputs is None
        else TeacherOutputs(*(getattr(outputs, field.name).to(device) for field in fields(TeacherOutputs))),
    )


def epoch_inputs(source: BatchSource, batches: Sequence[np.ndarray]) -> Iterator[Inputs]:
    """Yields what each batch of an epoch is made of.

    What comes from the host is in pinned memory where the device is a GPU. Nothing here waits for the GPU, so that the
    next batch is gathered while it is still busy with the last.

    Args:
        supply: Of the split.
        batches: Arrays of example ids.
    """
    if source.resident is None:
        for ids_B in batches:
            yield _host_inputs(source, ids_B)
        return
    of_epoch = torch.from_numpy(np.concatenate(batches)).to(source.device)
    for ids_B, on_device_B in zip(batches, torch.split(of_epoch, [len(ids_B) for ids_B in batches]), strict=True):
        longest = int(source.lengths_N[ids_B].max())
        yield Inputs({"example_ids_B": on_device_B}, len(ids_B), -(-longest // source.multiple) * source.multiple)


def _host_inputs(source: BatchSource, example_ids_B: np.ndarray) -> Inputs:
    batch = collate(source.split, example_ids_B, torch.device("cpu"), source.pad_id, multiple=source.multiple)
    tensors: dict[str, Tensor] = {f.name: getattr(batch, f.name) for f in fields(Batch)}
    tensors |= _teacher_fields(
        source.targets, None if source.targets is None else source.targets.outputs, batch.example_ids_B
    )
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    if source.device.type == "cuda":
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return Inputs(tensors, *batch.input_ids_BT.shape)


def make_batch(source: BatchSource, tensors: dict[str, Tensor], length: int) -> Batch:
    """Returns the batch that is made of given tensors, which are on the device by now.

    Of example ids it is gathered there without a word to the host, so that a CUDA graph can hold that too.
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
        **_teacher_fields(source.targets, resident.outputs, ids_B),
    )


def _teacher_fields(targets: TeacherTargets | None, outputs: TeacherOutputs | None, ids_B: Tensor) -> dict[str, Tensor]:
    """Returns the fields of a batch that have what the teacher says, where the outputs are."""
    if targets is None or outputs is None:
        return {}
    said = {}
    if targets.logits:
        said["teacher_logits_BC"] = outputs.logits(ids_B)
    if targets.layers:
        said["teacher_cls_BKH"] = outputs.cls(ids_B, targets.layers)
    return said
