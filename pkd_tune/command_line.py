"""What all commands share: how they parse, and how they say what the user got wrong."""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from pkd_tune.config import UserError


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line each."""

    def error(self, message: str) -> NoReturn:
        """Prints what is wrong and exits with code 2."""
        self.exit(2, f"{self.prog}: error: {message} (--help lists the flags)\n")


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
