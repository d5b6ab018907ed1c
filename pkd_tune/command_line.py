"""What all commands share: the flags of data and models, and how they say what the user got wrong."""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, TypeVar

from pkd_tune.config import UserError
from pkd_tune.distillation.model_folder import encoder_problems
from pkd_tune.glue.data import check_source
from pkd_tune.glue.demo import write_demo
from pkd_tune.glue.hub import find_pretrained
from pkd_tune.glue.tasks import TASKS, Task, find_task

DEFAULT_MODEL = "google-bert/bert-base-uncased"

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and exits with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


@dataclass(slots=True)
class Problems:
    """Collects what is wrong, so that several mistakes are reported together."""

    found: list[str] = field(default_factory=list)

    def attempt(self, find: Callable[[], T]) -> T | None:
        """Returns what `find` returns, or None after keeping the problems it raised."""
        try:
            return find()
        except UserError as error:
            self.found.extend(error.problems)
            return None

    def raise_any(self) -> None:
        """Raises all that was found as one `UserError`; does nothing when all is well."""
        if self.found:
            raise UserError(*self.found)


def add_data_flags(parser: Parser) -> None:
    """Adds the flags that say which examples: --task, --demo, --data-dir."""
    add = parser.add_argument
    add("--task", required=True, help=f"GLUE task, in any usual spelling: {', '.join(TASKS)}")
    add("--demo", action="store_true", help="use a small made-up corpus and model: nothing is downloaded")
    add(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="holds data_raw/<TASK>/*.tsv and models/pretrained/<name>; what is not there comes from the Hugging Face "
        "hub (default: %(default)s)",
    )


def find_data(args: argparse.Namespace, problems: Problems) -> tuple[Task | None, Path]:
    """Returns the task and the data folder, checking the task's files; with --demo, they are written there first."""
    task = problems.attempt(lambda: find_task(args.task))
    if not args.demo:
        data_dir = args.data_dir.resolve()
        if task is not None:
            problems.found += check_source(task, data_dir)
        return task, data_dir
    data_dir = args.data_dir.resolve() / "demo"
    if task is not None and task.name != "MRPC":
        problems.found.append(f"--demo is made for MRPC only so far, not for {task.name}")
    if not problems.found:
        write_demo(data_dir)
    return task, data_dir


def find_encoder(args: argparse.Namespace, flag: str, data_dir: Path, problems: Problems) -> Path | None:
    """Returns the folder of the model a flag names, when it can be a teacher or a student's start.

    Args:
        args: Parsed flags; with --demo the model is the demo's, and the flag must have been left alone.
        flag: For example `--teacher`.
        data_dir: From `find_data()`.
        problems: Receives what is wrong.
    """
    name = getattr(args, flag.removeprefix("--").replace("-", "_"))
    if args.demo and name != DEFAULT_MODEL:
        problems.found.append(f"--demo has its own model; leave out {flag}")
    if args.demo and problems.found:
        return None  # the demo was not written
    folder = problems.attempt(lambda: find_pretrained("demo" if args.demo else name, data_dir).resolve())
    if folder is not None and (wrong := encoder_problems(folder, flag)):
        problems.found += wrong
        return None
    return folder


def run_command(parser: Parser, command: Callable[[argparse.Namespace, list[str]], int]) -> int:
    """Parses the process's arguments and runs a command.

    Args:
        parser: Of the command.
        command: Takes the parsed and the raw arguments; returns the exit code.

    Returns:
        The exit code; 2 after a `UserError`, whose problems are printed one line each; 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format=f"{parser.prog}: %(message)s")
    argv = sys.argv[1:]
    try:
        return command(parser.parse_args(argv), argv)
    except UserError as error:
        for problem in error.problems:
            print(f"{parser.prog}: error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; the same command goes on from here", file=sys.stderr)
        return 130


def say(line: str) -> None:
    """Prints a line to standard error, where progress is shown; standard output stays free."""
    print(line, file=sys.stderr, flush=True)
