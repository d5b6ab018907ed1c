"""The files of a run by name, and how any file or folder is written: atomically, so that no reader sees half of one.

Standard library only: every room may import this module.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from pkd_tune.config import UserError

# A run folder, results/<TASK>/<run>/.
RUN = "run.json"
"""What was searched, on what and with what."""
SUMMARY = "summary.json"
"""The teacher and the best student of each depth and method; written when a search ends."""
TRIALS = "trials.csv"
"""One row per training."""
EVALUATIONS = "evaluations.csv"
"""One row per evaluation during the trainings."""
JOURNAL = "study.log"
"""Every Optuna study of the run."""
BEST = "best"
"""Folder of the exported students."""
RAY = "ray"
"""Folder of TensorBoard's events, one folder per trial, and Ray's own records."""
CHECKPOINTS = "checkpoints"
"""Folder of the trials' weights, training states and predictions."""
PLOTS = "plots"
"""Folder of the report's plots."""
RUN_LOCK = "run.lock"
RUN_LOG = "run.log"
RAY_LOG = "ray-start.log"
DASHBOARD = "dashboard.json"
"""Address of Ray's dashboard, and the token it asks for, while the search runs; readable by its user only."""

# A model folder.
RESULT = "result.json"
"""How a model that a command was asked for was made, and its scores."""
TRAINING = "training.json"
"""How a fine-tuned model was trained, with the dev score of every setting that was tried."""
MODEL_CARD = "README.md"

REASON_LENGTH = 200
"""Characters of a failure's reason that are kept: a dead process fills a page with Ray's advice."""


@contextmanager
def atomic_path(path: Path, *, durable: bool = False, private: bool = False) -> Iterator[Path]:
    """Yields a temporary path beside `path`; what is written there takes the place of `path` at the end.

    Where the block raises, `path` stays as it was and nothing is left of the attempt. The folder is made when missing.

    Args:
        path: The file to write.
        durable: Whether the file and its folder are flushed to the disk before this returns.
        private: Whether only this user may read the file; otherwise the umask decides.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        if private:
            temporary.touch(mode=0o600)
        yield temporary
        if durable:
            _flush(temporary)
        os.replace(temporary, path)
        if durable:
            _flush(path.parent)
    finally:
        if temporary.is_file():  # there is none any more where all went well
            temporary.unlink()


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file atomically: `write` is given the temporary path."""
    with atomic_path(path) as temporary:
        write(temporary)


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Writes a UTF-8 text file atomically; a private one is readable by this user only."""
    with atomic_path(path, private=private) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, record: Any, *, private: bool = False) -> None:
    """Writes a record as indented JSON, atomically; dataclasses become objects and paths strings."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, default=json_value) + "\n", private=private)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: When the file is not a JSON object, as after somebody edited or cut it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged (not a JSON object); restore it, or start another run with --new")
    return record


def json_value(value: Any) -> Any:
    """Returns what JSON can hold of a dataclass or a path; paths below the working folder are written relative to it.

    A record then says nothing of the machine's own folders, and can be committed.

    Raises:
        TypeError: For any other type.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return value.relative_to(Path.cwd()).as_posix() if value.is_relative_to(Path.cwd()) else str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


@contextmanager
def atomic_folder(folder: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a new temporary folder beside `folder`; what is written there becomes `folder` at the end.

    Where the block raises, `folder` stays as it was and nothing is left of the attempt.

    Args:
        folder: The folder to write.
        replace: Whether a folder that is there is replaced, with all that is in it.

    Raises:
        OSError: When the folder cannot be written, or is there and not empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if replace and folder.exists():
            shutil.rmtree(folder)
        os.replace(temporary, folder)  # onto an empty folder at most
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _flush(path: Path) -> None:
    """Waits until what was written to a file, or renamed in a folder, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
