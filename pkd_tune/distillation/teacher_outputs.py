"""What the teacher says of every example, computed once and shared by all students.

Shape suffixes: N examples, L teacher layers, H hidden size, C classes.

One safetensors file per (teacher weights, split content) under `<data-dir>/teacher_cache/`: logits in fp32, [CLS]
states after every layer in fp16, and the example id of each row; its header says of which teacher and split, and has a
hash of all that follows. Processes map it into memory, so they share one copy.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pkd_tune.data.tokens import Split
from pkd_tune.distillation.inference import outputs
from pkd_tune.files import atomic_path

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification

logger = logging.getLogger(__name__)

FORMAT = 3
"""Part of every key: raising it makes all older files unused."""


HASH = "sha256"
"""Name under which a file's header has the hash of its tensors."""

_NO_HASH = "0" * 64  # stands in the header until the tensors are there
_HEADER_PEEK = 4096  # bytes that surely hold the header


@dataclass(frozen=True, slots=True)
class TeacherOutputs:
    """Memory-mapped outputs of the teacher for one split, in the order in which they were computed."""

    logits_NC: Tensor
    """fp32."""
    cls_NLH: Tensor
    """[CLS] states after teacher layers 1 .. L, fp16."""
    row_of_example_N: Tensor
    """The row of each example id, int64."""

    def logits(self, example_ids_B: Tensor) -> Tensor:
        """Returns (B, C) logits for the given examples."""
        return self.logits_NC[self.row_of_example_N[example_ids_B]]

    def cls(self, example_ids_B: Tensor, layers: tuple[int, ...]) -> Tensor:
        """Returns (B, K, H) [CLS] states for the given examples after the given layers, counted from 1."""
        rows_B = self.row_of_example_N[example_ids_B]
        # Layer by layer: a tensor of layer numbers would have to come from the host, which a CUDA graph cannot hold.
        return torch.stack([self.cls_NLH[rows_B, layer - 1] for layer in layers], dim=1)


def teacher_outputs(
    folder: Path,
    split: Split,
    teacher_key: str,
    load_teacher: Callable[[], BertForSequenceClassification],
    *,
    verify: bool = True,
) -> TeacherOutputs:
    """Opens the teacher's outputs for a split, computing them first where they are not there.

    Another process that needs the same file waits for the one that computes it. A file that is not whole, or is of
    another split or teacher, is named in a warning and computed again.

    Args:
        folder: Where the files of this task lie; made when missing.
        split: Its key covers texts, tokenizer and maximum length.
        teacher_key: From `weights_key()`.
        load_teacher: Called only when the outputs must be computed; runs in fp32 on the device its model is on.
        verify: Whether every byte of a file that is there is checked against its hash. A trial's process leaves it out,
            because the search has done it.
    """
    origin = {"teacher": teacher_key, "split": split.key}
    key = hashlib.sha256(f"{FORMAT} {teacher_key} {split.key}".encode()).hexdigest()[:16]
    path = folder / f"{split.name}-{key}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if path.exists():
            found = _open(path, len(split), origin, verify=verify)
            if found is not None:
                return found
            logger.warning("%s is damaged, or of another teacher or split; computing it again", path)
        logger.info("computing what the teacher says of %s: %d examples, once", split.name, len(split))
        _build(path, split, load_teacher(), origin)
    built = _open(path, len(split), origin, verify=False)
    assert built is not None
    return built


def _open(path: Path, examples: int, origin: dict[str, str], *, verify: bool) -> TeacherOutputs | None:
    """Maps a file into memory; None unless it is whole, of this origin, and holds each example once."""
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            if said != {**origin, HASH: _data_hash(path) if verify else said.get(HASH)}:
                return None
            logits_NC, cls_NLH, ids_N = (file.get_tensor(name) for name in ("logits", "cls", "example_id"))
    except SafetensorError:
        return None
    row_of_example_N = torch.argsort(ids_N)
    if not torch.equal(ids_N[row_of_example_N], torch.arange(examples)):
        return None
    return TeacherOutputs(logits_NC, cls_NLH, row_of_example_N)


def _build(path: Path, split: Split, teacher: BertForSequenceClassification, origin: dict[str, str]) -> None:
    """Writes the file batch by batch, so that memory does not grow with the split, then gives it its name."""
    config = teacher.config
    n = len(split)
    tensors: dict[str, tuple[str, type, tuple[int, ...]]] = {
        "logits": ("F32", np.float32, (n, config.num_labels)),
        "cls": ("F16", np.float16, (n, config.num_hidden_layers, config.hidden_size)),
        "example_id": ("I64", np.int64, (n,)),
    }
    with atomic_path(path) as temporary:
        _fill(temporary, split, teacher, tensors, origin)


def _fill(
    path: Path,
    split: Split,
    teacher: BertForSequenceClassification,
    tensors: dict[str, tuple[str, type, tuple[int, ...]]],
    origin: dict[str, str],
) -> None:
    """Computes the outputs batch by batch, and writes them to a new safetensors file."""
    places = _create_safetensors(path, tensors, {**origin, HASH: _NO_HASH})
    with path.open("r+b") as file:
        for batch, output in outputs(teacher, split, precision="fp32"):
            rows = {
                "logits": output.logits_BC.cpu().numpy(),
                "cls": output.cls_BLH.cpu().half().numpy(),
                "example_id": batch.example_ids_B.numpy(),
            }
            for name, array in rows.items():
                places[name] += os.pwrite(file.fileno(), array.tobytes(), places[name])
        file.seek(file.read(_HEADER_PEEK).index(_NO_HASH.encode()))
        file.write(_data_hash(path).encode())


def _data_hash(path: Path) -> str:
    """Returns the hash of a safetensors file's tensors, all that follows its header."""
    with path.open("rb") as file:
        (header,) = struct.unpack("<Q", file.read(8))
        file.seek(8 + header)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _create_safetensors(
    path: Path, tensors: dict[str, tuple[str, type, tuple[int, ...]]], metadata: dict[str, str]
) -> dict[str, int]:
    """Creates a safetensors file of the given (format name, dtype, shape) and returns at which byte each tensor begins.

    The library writes only tensors that are in memory as a whole; and what is written to a mapped file counts as memory
    of this process. Layout: the header's length as 8 bytes, the header as JSON padded with spaces to a multiple of 8,
    then the tensors (https://huggingface.co/docs/safetensors).
    """
    header: dict[str, object] = {"__metadata__": metadata}
    starts: dict[str, int] = {}
    offset = 0
    for name, (format_name, dtype, shape) in tensors.items():
        starts[name], offset = offset, offset + int(np.prod(shape)) * np.dtype(dtype).itemsize
        header[name] = {"dtype": format_name, "shape": list(shape), "data_offsets": [starts[name], offset]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        os.posix_fallocate(file.fileno(), 0, 8 + len(text) + offset)  # a full disk says so here, not at a mapped page
    return {name: 8 + len(text) + start for name, start in starts.items()}
