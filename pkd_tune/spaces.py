"""Print a shipped search space, to start a space file of one's own from.

python -m pkd_tune.spaces
python -m pkd_tune.spaces default > mine.toml
"""

import argparse
import sys

from pkd_tune.cli.common_flags import Parser
from pkd_tune.cli.main import run_command


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        "pkd_tune.spaces",
        description="Lists the shipped search spaces, or prints one: the start of a space file of your own.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="of a shipped space (default: list their names)")
    return parser


def spaces(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    from pkd_tune.tuning.space_file import shipped_spaces, space_text

    print("\n".join(shipped_spaces()) if args.name is None else space_text(args.name).rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), spaces))
