"""Prints what a run needs of this machine, for a bug report: versions, devices, limits, folders.

    python -m pkd_tune.doctor
    python -m pkd_tune.doctor --data-dir /shared/data --out /shared/results

Exits with code 1 when something would stop a search.
"""

import argparse
import sys
from pathlib import Path

from pkd_tune.cli.common_flags import Parser
from pkd_tune.cli.main import run_command
from pkd_tune.files import expanded


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        "pkd_tune.doctor",
        description="Prints versions, devices, limits and folders, and what of them would stop a search.",
    )
    add = parser.add_argument
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="the data folder (default: %(default)s)")
    add("--out", type=Path, default=Path("results"), metavar="DIR", help="folder of all runs (default: %(default)s)")
    return parser


def doctor(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code: 0, or 1 when something would stop a search."""
    from pkd_tune.workflows.environment import describe, problems_of

    folders = {"--data-dir": expanded(args.data_dir), "--out": expanded(args.out)}
    for name, what in describe(folders):
        print(f"{name + ':':<16}{what}")
    found = problems_of(folders)
    for problem in found:
        print(f"{'problem:':<16}{problem}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), doctor))
