"""Renews every report below results/ from the records of its run, and the table of all tasks from all runs.

    python -m pkd_tune.report
    python -m pkd_tune.report --out results --latex
    python -m pkd_tune.report results/MRPC/minilm --tolerance 2

Nothing is trained and no model is loaded, so the results may have been copied from elsewhere.
"""

import argparse
import sys
from pathlib import Path

from pkd_tune.cli.common_flags import Parser
from pkd_tune.cli.main import run_command
from pkd_tune.config import UserError
from pkd_tune.files import expanded

OUT = Path("results")
"""Default of --out."""


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        "pkd_tune.report",
        description="Renews the reports of all runs from their records, and the table of all tasks.",
    )
    parser.add_argument(
        "run",
        type=Path,
        nargs="?",
        metavar="RUN",
        help="folder of the one run whose report is renewed, and nothing else (default: all runs below --out)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="DIR",
        help="holds the runs, as <out>/<TASK>/<run>/, and receives glue.md, .html and .csv (default: %(default)s)",
    )
    parser.add_argument(
        "--latex",
        action="store_true",
        help="write glue.tex, and report.tex for each run, for the LaTeX package booktabs",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="by how many points the student to ship may fall short of the teacher (default: that of each search)",
    )
    return parser


def report(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code: 0, or 1 when a run's report cannot be written."""
    from pkd_tune.workflows.report import renew_report, write_reports

    if args.run is not None and args.out != OUT:
        raise UserError("--out: is the folder of the table over all runs; leave it out with one run")
    if args.run is not None:
        renew_report(expanded(args.run), with_latex=args.latex, tolerance=args.tolerance)
        return 0
    return 1 if write_reports(expanded(args.out), with_latex=args.latex, tolerance=args.tolerance) else 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), report))
