"""Shows what a search does or did in the browser: its trials in optuna-dashboard, its curves in TensorBoard.

    python -m pkd_tune.dashboard
    python -m pkd_tune.dashboard results/MRPC/demo

Works while a search runs, which it does not disturb, and afterwards. Everything is on loopback; Ctrl-C stops it all.
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
        "pkd_tune.dashboard",
        description="Serves a run's trials (optuna-dashboard) and curves (TensorBoard) on this machine until Ctrl-C.",
    )
    default = "folder of a run (default: the latest below results/)"
    parser.add_argument("run", type=Path, nargs="?", metavar="RUN", help=default)
    return parser


def dashboard(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code: 0 after Ctrl-C, 1 when a server ended by itself."""
    from pkd_tune.workflows.dashboard import ServerExitedError, find_run, serve

    run_dir = find_run(None if args.run is None else expanded(args.run))
    try:
        serve(run_dir)
    except ServerExitedError as ended:
        print(f"{ended}; stopped", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), dashboard))
