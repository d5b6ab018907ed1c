"""The files of a run by name, and how any file or folder is written: atomically, so that no reader sees half of one.

Standard library only: every subpackage may import this module.
"""

import errno
import json
import os
import re
import select
import shutil
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
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
"""One row per evaluation during the training runs."""
DEV_PREDICTIONS = "dev-predictions.csv"
"""What the teacher and every exported student predict for each dev example."""
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

REMEDIES = {
    errno.ENOSPC: "free some space there",
    errno.EDQUOT: "free some space there, or have the quota raised",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EROFS: "give another folder, or have it made writable",
    errno.EACCES: "give another folder, or have its permissions changed",
    errno.EPERM: "give another folder, or have its permissions changed",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the machine's limit of open files",
    errno.EIO: "check the disk",
    errno.ESTALE: "check the shared file system",
    errno.ENOTCONN: "check the shared file system",
    errno.ENOMEM: "run fewer trials at once, or free some memory",
}
"""What helps against each error of the operating system that is the machine's failure and not a bug."""

LOCK_MODE = 0o664
"""Permissions of lock files: users of one group share a data folder."""

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with named(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.touch(mode=0o600 if private else 0o666)
            mode = _mode(temporary)
            yield temporary
            _set_mode(temporary, mode)
            if durable:
                _flush(temporary)
            os.replace(temporary, path)
            if durable:
                _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)  # there is none any more where all went well


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


def read_json(path: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """Reads a JSON object.

    Args:
        path: The file.
        required: Names that the object must have.

    Raises:
        FileNotFoundError: There is no such file.
        UserError: When the file is not such an object, as after somebody edited or cut it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, or not UTF-8
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged (not a JSON object); restore it, or start another run with --new")
    if missing := [name for name in required if name not in record]:
        raise UserError(f"{path} is damaged (without {missing[0]!r}); restore it, or start another run with --new")
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

    Where the block raises, `folder` stays as it was and nothing is left of the attempt. The umask decides who may read
    its files, whatever wrote them.

    Args:
        folder: The folder to write.
        replace: Whether a folder that is there is replaced, with all that is in it.

    Raises:
        OSError: When the folder cannot be written, or is there and not empty.
    """
    temporary = folder.with_name(f".{folder.name}.partial")
    with named(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            mode = _mode(temporary) & 0o666
            yield temporary
            for path in temporary.rglob("*"):
                if path.is_file():
                    _set_mode(path, mode)
            if replace and folder.exists():
                shutil.rmtree(folder)
            os.replace(temporary, folder)  # onto an empty folder at most
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _mode(path: Path) -> int:
    """Returns the permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


def _set_mode(path: Path, mode: int) -> None:
    """Gives a file these permissions if it has others, as safetensors' files have, which only this user may read."""
    if _mode(path) != mode:
        path.chmod(mode)


def machine_failure(error: BaseException) -> str | None:
    """Returns in one line what the machine refused, and the remedy; None where an error is of another kind.

    Args:
        error: An error, perhaps raised from the operating system's.
    """
    while error.__cause__ is not None and not isinstance(error, OSError | MemoryError):
        error = error.__cause__
    number = errno.ENOMEM if isinstance(error, MemoryError) else _error_number(error)
    if isinstance(error, MemoryError) and str(error):
        return str(error)  # which has a remedy of its own
    if number not in REMEDIES:
        return None
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    return f"{where}{os.strerror(number)}; {REMEDIES[number]}"


def _error_number(error: BaseException) -> int | None:
    """Returns the operating system's number of an error; libraries in Rust have it in the text alone."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def expanded(path: str | Path) -> Path:
    """Returns a path with the home folder for a `~` at its start; with that of an unknown user it stays as it is."""
    return Path(os.path.expanduser(path))


@contextmanager
def until_output_is_closed() -> Iterator[None]:
    """Ends the process in silence, as others end, where nobody reads its standard output any more, as in `... | head`.

    Raises:
        SystemExit: With 141, what a shell reports of a process that ended so.
    """
    try:
        yield
        if sys.stdout is not None:  # it is closed from the start where a service gives none
            sys.stdout.flush()
    except BrokenPipeError:
        if not _has_no_reader(1):
            raise  # another pipe
        raise SystemExit(141) from None
    finally:
        if _has_no_reader(1):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what Python flushes at its exit


def _has_no_reader(descriptor: int) -> bool:
    """Returns whether a descriptor is that of a pipe whose other end is closed."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False  # it is closed itself
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Names a file or folder in the errors of the machine that writing to it ends with."""
    try:
        yield
    except Exception as error:
        number = _error_number(error)
        if number not in REMEDIES:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def _flush(path: Path) -> None:
    """Waits until what was written to a file, or renamed in a folder, is on the disk; some file systems cannot do the
    latter, and need not."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not path.is_dir() or error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF):
            raise
    finally:
        os.close(descriptor)
