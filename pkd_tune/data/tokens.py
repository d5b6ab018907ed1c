"""Tokenised splits, and the Arrow files they are kept in.

Shapes: N examples, T tokens of all examples together.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pkd_tune.config import UserError
from pkd_tune.data.tsv import RawSplit
from pkd_tune.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Number = TypeVar("Number", bound=np.number)

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
"""What a tokenizer may be saved in."""

TOKENIZER_MAIN_FILES = ("tokenizer.json", "vocab.txt")
"""One of these is enough to build the tokenizer."""

SHORTEST = 8
"""Word pieces that examples are cut to at least: of two sentences, something is left."""

_CHUNK = 10_000  # Examples tokenised at a time: Python's lists of numbers are some ten times larger than the arrays.

# large_list has 64-bit offsets, as `Split` does: a plain list's 32-bit ones would have to be copied.
_FIELDS = (
    pa.field("example_id", pa.int64(), nullable=False),
    pa.field("input_ids", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    pa.field("first_length", pa.int32(), nullable=False),
    pa.field("label", pa.int64()),
)
_VALUE_FIELDS = (*_FIELDS[:3], pa.field("label", pa.float32()))  # Of a regression task.


class DamagedFileError(Exception):
    """A file of tokenised examples was cut short or changed after it was written."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One tokenised split. The arrays are read-only views of a memory-mapped file; example i is row i."""

    name: str
    """Its name in the task's table: train, dev, dev_mm, test or test_mm."""
    key: str
    """Changes with the tokens, their order, the labels and the tokenizer; hexadecimal."""
    input_ids: npt.NDArray[np.int32]
    """Token ids of all examples one after another, special tokens included, without padding; shape (T,)."""
    offsets: npt.NDArray[np.int64]
    """Example i is input_ids[offsets[i]:offsets[i + 1]]; shape (N + 1,)."""
    first_lengths: npt.NDArray[np.int32]
    """How many of an example's tokens have token type 0, namely [CLS] sentence1 [SEP]; shape (N,)."""
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32] | None
    """Class ids, or the labels of a regression task, shape (N,); None in a split without labels."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each example, shape (N,)."""
        return np.diff(self.offsets)


def take(split: Split, name: str, example_ids_M: npt.NDArray[np.int64]) -> Split:
    """A split of its own made of some examples of another, which become its examples 0 .. M-1."""
    lengths_M = split.lengths[example_ids_M]
    offsets = np.concatenate([[0], np.cumsum(lengths_M)])
    position_T = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths_M)
    source_T = np.repeat(split.offsets[example_ids_M], lengths_M) + position_T
    chosen = hashlib.sha256(f"{split.key}\0{name}\0".encode() + example_ids_M.astype("<i8").tobytes())
    return Split(
        name=name,
        key=chosen.hexdigest()[:16],
        input_ids=split.input_ids[source_T],
        offsets=offsets,
        first_lengths=split.first_lengths[example_ids_M],
        labels=None if split.labels is None else split.labels[example_ids_M],
    )


def tokenizer_key(model_dir: Path) -> str:
    """Hash of the tokenizer's files in a model's folder.

    Raises:
        UserError: The folder has neither tokenizer.json nor vocab.txt.
    """
    if not any((model_dir / name).is_file() for name in TOKENIZER_MAIN_FILES):
        raise UserError(f"{model_dir} has no tokenizer: neither tokenizer.json nor vocab.txt is in it")
    digest = hashlib.sha256()
    for name in TOKENIZER_FILES:
        if (model_dir / name).is_file():
            content = (model_dir / name).read_bytes()
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()[:16]


def load_tokenizer(model_dir: Path, max_length: int) -> "PreTrainedTokenizerBase":
    """The fast tokenizer of a model's folder.

    Raises:
        UserError: It has no fast tokenizer, or the model cannot take `max_length` tokens.
    """
    from transformers import AutoTokenizer

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, use_fast=True)
    if not tokenizer.is_fast:
        raise UserError(f"{model_dir}: its tokenizer {type(tokenizer).__name__} has no fast version")
    if max_length < SHORTEST:
        raise UserError(f"max_length must be at least {SHORTEST}, but got {max_length}")
    if max_length > tokenizer.model_max_length:  # a huge number where the tokenizer knows of no limit
        longest = tokenizer.model_max_length
        raise UserError(f"max_length must be at most the {longest} that {model_dir} can take, but got {max_length}")
    return tokenizer


def tokenise(raw: RawSplit, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> pa.RecordBatch:
    """Tokenises a split; of a pair that is too long, the longer sentence is cut first.

    Returns:
        N rows: example_id, input_ids, first_length, label.
    """
    chunks = list(_tokenised_chunks(raw, tokenizer, max_length))
    input_ids_T, lengths_N, first_lengths_N = (np.concatenate(arrays) for arrays in zip(*chunks, strict=True))
    offsets = np.concatenate([[0], np.cumsum(lengths_N, dtype=np.int64)])
    input_ids = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(input_ids_T), type=_FIELDS[1].type)
    labels = pa.nulls(len(raw), pa.int64()) if raw.labels is None else pa.array(raw.labels)
    fields = _FIELDS
    if pa.types.is_floating(labels.type):
        labels, fields = labels.cast(pa.float32()), _VALUE_FIELDS
    columns = [pa.array(np.arange(len(raw), dtype=np.int64)), input_ids, pa.array(first_lengths_N), labels]
    return pa.record_batch(columns, schema=pa.schema(fields))


def _tokenised_chunks(
    raw: RawSplit, tokenizer: "PreTrainedTokenizerBase", max_length: int
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
    """Token ids, lengths and first lengths of some thousand examples at a time."""
    for start in range(0, len(raw), _CHUNK):
        rows = slice(start, start + _CHUNK)
        # Truncation and padding are both said aloud: a tokenizer.json can carry settings of its own for either.
        tokens = tokenizer(
            raw.sentence1[rows],
            None if raw.sentence2 is None else raw.sentence2[rows],
            truncation="longest_first",
            padding=False,
            max_length=max_length,
            return_token_type_ids=True,
            return_attention_mask=False,
        )
        ids: list[list[int]] = tokens["input_ids"]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        first_lengths = np.array([row.count(0) for row in tokens["token_type_ids"]], dtype=np.int32)
        yield np.array([token for row in ids for token in row], dtype=np.int32), lengths, first_lengths


def write_split(path: Path, batch: pa.RecordBatch, tokenizer: str) -> None:
    """Writes a tokenised split, atomically.

    Args:
        path: The Arrow file; its folder exists.
        batch: What `tokenise` returned.
        tokenizer: The key of the tokenizer, which becomes part of the split's key.
    """
    metadata = {"tokenizer": tokenizer, "key": _content_key(batch, tokenizer)}
    schema = batch.schema.with_metadata(metadata)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch.replace_schema_metadata(metadata))


def open_split(path: Path) -> Split:
    """Maps a file that `write_split` wrote.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The file is not what was written.
    """
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            known = any(reader.schema.equals(pa.schema(fields)) for fields in (_FIELDS, _VALUE_FIELDS))
            if not known or reader.num_record_batches != 1:
                raise DamagedFileError(f"{path} does not hold a tokenised split")
            batch, metadata = reader.get_batch(0), reader.schema.metadata or {}
            batch.validate()  # That lengths fit the buffers; reading alone does not check all of it.
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    key = metadata.get(b"key", b"").decode(errors="replace")
    # Recomputed, because a file can be damaged inside a column, where the format itself notices nothing.
    if key != _content_key(batch, metadata.get(b"tokenizer", b"").decode(errors="replace")):
        raise DamagedFileError(f"{path} does not hold what its key says")
    input_ids, labels = batch.column("input_ids"), batch.column("label")
    return Split(
        name=path.stem,
        key=key,
        input_ids=_view(input_ids.values, np.int32),
        offsets=_view(input_ids.offsets, np.int64),
        first_lengths=_view(batch.column("first_length"), np.int32),
        labels=_labels(labels),
    )


def _content_key(batch: pa.RecordBatch, tokenizer: str) -> str:
    """Hash of every column's values and of the tokenizer's key."""
    input_ids, labels = batch.column("input_ids"), batch.column("label")
    parts: list[npt.NDArray[np.number]] = [
        _view(batch.column("example_id"), np.int64),
        _view(input_ids.offsets, np.int64),
        _view(input_ids.values, np.int32),
        _view(batch.column("first_length"), np.int32),
    ]
    if (values := _labels(labels)) is not None:
        parts.append(values)
    digest = hashlib.sha256(tokenizer.encode())
    for part in parts:
        digest.update(f"\0{len(part)}\0".encode())
        digest.update(part.data)
    return digest.hexdigest()[:16]


def _labels(array: pa.Array) -> npt.NDArray[np.int64] | npt.NDArray[np.float32] | None:
    if array.null_count:
        return None
    return _view(array, np.float32) if pa.types.is_floating(array.type) else _view(array, np.int64)


def _view(array: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """A read-only view of an Arrow array without nulls.

    Not pyarrow's own to_numpy, which imports pandas: that takes longer than all else when the files are there.
    """
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
