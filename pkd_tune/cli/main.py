"""Runs a command: messages on standard error, mistakes as one line each, exit codes."""

import argparse
import logging
import os
import shlex
import signal
import sys
import termios
from collections.abc import Callable
from types import FrameType

from tqdm import tqdm

from pkd_tune.cli.common_flags import Parser
from pkd_tune.config import MachineError, UserError
from pkd_tune.files import machine_failure, until_output_is_closed
from pkd_tune.tuning.process import prepare_process


def run_command(parser: Parser, command: Callable[[argparse.Namespace, str], int]) -> int:
    """Parses the process's arguments and runs a command.

    Args:
        parser: Of the command.
        command: Takes the parsed arguments and the command line; returns the exit code.

    Returns:
        The exit code; 2 after a `UserError`, whose problems are printed one line each; 1 after a failure of the
        machine, such as a full disk or GPU, which is one line; 130 after Ctrl-C.

    Raises:
        SystemExit: With 141 where standard output is closed early, as by `head`.
    """
    prepare_process()
    prepare_terminal()
    argv = sys.argv[1:]
    try:
        with until_output_is_closed():
            return command(parser.parse_args(argv), f"{parser.prog} {shlex.join(argv)}".rstrip())
    except UserError as error:
        for problem in error.problems:
            print(f"{parser.prog}: error: {problem}", file=sys.stderr)
        return 2
    except Exception as error:
        reason = str(error) if isinstance(error, MachineError) else machine_failure(error) or _full_gpu(error)
        if reason is None:
            raise
        print(f"{parser.prog}: stopped: {reason}; {parser.after_ctrl_c}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; {parser.after_ctrl_c}", file=sys.stderr)
        return 130


def _full_gpu(error: Exception) -> str | None:
    """Returns that a GPU's memory ran out, and the remedy; None where an error is of another kind."""
    torch = sys.modules.get("torch")  # which a command that has not used it need not import
    if torch is None or not (isinstance(error, torch.OutOfMemoryError) or "CUDA error: out of memory" in str(error)):
        return None
    return "the GPU's memory ran out; free it, or choose another GPU with CUDA_VISIBLE_DEVICES"


def prepare_terminal() -> None:
    """Shows messages, copes with terminals that are not UTF-8 or say no size, and handles SIGTERM as Ctrl-C."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # an ASCII terminal must not end a command
    show_messages()
    if sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns == 0:
        termios.tcsetwinsize(sys.stderr.fileno(), (24, 80))  # in some containers; progress bars would have no room
    signal.signal(signal.SIGTERM, _as_ctrl_c)


def show_messages(*, quiet: bool = False) -> None:
    """Prints log messages to standard error: ours from INFO (when quiet, from WARNING), all others from WARNING."""
    root = logging.getLogger()
    if not any(isinstance(handler, MessageHandler) for handler in root.handlers):
        root.addHandler(MessageHandler())
    for library in ("huggingface_hub", "datasets", "transformers"):
        logging.getLogger(library).propagate = False  # it prints its messages itself
    logging.getLogger("pkd_tune").setLevel(logging.WARNING if quiet else logging.INFO)


class MessageHandler(logging.Handler):
    """Prints each message on a line of its own, above any progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one message."""
        text = self.format(record)
        tqdm.write(f"warning: {text}" if record.levelno >= logging.WARNING else text, file=sys.stderr)
        sys.stderr.flush()


def _as_ctrl_c(number: int, frame: FrameType | None) -> None:
    """Handles a scheduler's SIGTERM as Ctrl-C is handled at that moment: Ray, while it runs trials, ends them first."""
    handler = signal.getsignal(signal.SIGINT)
    (handler if callable(handler) else signal.default_int_handler)(number, frame)
