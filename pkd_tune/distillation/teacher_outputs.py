"""Teacher outputs of a split: logits and the [CLS] state of every layer, computed once and shared by all students.

One safetensors file per teacher (weights) and split (token ids): logits in fp32, [CLS] states after every layer in
fp16, and the example id of each row; the header has the keys of teacher and split and a hash of the tensors. Processes
map the file into memory and so share one copy.

Shape suffixes: N examples, B examples of a batch, L teacher layers, K imitated layers, H hidden size, C classes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pkd_tune.config import UserError
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.inference import outputs
from pkd_tune.files import LOCK_MODE, named, read_json, write_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

FORMAT = 3
"""Version of the file format; part of the file's name, so that files of another version are not used."""

NOTED_SECONDS = 60.0
"""After so long it is noted how many rows there are, from which another process goes on should this one die."""

HASH = "sha256"
"""Name of the tensors' hash in a file's header."""

_CHECKED_ROWS = 10_000  # at once: what is found out about them takes memory

_NO_HASH = "0" * 64  # placeholder in the header until the tensors are written
_ZEROS = 2**20  # bytes written at once to allocate a file


class OutputsMissingError(LookupError):
    """Teacher outputs are not in the cache, or a damaged file is, and are not to be computed in this process."""


@dataclass(frozen=True, slots=True)
class TeacherOutputs:
    """Outputs of a teacher for one split; rows are in the order of computation, not of example ids."""

    logits_NC: Tensor
    """fp32."""
    cls_NLH: Tensor
    """[CLS] states after teacher layers 1 .. L, fp16."""
    row_of_example_N: Tensor
    """Row of each example id, int64."""

    def logits(self, example_ids_B: Tensor) -> Tensor:
        """Returns the logits of the given examples: (B, C)."""
        return self.logits_NC[self.row_of_example_N[example_ids_B]]

    def cls(self, example_ids_B: Tensor, layers: tuple[int, ...]) -> Tensor:
        """Returns the [CLS] states of the given examples after the given layers, counted from 1: (B, K, H)."""
        rows_B = self.row_of_example_N[example_ids_B]
        # Layer by layer: a tensor of layer numbers would be a copy from the host, which a CUDA graph cannot contain.
        return torch.stack([self.cls_NLH[rows_B, layer - 1] for layer in layers], dim=1)


def teacher_outputs(
    folder: Path,
    split: Split,
    teacher_key: str,
    load_teacher: Callable[[], PreTrainedModel] | None,
    *,
    verify: bool = True,
) -> TeacherOutputs:
    """Opens the teacher outputs of a split from the cache, memory-mapped; computes them first where they are missing.

    Other processes that need the same file wait for the one that computes it, and go on where it stopped, should it
    die; a minute's work is lost at most. A file that is damaged, or of another split or teacher, is reported in a
    warning and computed again.

    Args:
        folder: Cache folder; made when missing.
        split: Its key covers token ids and their order.
        teacher_key: `weights_key()` of the teacher.
        load_teacher: Called only when the outputs must be computed, in fp32 on the device of the returned model; None:
            they are not computed here.
        verify: Whether the tensors of an existing file are checked against their hash. Trial processes skip this,
            because the search has done it.

    Raises:
        OutputsMissingError: When they must be computed, and not here.
    """
    origin = {"teacher": teacher_key, "split": split.key}
    key = hashlib.sha256(f"{FORMAT} {teacher_key} {split.key}".encode()).hexdigest()[:16]
    path = folder / f"{split.name}-{key}.safetensors"
    if path.exists() and (found := _open(path, len(split), origin, verify=verify)) is not None:
        return found  # without a lock, which only those who may write there can take
    if load_teacher is None:
        raise OutputsMissingError(path)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", mode=LOCK_MODE):
        if path.exists():
            found = _open(path, len(split), origin, verify=verify)
            if found is not None:
                return found
            logger.warning("%s is damaged, or belongs to another teacher or split; computing it again", path)
        logger.info("computing the teacher outputs of %s: %d examples", split.name, len(split))
        _build(path, split, load_teacher(), origin)
    built = _open(path, len(split), origin, verify=False)
    assert built is not None
    return built


def check_states(outputs: Iterable[TeacherOutputs], teacher_dir: Path) -> None:
    """Refuses [CLS] states that students would imitate and that are larger than what fp16 holds.

    Those after the last layer are never imitated.

    Args:
        outputs: Of the teacher.
        teacher_dir: Its folder, for the message.

    Raises:
        UserError: When there are any.
    """
    for each in outputs:
        for states_BLH in each.cls_NLH[:, :-1].split(_CHECKED_ROWS):
            finite_L = states_BLH.isfinite().all(dim=2).all(dim=0)
            if not finite_L.all():
                raise UserError(
                    f"the teacher in {teacher_dir} has [CLS] states after layer {int(finite_L.int().argmin()) + 1} "
                    "that are too large for fp16, in which they are stored; give another teacher, or only methods that "
                    "do not imitate them, such as kd"
                )


def _open(path: Path, examples: int, origin: dict[str, str], *, verify: bool) -> TeacherOutputs | None:
    """Maps a file into memory; None unless it is undamaged, of this origin, and has each example once."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata != {**origin, HASH: _data_hash(path) if verify else metadata.get(HASH)}:
                return None
            logits_NC, cls_NLH, ids_N = (file.get_tensor(name) for name in ("logits", "cls", "example_id"))
    except SafetensorError:
        return None
    row_of_example_N = torch.argsort(ids_N)
    if not torch.equal(ids_N[row_of_example_N], torch.arange(examples)):
        return None
    return TeacherOutputs(logits_NC, cls_NLH, row_of_example_N)


def _build(path: Path, split: Split, teacher: PreTrainedModel, origin: dict[str, str]) -> None:
    """Computes the outputs and writes the file batch by batch, so that memory does not grow with the split."""
    config = teacher.config
    n = len(split)
    tensors: dict[str, tuple[str, type, tuple[int, ...]]] = {
        "logits": ("F32", np.float32, (n, config.num_labels)),
        "cls": ("F16", np.float16, (n, config.num_hidden_layers, config.hidden_size)),
        "example_id": ("I64", np.int64, (n,)),
    }
    partial, progress = path.with_suffix(".partial"), path.with_suffix(".progress")
    header, offsets, size = _layout(tensors, {**origin, HASH: _NO_HASH})
    with named(path):
        try:
            if not (done := _rows_done(partial, progress, header, size)):
                progress.unlink(missing_ok=True)
                partial.unlink(missing_ok=True)  # it may be another user's
                _allocate(partial, header, size)
            else:
                logger.info("%s of them are there already", f"{done:,}")
            noted = time.monotonic()
            with partial.open("r+b") as file:
                for batch, output in outputs(teacher, split, precision="fp32", first=done):
                    rows = {
                        "logits": output.logits_BC.cpu().numpy(),
                        "cls": output.cls_BLH.cpu().half().numpy(),
                        "example_id": batch.example_ids_B.numpy(),
                    }
                    for name, array in rows.items():
                        os.pwrite(file.fileno(), array.tobytes(), offsets[name] + done * array[0].nbytes)
                    done += len(rows["example_id"])
                    if time.monotonic() - noted >= NOTED_SECONDS:
                        os.fsync(file.fileno())
                        write_json(progress, {"rows": done})
                        noted = time.monotonic()
                file.seek(header.index(_NO_HASH.encode()))
                file.write(_data_hash(partial).encode())
            os.replace(partial, path)
            progress.unlink(missing_ok=True)
        finally:
            if not progress.exists():
                partial.unlink(missing_ok=True)


def _rows_done(partial: Path, progress: Path, header: bytes, size: int) -> int:
    """Returns how many rows of a file there are from a process that died; 0 where it would have been another file."""
    if not (os.access(partial, os.W_OK) and progress.exists() and partial.stat().st_size == size):
        return 0
    with partial.open("rb") as file:
        if file.read(len(header)) != header:
            return 0
    return int(read_json(progress)["rows"])


def _data_hash(path: Path) -> str:
    """Returns the hash of a safetensors file's tensors: all bytes after the header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _layout(
    tensors: dict[str, tuple[str, type, tuple[int, ...]]], metadata: dict[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """Returns the beginning of a safetensors file, at which byte each tensor begins, and the file's size.

    The library writes only tensors that are wholly in memory, and pages written through a mapping count as memory of
    this process. Format: the length of the header as 8 bytes, the header as JSON padded with spaces to a multiple of 8,
    then the tensors (https://huggingface.co/docs/safetensors).

    Args:
        tensors: Format name, dtype and shape of each.
        metadata: Of the header.
    """
    described: dict[str, object] = {"__metadata__": metadata}
    starts: dict[str, int] = {}
    offset = 0
    for name, (format_name, dtype, shape) in tensors.items():
        starts[name], offset = offset, offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
        described[name] = {"dtype": format_name, "shape": list(shape), "data_offsets": [starts[name], offset]}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    return header, {name: len(header) + start for name, start in starts.items()}, len(header) + offset


def _allocate(path: Path, header: bytes, size: int) -> None:
    """Creates a file of this size with its header; all blocks are taken now, so that a full disk is an error here."""
    with path.open("wb") as file:
        file.write(header)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:  # macOS
            for start in range(len(header), size, _ZEROS):
                file.write(bytes(min(_ZEROS, size - start)))
