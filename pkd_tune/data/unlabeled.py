"""Texts without labels, which the teacher labels: read from a file, tokenised, and appended to the training split."""

import hashlib
import importlib.metadata
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pkd_tune.config import Task, UserError
from pkd_tune.data.examples import RawSplit, examples_of
from pkd_tune.data.loading import FORMAT, cached_splits
from pkd_tune.data.tables import ENDINGS, read_table, read_utf8
from pkd_tune.data.tokens import Split, file_hash, tokenizer_key

UNLABELED = "unlabeled"
"""Name of the texts as a split."""


def read_unlabeled(task: Task, path: Path) -> RawSplit:
    """Returns the texts of a file: one a line in a .txt file, else the task's text columns of a table.

    Other columns of a table, labels among them, are ignored. Empty lines of a .txt file are left out.

    Raises:
        UserError: The file is missing, of another kind, malformed or empty, or a text is; names the file and the row.
    """
    if path.suffix != ".txt":
        if path.suffix not in ENDINGS:
            raise UserError(f"--unlabeled {path}: its name must end in one of .txt, {', '.join(ENDINGS)}")
        raw, problems = examples_of(task, read_table(path, task.text), labelled=False)
        if problems:
            raise UserError(*problems)
        return raw
    if task.pair:
        raise UserError(
            f"--unlabeled {path}: a .txt file has one text a line, but an example of {task.name} has two; give a table "
            f"with the columns {' and '.join(task.text)}"
        )
    texts = [line for line in read_utf8(path).split("\n") if line.strip()]
    if not texts:
        raise UserError(f"{path} is empty: it has no examples")
    return RawSplit([line.removesuffix("\r") for line in texts], None, None)


def load_unlabeled(
    task: Task, data_dir: Path, path: Path, model_dir: Path, max_length: int, *, verify: bool = True
) -> Split:
    """Returns the tokens of a file of texts without labels, memory-mapped from a cached file.

    The cache is that of `load_features()`, which the arguments are of too; `path` is the file.

    Raises:
        UserError: As `read_unlabeled()`, and when --data-dir is not writable.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing")
    parts = [FORMAT, importlib.metadata.version("transformers"), file_hash(path), path.suffix]
    parts += [tokenizer_key(model_dir), str(max_length), *task.text]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    folder = data_dir / "data_feat" / task.name / key

    def read() -> Mapping[str, RawSplit]:
        return {UNLABELED: read_unlabeled(task, path)}

    return cached_splits(folder, [UNLABELED], read, model_dir, max_length, verify=verify)[UNLABELED]


def with_unlabeled(train: Split, unlabeled: Split) -> Split:
    """Returns a training split that has texts without labels too, after its own examples, whose ids stay the same."""
    assert train.labels is not None
    keys = f"{train.key}\0{unlabeled.key}"
    return replace(
        train,
        key=hashlib.sha256(keys.encode()).hexdigest()[:16],
        input_ids=np.concatenate([train.input_ids, unlabeled.input_ids]),
        offsets=np.concatenate([train.offsets, train.offsets[-1] + unlabeled.offsets[1:]]),
        first_lengths=np.concatenate([train.first_lengths, unlabeled.first_lengths]),
        labels=np.concatenate([train.labels, np.zeros(len(unlabeled), train.labels.dtype)]),
        labelled=np.arange(len(train) + len(unlabeled)) < len(train),
    )
