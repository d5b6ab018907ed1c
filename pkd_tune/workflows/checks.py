"""Checks of what a user gave, which report every mistake together rather than the first one."""

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from pkd_tune.config import UserError
from pkd_tune.data.tokens import TOKENIZER_FILES
from pkd_tune.encoders.folder import WEIGHTS
from pkd_tune.files import RESULT
from pkd_tune.reporting.formatting import listed

T = TypeVar("T")

STUDENT_FILES = {RESULT, WEIGHTS, "config.json", *TOKENIZER_FILES}
"""All files that `distill` may write into a student's folder."""

LARGEST, LARGEST_SECONDS = 1_000_000, 1e9
"""The largest whole number, and the longest time: a timer takes no more than 9e9 seconds."""
LARGEST_OF: dict[str, float] = {"--seeds": 1000, "--trial-timeout": LARGEST_SECONDS}
"""Of flags whose largest number is another; space files have the same."""

ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
"""What writing and running ONNX takes; the extra `onnx` installs them."""


@dataclass(slots=True)
class Problems:
    """Collects what is wrong, so that several mistakes are reported together."""

    found: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Records a problem: one line that names what is wrong and the remedy."""
        self.found.append(problem)

    def attempt(self, find: Callable[[], T]) -> T | None:
        """Returns what `find` returns; where it raises a `UserError`, records its problems and returns None."""
        try:
            return find()
        except UserError as error:
            self.found.extend(error.problems)
            return None

    def raise_any(self) -> None:
        """Raises all recorded problems as one `UserError`, if there are any."""
        if self.found:
            raise UserError(*self.found)


def check_choices(options: Any, problems: Problems) -> None:
    """Records a problem for each option that takes one of a few words, or several of them, and has another."""
    for each in fields(options):
        allowed, value = _words(each.type), getattr(options, each.name)
        for word in value if isinstance(value, list | tuple) else [value]:
            if allowed and word is not None and word not in allowed:
                problems.add(f"--{each.name.replace('_', '-')} {word}: give {listed(allowed, 'or')}")


def _words(kind: Any) -> list[str]:
    """Returns the words that a type allows: those of all literals in it, `None` and tuples apart."""
    if get_origin(kind) is Literal:
        return list(get_args(kind))
    return [word for part in get_args(kind) for word in _words(part)]


def check_positive(options: Any, problems: Problems, *flags: str) -> None:
    """Records a problem for each of these flags whose value is given and is not above 0, or larger than the largest."""
    for flag, number in _numbers(options, flags):
        if not number > 0:
            problems.add(f"{flag} must be above 0, but got {number}")
        else:
            _check_not_larger(flag, number, problems)


def check_not_negative(options: Any, problems: Problems, *flags: str) -> None:
    """Records a problem for each of these flags whose value is given and is below 0, or larger than the largest."""
    for flag, number in _numbers(options, flags):
        if not number >= 0:
            problems.add(f"{flag} must be at least 0, but got {number}")
        else:
            _check_not_larger(flag, number, problems)


def _numbers(options: Any, flags: Sequence[str]) -> Iterator[tuple[str, float]]:
    for flag in flags:
        value = getattr(options, flag.removeprefix("--").replace("-", "_"))
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None:
                yield flag, number


def _check_not_larger(flag: str, number: float, problems: Problems) -> None:
    largest = LARGEST_OF.get(flag, LARGEST if isinstance(number, int) else math.inf)
    if number == math.inf:
        problems.add(f"{flag} must be finite, but got {number}")
    elif number > largest:
        problems.add(f"{flag} must be at most {largest:.0f}, but got {number}")


def check_onnx(flag: str, problems: Problems) -> None:
    """Records a problem when a flag asks for ONNX and its packages are not installed."""
    if missing := [name for name in ONNX_PACKAGES if find_spec(name) is None]:
        problems.add(f'{flag} needs {", ".join(missing)}: pip install "pkd_tune[onnx]"')


def check_seed(seed: int, problems: Problems) -> None:
    """Records a problem for a seed that not every library takes."""
    if not 0 <= seed < 2**31:
        problems.add(f"--seed must be from 0 to {2**31 - 1}, but got {seed}")


def check_writable(folder: Path, flag: str, problems: Problems) -> None:
    """Records a problem when nothing can be written into the folder a flag names; the folder need not exist yet."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        problems.add(f"{flag} {folder}: {existing} is a file; give a folder")
        return
    try:
        tempfile.TemporaryFile(dir=existing).close()  # asking for permission would not do: root has it even in /proc
    except OSError as error:
        problems.add(f"{flag} {folder}: {existing} cannot be written to ({error.strerror}); give another folder")


def check_new_folder(target: Path, problems: Problems) -> None:
    """Records a problem when the folder that --to names exists and is not empty, or cannot be written."""
    check_writable(target.parent, "--to", problems)
    if target.is_dir() and any(target.iterdir()):
        problems.add(f"--to {target}: it is not empty; give a new folder, or empty this one")
    elif target.exists() and not target.is_dir():
        problems.add(f"--to {target}: is a file; give a new folder")
    elif target == Path.cwd():
        problems.add(f"--to {target}: is the working folder; give a new folder in it")


def check_student_folder(target: Path, problems: Problems) -> None:
    """Records a problem when a student cannot be written to a folder, or anything but a student would be lost."""
    if is_distill_output(target):
        check_writable(target.parent, "--to", problems)
    else:
        check_new_folder(target, problems)


def is_distill_output(folder: Path) -> bool:
    """Returns whether the command `distill` wrote a folder, and nobody added anything to it."""
    if not (folder / RESULT).is_file() or not {path.name for path in folder.iterdir()} <= STUDENT_FILES:
        return False
    try:
        record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not UTF-8: not written by the command
        return False
    return isinstance(record, dict) and "distillation" in record
