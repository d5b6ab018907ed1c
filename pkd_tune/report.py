"""Rebuilds every report below results/ from the records of its run, and the table of all tasks from all runs.

    python -m pkd_tune.report
    python -m pkd_tune.report --out results --latex

Nothing is trained and no model is loaded, so the results may have been copied from elsewhere.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

from pkd_tune.cli.command_line import Parser, Problems, check_writable, run_command, say
from pkd_tune.config import UserError
from pkd_tune.files import write_text
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.glue_table import elements, latex, scores
from pkd_tune.reporting.run import Run, is_run, read_run
from pkd_tune.reporting.run_report import write_report


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.report",
        description="Rebuilds the reports of all runs from their records, and the table of all tasks.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="holds the runs, as <out>/<TASK>/<run>/, and receives glue.md, .html and .csv (default: %(default)s)",
    )
    parser.add_argument("--latex", action="store_true", help="write glue.tex too, for the LaTeX package booktabs")
    return parser


def report(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code: 0, or 1 when a run's report cannot be written."""
    from pkd_tune.reporting.page import page  # loads plotly, which takes a second

    folders = find_runs(args.out)
    problems = Problems()
    check_writable(args.out, "--out", problems)
    read = [problems.attempt(partial(read_run, folder)) for folder in folders]
    problems.raise_any()
    runs = [run for run in read if run is not None]
    for folder in sorted(folder for folder in args.out.glob("*/*") if folder.is_dir() and folder not in folders):
        say(f"{folder}: no run, or one that has only just begun; left out")
    unwritten = 0
    for run in runs:
        try:
            state = "" if run.teacher is not None else " (not finished)"
            say(f"{write_report(args.out / run.folder.parent.name / run.folder.name)}, .html and plots{state}")
        except OSError as error:
            unwritten += 1
            say(f"{run.folder}: its report cannot be written ({error.strerror})")
    counted, notes = choose(runs)
    if not counted:
        say("no search has ended yet, so there is no table of all tasks")
        return 1 if unwritten else 0
    table = scores(counted)
    if outdone := sorted({f"{run.task}/{run.folder.name}" for run in counted} - set(table["run"])):
        names = ", ".join(f"`{name}`" for name in outdone)
        notes.append(f"Left out, because a run that began later has the same models: {names}.")
    content = elements(table, notes)
    write_text(args.out / "glue.md", markdown(content))
    write_text(args.out / "glue.html", page("GLUE", content))
    write_text(args.out / "glue.csv", table.to_csv(index=False, float_format="%.4f"))
    endings = [".md", ".html", ".csv"]
    if args.latex:
        write_text(args.out / "glue.tex", latex(table))
        endings.append(".tex")
    say(f"{args.out / 'glue'}{', '.join(endings)}: {plural(table['task'].nunique(), 'task')}")
    return 1 if unwritten else 0


def find_runs(out: Path) -> list[Path]:
    """Returns the run folders below a folder of results, task by task.

    Raises:
        UserError: When there are none.
    """
    folders = sorted(folder for folder in out.glob("*/*") if folder.is_dir() and is_run(folder))
    if not folders:
        raise UserError(
            f"--out {out}: there is no run in it, that is no {out}/<TASK>/<run>/ with run.json, summary.json or "
            "trials.csv; run python -m pkd_tune.search first, or name the folder it wrote to"
        )
    return folders


def choose(runs: list[Run]) -> tuple[list[Run], list[str]]:
    """Returns the runs that make the table, and what is to be said of the others."""
    ended = [run for run in runs if run.teacher is not None]
    real = [run for run in ended if not run.demo]
    notes = []
    if real and len(real) < len(ended):
        notes.append(f"{plural(len(ended) - len(real), 'demo run')} left out: a made-up corpus is not GLUE.")
    if ended and not real:
        notes.append("**All runs are demos, on made-up corpora: these are not GLUE scores.**")
    if len(ended) < len(runs):
        unfinished = [f"`{run.task}/{run.folder.name}`" for run in runs if run.teacher is None]
        notes.append(f"Not finished and left out: {', '.join(unfinished)}.")
    if held := [f"`{run.task}/{run.folder.name}`" for run in real or ended if run.holdout]:
        notes.append(f"Settings and epochs chosen on a slice held out of train instead of dev: {', '.join(held)}.")
    return real or ended, notes


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), report))
