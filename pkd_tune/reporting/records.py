"""What a run leaves for reports: run.json, summary.json, trials.csv and evaluations.csv, written whole or not at all.

run.json says what was searched, on what and with what; summary.json, the teacher and the best student of each depth
and method; trials.csv, every training; evaluations.csv, every scoring of the dev split during them. A report needs
these files and nothing else; `run.py` reads them.
"""

import importlib.metadata
import json
import os
import platform
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.config import UserError

RUN, SUMMARY, TRIALS, EVALUATIONS = "run.json", "summary.json", "trials.csv", "evaluations.csv"


def provenance(module: str, arguments: list[str], gpus: Sequence[str]) -> dict[str, Any]:
    """Returns when, with what and on what machine a command runs.

    Args:
        module: Name of the command's module.
        arguments: Its command line.
        gpus: Names of the machine's GPUs; this room does not load what could tell them.
    """
    devices = [f"{os.cpu_count()} CPU cores", *(f"{count} × {name}" for name, count in Counter(gpus).items())]
    packages = ("pkd_tune", "torch", "transformers", "ray", "optuna", "datasets")
    return {
        "command": shlex.join(["python", "-m", module, *arguments]),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _git_hash(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", *devices]),
    }


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` write a file beside the path, then gives it its name: it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # there is none any more where all went well


def write_text(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    write_whole(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes a record as indented JSON; dataclasses become objects and paths strings."""
    write_text(path, json.dumps(record, indent=2, ensure_ascii=False, default=plain) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads what `write_json` wrote.

    Raises:
        UserError: When the file is not such a record, as after somebody edited or cut it.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error
    if not isinstance(record, dict):
        raise UserError(f"{path} is damaged (it is no record); restore it, or start another run with --new")
    return record


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one line per trial or evaluation; a column that only some rows have is empty in the others."""
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def read_rows(path: Path) -> pd.DataFrame:
    """Reads what `write_rows` wrote; no file, or one without rows, gives an empty table.

    Raises:
        UserError: When the file is no such table, as after somebody edited or cut it.
    """
    try:
        return pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error


def plain(value: Any) -> Any:
    """Returns what JSON can hold of a dataclass or a path; paths below the working folder are written relative to it.

    A record then says nothing of the machine's own folders, and can be committed.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return value.relative_to(Path.cwd()).as_posix() if value.is_relative_to(Path.cwd()) else str(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")


def _git_hash() -> str | None:
    """Returns the commit of the source tree this runs from; None for an installed copy."""
    folder = Path(sys.modules["pkd_tune"].__file__ or ".").resolve().parent
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--", "."]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
