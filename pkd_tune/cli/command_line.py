"""What all commands share: the flags of data and models, and how they say what the user got wrong."""

import argparse
import logging
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeVar, get_args

from tqdm import tqdm

from pkd_tune.config import Precision, UserError
from pkd_tune.data.demo import write_demo
from pkd_tune.data.glue import TASKS, find_trainable
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_raw, row_count_notes
from pkd_tune.data.task import Task
from pkd_tune.data.tsv import RawSplit
from pkd_tune.encoders.folder import classifier_problems, encoder_problems, length_limit

if TYPE_CHECKING:
    from pkd_tune.distillation.loop import Evaluation

DEFAULT_MODEL = "google-bert/bert-base-uncased"

WRITTEN_PARTS = ("data_feat", "models/finetuned", "teacher_cache")
"""Folders below --data-dir that commands which train write to."""

T = TypeVar("T")

_quiet = False


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line each."""

    after_ctrl_c = "what is written is whole, and the same command starts again"
    """What is said of a command that was interrupted; those that keep their place set another."""

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
    add(
        "--task",
        required=True,
        help=f"GLUE task, in any usual spelling: {', '.join(name for name, task in TASKS.items() if task.trainable)}",
    )
    add("--demo", action="store_true", help="use a small made-up corpus and model: nothing is downloaded")
    add(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="holds data_raw/<TASK>/*.tsv and models/pretrained/<name>; what is not there comes from the Hugging Face "
        "hub (default: %(default)s)",
    )


def add_teacher_flags(parser: Parser) -> None:
    """Adds the flags that say who teaches and what students are cut from: --teacher, --student."""
    parser.add_argument(
        "--teacher",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="BERT to fine-tune as the teacher, or a classifier fine-tuned for the task: a folder, a name under "
        "models/pretrained, or a name on the hub (default: %(default)s)",
    )
    parser.add_argument(
        "--student",
        metavar="MODEL",
        help="BERT that students are cut from, which may be narrower than the teacher (default: what --teacher names)",
    )


def add_training_flags(parser: Parser) -> None:
    """Adds the flags that say how one model is trained, but for its learning rate, and where."""
    add = parser.add_argument
    add("--epochs", type=int, metavar="N", help="passes over the training split (default: what a search uses)")
    add("--batch-size", type=int, metavar="N", help="examples per step (default: what a search uses)")
    add("--max-length", type=int, metavar="N", help="longest example in word pieces (default: what a search uses)")
    add("--seed", type=seed, default=42, metavar="N", help="seed of order, dropout and new weights (default: 42)")
    add("--gpus", type=int, metavar="N", help="0: the CPU; 1: a GPU (default: a GPU when there is one)")
    add_precision_flag(parser)


def add_precision_flag(parser: argparse._ActionsContainer) -> None:
    """Adds --precision, to a parser or a group of its flags."""
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="auto",
        help="of matrix products: bf16, fp32, or auto: bf16 where the hardware multiplies it (default: %(default)s)",
    )


def check_positive(args: argparse.Namespace, problems: Problems, *flags: str) -> None:
    """Keeps a problem for every flag that was given a number that is not above 0, or not finite."""
    for flag in flags:
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not number > 0:
                problems.found.append(f"{flag} must be above 0, but got {number}")
            elif number == math.inf:
                problems.found.append(f"{flag} must be finite, but got {number}")


def check_writable(folder: Path, flag: str, problems: Problems) -> bool:
    """Keeps a problem when nothing can be written into the folder a flag names; the folder need not exist yet.

    Returns:
        Whether something can.
    """
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        problems.found.append(f"{flag} {folder}: {existing} is a file; give a folder")
        return False
    try:
        tempfile.TemporaryFile(dir=existing).close()  # to ask for permission would not do: root has it even in /proc
    except OSError as error:
        problems.found.append(
            f"{flag} {folder}: {existing} cannot be written to ({error.strerror}); give another folder"
        )
        return False
    return True


def find_data(args: argparse.Namespace, problems: Problems) -> tuple[Task | None, Path]:
    """Returns the task and the data folder, checking the task's files; with --demo, they are written there first.

    What is made of the files is written into the folder as well, so all of that must be possible.
    """
    task = problems.attempt(lambda: find_trainable(args.task))
    if not args.demo:
        data_dir = args.data_dir.resolve()
        if task is not None:
            problems.found += check_source(task, data_dir)
        all(check_writable(data_dir / part, "--data-dir", problems) for part in WRITTEN_PARTS)
        return task, data_dir
    data_dir = args.data_dir.resolve() / "demo"
    check_writable(data_dir, "--data-dir", problems)
    if task is not None and not problems.found:
        problems.attempt(lambda: write_demo(data_dir, task.name))
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


def check_fit(folder: Path, flag: str, task: Task, max_length: int, problems: Problems) -> None:
    """Keeps a problem when the model a flag names cannot read examples that long, or has another task's classifier."""
    if max_length > length_limit(folder):
        problems.found.append(f"{flag} {folder}: reads at most {length_limit(folder)} word pieces, not {max_length}")
    problems.found += classifier_problems(folder, flag, task)


def seed(text: str) -> int:
    """Returns a seed that every library takes."""
    number = int(text)
    if not 0 <= number < 2**31:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**31 - 1}, but got {number}")
    return number


def run_command(parser: Parser, command: Callable[[argparse.Namespace, list[str]], int]) -> int:
    """Parses the process's arguments and runs a command.

    Args:
        parser: Of the command.
        command: Takes the parsed and the raw arguments; returns the exit code.

    Returns:
        The exit code; 2 after a `UserError`, whose problems are printed one line each; 130 after Ctrl-C.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("pkd_tune").setLevel(logging.INFO)
    argv = sys.argv[1:]
    signal.signal(signal.SIGTERM, _as_ctrl_c)
    try:
        return command(parser.parse_args(argv), argv)
    except UserError as error:
        for problem in error.problems:
            print(f"{parser.prog}: error: {problem}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; {parser.after_ctrl_c}", file=sys.stderr)
        return 130


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Does for a scheduler's SIGTERM what Ctrl-C does just now: Ray, while it runs trials, ends them first."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)


@contextmanager
def training_bar(name: str, scored_on: str = "dev") -> Iterator[Callable[["Evaluation"], None]]:
    """Shows a training's evaluations: a bar that goes away on a terminal, a line each elsewhere.

    Args:
        name: What is trained.
        scored_on: The examples that choose its epoch.

    Yields:
        What to call with every evaluation.
    """
    layout = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} evaluations, {remaining} left{postfix}"
    hidden = _quiet or not sys.stderr.isatty()
    with tqdm(desc=name, bar_format=layout, leave=False, disable=hidden, dynamic_ncols=True) as bar:

        def show(evaluation: "Evaluation") -> None:
            text = f"{scored_on} score {evaluation.metrics['score']:.1f}"
            if bar.disable:
                say(f"{name}: epoch {evaluation.epoch:.1f} of {evaluation.epochs}, {text}")
            bar.total = evaluation.of
            if evaluation.number == 1:
                bar.reset()
            bar.set_postfix_str(text)
            bar.update(1)

        yield show


def load_examples(task: Task, data_dir: Path, *, demo: bool) -> dict[str, RawSplit]:
    """Reads a task's splits, and says where their sizes are not the official ones; the demo's are not meant to be."""
    raw = load_raw(task, data_dir)
    for note in [] if demo else row_count_notes(task, raw):
        say(f"note: {note}")
    return raw


def say(line: str, *, always: bool = False) -> None:
    """Prints a line to standard error, where progress is shown; standard output stays free.

    Args:
        line: The line.
        always: Whether it is printed after `be_quiet()` as well.
    """
    if always or not _quiet:
        print(line, file=sys.stderr, flush=True)


def be_quiet() -> None:
    """Lets only what must be said be said from now on."""
    global _quiet
    _quiet = True
    logging.getLogger("pkd_tune").setLevel(logging.WARNING)
