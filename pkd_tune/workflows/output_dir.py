"""The folder a command is told to write: a new one, an empty one, or one that the same command wrote before."""

import json
import os
import shutil
from pathlib import Path

from pkd_tune.cli.command_line import Problems, check_writable
from pkd_tune.data.tokens import TOKENIZER_FILES
from pkd_tune.encoders.folder import WEIGHTS
from pkd_tune.files import RESULT

STUDENT_FILES = {RESULT, WEIGHTS, "config.json", *TOKENIZER_FILES}
"""All that the command `distill` may write into a student's folder."""


def check_new(target: Path, problems: Problems) -> None:
    """Keeps a problem when --to names what is there already, or what cannot be written."""
    check_writable(target.parent, "--to", problems)
    if target.is_dir() and any(target.iterdir()):
        problems.found.append(f"--to {target}: there is something in it; give a new folder, or empty this one")
    elif target.exists() and not target.is_dir():
        problems.found.append(f"--to {target}: is a file; give a new folder")
    elif target == Path.cwd():
        problems.found.append(f"--to {target}: is the working folder; give a new folder in it")


def check_student_target(target: Path, problems: Problems) -> None:
    """Keeps a problem when a student cannot be written to a folder, or something other than one would be lost there."""
    if holds_only_a_student(target):
        check_writable(target.parent, "--to", problems)
    else:
        check_new(target, problems)


def holds_only_a_student(folder: Path) -> bool:
    """Tells whether the command `distill` wrote a folder, and nobody added anything to it."""
    if not (folder / RESULT).is_file() or not {path.name for path in folder.iterdir()} <= STUDENT_FILES:
        return False
    try:
        record = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    except ValueError:  # not JSON, or not even UTF-8: not what the command wrote
        return False
    return isinstance(record, dict) and "distillation" in record


def publish_student(unfinished: Path, target: Path) -> None:
    """Gives a student's finished folder its name; replaces one that `distill` wrote, and nothing else.

    Raises:
        OSError: When something else is there by now; the finished folder stays where it is.
    """
    if holds_only_a_student(target):
        shutil.rmtree(target)
    os.replace(unfinished, target)  # onto an empty folder at most
