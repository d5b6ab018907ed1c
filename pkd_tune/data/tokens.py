"""Tokenised splits and the Arrow files that store them.

Shapes: N examples of a split, T tokens of all its examples together.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pkd_tune.config import UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.files import atomic_path

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Number = TypeVar("Number", bound=np.number)

SENTENCEPIECE_FILES = ("sentencepiece.bpe.model", "spm.model", "spiece.model")
"""Names of SentencePiece models, which transformers converts where there is no tokenizer.json."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    *SENTENCEPIECE_FILES,
)
"""Files that a tokenizer may consist of."""

TOKENIZER_MAIN_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", *SENTENCEPIECE_FILES)
"""Any of these is sufficient to load the tokenizer, vocab.json with merges.txt beside it."""

SHORTEST = 8
"""Minimum for the maximum length in tokens, so that truncation leaves something of two sentences."""

_CHUNK = 10_000  # examples tokenised at a time: as Python lists, tokens take ten times the memory of arrays

_CHUNK_TOKENS = 1_000_000  # looked at at a time: as indices, token ids take twice their memory

# large_list has 64-bit offsets, as `Split` does; the 32-bit offsets of a list would have to be copied.
_FIELDS = (
    pa.field("example_id", pa.int64(), nullable=False),
    pa.field("input_ids", pa.large_list(pa.field("item", pa.int32(), nullable=False)), nullable=False),
    pa.field("first_length", pa.int32(), nullable=False),
    pa.field("label", pa.int64()),
)
_VALUE_FIELDS = (*_FIELDS[:3], pa.field("label", pa.float32()))  # regression


class DamagedFileError(Exception):
    """A file of tokenised examples was truncated or changed after it was written."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """One tokenised split; example i is row i. The arrays of a split on disk are read-only views of the mapped file."""

    name: str
    """Name of the split: train, dev, dev_mm, test or test_mm."""
    key: str
    """Hash of the content: token ids, example and sentence boundaries, labels, and their order; hexadecimal."""
    input_ids: npt.NDArray[np.int32]
    """Token ids of all examples concatenated, with special tokens and without padding; shape (T,)."""
    offsets: npt.NDArray[np.int64]
    """Example i is input_ids[offsets[i]:offsets[i + 1]]; shape (N + 1,)."""
    first_lengths: npt.NDArray[np.int32]
    """Number of tokens of type 0 of each example, namely [CLS] sentence1 [SEP], or all where the tokenizer has no
    segment ids; shape (N,)."""
    labels: npt.NDArray[np.int64] | npt.NDArray[np.float32] | None
    """Class ids, or fp32 values of a regression task, shape (N,); None for a split without labels."""
    labelled: npt.NDArray[np.bool_] | None = None
    """Where only some examples have a label: whether each has one, shape (N,); None for all other splits."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each example, shape (N,)."""
        return np.diff(self.offsets)


def used_tokens(splits: Iterable[Split]) -> npt.NDArray[np.int64]:
    """Returns the ids of all tokens that occur in any of some splits, ascending."""
    used_V = np.zeros(0, dtype=bool)
    for split in splits:
        for start in range(0, len(split.input_ids), _CHUNK_TOKENS):
            part = split.input_ids[start : start + _CHUNK_TOKENS]
            if (missing := int(part.max()) + 1 - len(used_V)) > 0:
                used_V = np.pad(used_V, (0, missing))
            used_V[part] = True
    return np.flatnonzero(used_V)


def take(split: Split, name: str, example_ids_M: npt.NDArray[np.int64]) -> Split:
    """Returns a new split of the given M examples of another, in that order, as examples 0 .. M-1."""
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
        labelled=None if split.labelled is None else split.labelled[example_ids_M],
    )


def tokenizer_key(model_dir: Path) -> str:
    """Returns a hash of the tokenizer's files in a model folder.

    Raises:
        UserError: The folder has none of `TOKENIZER_MAIN_FILES`.
    """
    if not any((model_dir / name).is_file() for name in TOKENIZER_MAIN_FILES):
        raise UserError(f"{model_dir} has no tokenizer: none of {', '.join(TOKENIZER_MAIN_FILES)} is in it")
    parts = [f"{name} {file_hash(model_dir / name)}" for name in TOKENIZER_FILES if (model_dir / name).is_file()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def needs_sentencepiece(model_dir: Path) -> bool:
    """Returns whether the tokenizer in a model folder is a SentencePiece model alone, which has to be converted."""
    found = [name for name in TOKENIZER_MAIN_FILES if (model_dir / name).is_file()]
    return bool(found) and all(name in SENTENCEPIECE_FILES for name in found)


def read_tokenizer(model_dir: Path) -> "PreTrainedTokenizerBase":
    """Returns the fast tokenizer of a model folder, set to pad and truncate at the end.

    A SentencePiece model is converted by transformers where there is no tokenizer.json.

    Raises:
        UserError: There is no fast tokenizer, its vocabulary is missing or damaged, or the package that converts a
            SentencePiece model is not installed.
    """
    convert = needs_sentencepiece(model_dir)
    if convert and importlib.util.find_spec("sentencepiece") is None:
        # transformers would try another kind of file, and say that.
        raise UserError(
            f"{model_dir}: its tokenizer is a SentencePiece model without tokenizer.json, which takes sentencepiece to "
            'convert: pip install "pkd_tune[sentencepiece]"'
        )
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    verbosity = transformers_logging.get_verbosity()
    if convert:
        transformers_logging.set_verbosity_error()
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            model_dir, local_files_only=True, use_fast=True, padding_side="right", truncation_side="right"
        )
    except (ValueError, ImportError, OSError) as error:
        if convert:
            raise UserError(
                f"{model_dir}: its SentencePiece model cannot be read; download the tokenizer again"
            ) from error
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(
            f"{model_dir}: its tokenizer cannot be loaded ({reason}); give a model with a complete tokenizer.json"
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if not tokenizer.is_fast:
        raise UserError(f"{model_dir}: its tokenizer {type(tokenizer).__name__} has no fast version")
    if tokenizer.get_vocab().keys() <= set(tokenizer.all_special_tokens):
        # transformers makes such a tokenizer where the file that its class reads is not there.
        raise UserError(f"{model_dir}: its {type(tokenizer).__name__} finds no vocabulary there; add a tokenizer.json")
    if tokenizer.pad_token is None:
        raise UserError(
            f"{model_dir}: its tokenizer has no padding token, which batches need; set tokenizer.pad_token and save it "
            "there again"
        )
    return tokenizer


def load_tokenizer(model_dir: Path, max_length: int) -> "PreTrainedTokenizerBase":
    """Returns the tokenizer of a model folder as `read_tokenizer()` does.

    Raises:
        UserError: There is no fast tokenizer, or `max_length` is too small or exceeds the model's limit.
    """
    tokenizer = read_tokenizer(model_dir)
    if max_length < SHORTEST:
        raise UserError(f"max_length must be at least {SHORTEST}, but got {max_length}")
    if max_length > tokenizer.model_max_length:  # a huge number if there is no limit
        limit = tokenizer.model_max_length
        raise UserError(f"max_length must be at most {limit}, the limit of {model_dir}, but got {max_length}")
    return tokenizer


def tokenise(raw: RawSplit, tokenizer: "PreTrainedTokenizerBase", max_length: int) -> pa.RecordBatch:
    """Tokenises a split; pairs that are too long are truncated at the end of the longer sentence first.

    Segment ids are those of the tokenizer, and all 0 where it has none in its `model_input_names`: as its model gets
    them in plain transformers.

    Returns:
        N rows with the columns example_id, input_ids, first_length and label.

    Raises:
        UserError: When the segment ids of an example are not zeros followed by ones.
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


def token_lengths(raw: RawSplit, tokenizer: "PreTrainedTokenizerBase") -> npt.NDArray[np.int64]:
    """Returns the length of every example in tokens, with special tokens and without truncation; shape (N,)."""
    return np.concatenate([lengths_N for _, lengths_N, _ in _tokenised_chunks(raw, tokenizer, None)])


def _tokenised_chunks(
    raw: RawSplit, tokenizer: "PreTrainedTokenizerBase", max_length: int | None
) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int32]]]:
    """Yields token ids (T,), lengths (N,) and first lengths (N,) of up to `_CHUNK` examples at a time.

    Without `max_length` nothing is truncated.
    """
    for start in range(0, len(raw), _CHUNK):
        rows = slice(start, start + _CHUNK)
        # Truncation and padding are explicit because a tokenizer.json may contain settings for both.
        tokens = tokenizer(
            raw.sentence1[rows],
            None if raw.sentence2 is None else raw.sentence2[rows],
            truncation=False if max_length is None else "longest_first",
            padding=False,
            max_length=max_length,
            return_attention_mask=False,
        )
        ids: list[list[int]] = tokens["input_ids"]
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        first_lengths = lengths.astype(np.int32)
        if "token_type_ids" in tokens:
            types: list[list[int]] = tokens["token_type_ids"]
            zeros = [row.count(0) for row in types]
            first_lengths = np.array(zeros, dtype=np.int32)
            if any(row != [0] * count + [1] * (len(row) - count) for row, count in zip(types, zeros, strict=True)):
                raise UserError(
                    f"the tokenizer of {tokenizer.name_or_path} gives segment ids other than zeros followed by ones, "
                    "which is not supported; give another model"
                )
        yield np.array([token for row in ids for token in row], dtype=np.int32), lengths, first_lengths


def write_split(path: Path, batch: pa.RecordBatch) -> None:
    """Writes a split as `tokenise` returns it to an Arrow file, atomically."""
    metadata = {"key": _content_key(batch)}
    schema = batch.schema.with_metadata(metadata)
    with (
        atomic_path(path) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_batch(batch.replace_schema_metadata(metadata))


def open_split(path: Path, *, verify: bool = True) -> Split:
    """Maps a file written by `write_split` into memory.

    Args:
        path: The Arrow file.
        verify: Whether the content is checked against its hash, once per process and file. Reading alone detects a
            truncated file, but not a changed value.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The file is not as it was written.
    """
    batch, key = _read(path)
    if verify:
        stat = path.stat()
        _verify(path, stat.st_size, stat.st_mtime_ns)
    input_ids = batch.column("input_ids")
    return Split(
        name=path.stem,
        key=key,
        input_ids=_view(input_ids.values, np.int32),
        offsets=_view(input_ids.offsets, np.int64),
        first_lengths=_view(batch.column("first_length"), np.int32),
        labels=_labels(batch.column("label")),
    )


@functools.cache
def _verify(path: Path, size: int, modified_ns: int) -> None:
    """Checks a file's content against its hash, once per process as long as size and modification time are the same.

    Raises:
        DamagedFileError: They differ.
    """
    batch, key = _read(path)
    if key != _content_key(batch):
        raise DamagedFileError(f"{path}: the content does not match its hash")


def _read(path: Path) -> tuple[pa.RecordBatch, str]:
    """Maps a file and returns its record batch and the key in its metadata.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: The file is not a complete Arrow file of the expected schema.
    """
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            known = any(reader.schema.equals(pa.schema(fields)) for fields in (_FIELDS, _VALUE_FIELDS))
            if not known or reader.num_record_batches != 1:
                raise DamagedFileError(f"{path} is not a tokenised split")
            batch, metadata = reader.get_batch(0), reader.schema.metadata or {}
            batch.validate()  # checks that lengths fit the buffers, which reading does not do completely
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise DamagedFileError(f"{path} cannot be read: {error}") from error
    return batch, metadata.get(b"key", b"").decode(errors="replace")


def _content_key(batch: pa.RecordBatch) -> str:
    """Returns a hash of the values of every column.

    It does not depend on the tokenizer's files: the same tokens are the same split, whichever folder they came from.
    """
    input_ids = batch.column("input_ids")
    parts: list[npt.NDArray[np.number]] = [
        _view(batch.column("example_id"), np.int64),
        _view(input_ids.offsets, np.int64),
        _view(input_ids.values, np.int32),
        _view(batch.column("first_length"), np.int32),
    ]
    if (values := _labels(batch.column("label"))) is not None:
        parts.append(values)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{part.dtype} {len(part)}\0".encode())
        digest.update(part.data)
    return digest.hexdigest()[:16]


def file_hash(path: Path) -> str:
    """Returns the SHA-256 of a file, computed once per process as long as its size and modification time are the same.

    Raises:
        OSError: The file cannot be read.
    """
    stat = path.stat()
    return _file_hash(path, stat.st_size, stat.st_mtime_ns)


@functools.cache
def _file_hash(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _labels(array: pa.Array) -> npt.NDArray[np.int64] | npt.NDArray[np.float32] | None:
    if array.null_count:
        return None
    return _view(array, np.float32) if pa.types.is_floating(array.type) else _view(array, np.int64)


def _view(array: pa.Array, dtype: type[Number]) -> npt.NDArray[Number]:
    """Returns a read-only view of an Arrow array without nulls.

    pyarrow's to_numpy would import pandas, which takes longer than opening the files.
    """
    return np.frombuffer(array.buffers()[1], dtype)[array.offset : array.offset + len(array)]
