"""Renews the reports of runs from their records, and the table of all tasks from all runs. Nothing is trained."""

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

from pkd_tune.config import UserError
from pkd_tune.files import write_text
from pkd_tune.reporting.document import code, markdown
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.glue_table import COLUMNS, elements, latex, scores
from pkd_tune.reporting.run import Run, is_run, read_run
from pkd_tune.reporting.run_report import write_report
from pkd_tune.workflows.checks import Problems, check_writable

log = logging.getLogger(__name__)


def renew_report(run_dir: Path, *, with_latex: bool = False, tolerance: float | None = None) -> None:
    """Writes the report of one run again.

    Args:
        run_dir: The run folder.
        with_latex: Whether report.tex is written too.
        tolerance: By how many points the student to ship may fall short of the teacher; None: what the search had.

    Raises:
        UserError: When the folder is no run, a record is damaged, or the report cannot be written.
    """
    check_tolerance(tolerance)
    if not is_run(run_dir):
        raise UserError(f"{run_dir}: there is no run in it; give the folder of a run, for example results/MRPC/minilm")
    try:
        report = write_report(run_dir, tolerance, with_latex=with_latex)
    except OSError as error:
        raise UserError(f"{run_dir}: its report cannot be written ({error.strerror})") from error
    log.info("%s, .html%s and plots", report, ", .tex" if with_latex else "")


def check_tolerance(tolerance: float | None) -> None:
    """Raises for a tolerance that is none.

    Raises:
        UserError: Saying what would be right.
    """
    if tolerance is not None and not 0 <= tolerance < math.inf:
        raise UserError(f"--tolerance must be a finite number of at least 0, but got {tolerance}")


def write_reports(out: Path, *, with_latex: bool = False, tolerance: float | None = None) -> int:
    """Writes every run's report again, and the table of all tasks; returns how many reports could not be written.

    Args:
        out: Holds the runs, as <out>/<TASK>/<run>/, and receives glue.md, glue.html and glue.csv.
        with_latex: Whether glue.tex and the report.tex of each run are written too.
        tolerance: By how many points students to ship may fall short of the teacher; None: what each search had.

    Raises:
        UserError: When there is no run, a record is damaged, or `out` cannot be written to.
    """
    from pkd_tune.reporting.page import page  # loads plotly, which takes a second

    check_tolerance(tolerance)
    folders = find_runs(out)
    problems = Problems()
    check_writable(out, "--out", problems)
    read = [problems.attempt(partial(read_run, folder)) for folder in folders]
    problems.raise_any()
    runs = [run for run in read if run is not None]
    for folder in sorted(folder for folder in out.glob("*/*") if folder.is_dir() and folder not in folders):
        log.info("%s: left out: it has no trials yet, or is not a run", folder)
    unwritten = 0
    for run, folder in zip(runs, folders, strict=True):  # a run's own folder is resolved, and this may be a link
        try:
            state = "" if run.teacher is not None else " (not finished)"
            report = write_report(folder, tolerance, with_latex=with_latex)
            log.info("%s, .html%s and plots%s", report, ", .tex" if with_latex else "", state)
        except OSError as error:
            unwritten += 1
            log.info("%s: its report cannot be written (%s)", run.folder, error.strerror)
    counted, notes = choose(runs)
    if not counted:
        log.info("no search of a GLUE task has ended, so there is no table of its tasks")
        return unwritten
    table = scores(counted)
    names = set(table["run"])
    notes += remarks([run for run in counted if _name(run) in names])
    if outdone := _named(sorted((run for run in counted if _name(run) not in names), key=_name)):
        notes.append(f"Left out, because a run that began later has the same models: {outdone}.")
    content = elements(table, notes)
    write_text(out / "glue.md", markdown(content))
    write_text(out / "glue.html", page("GLUE", content))
    write_text(out / "glue.csv", table.to_csv(index=False, float_format="%.4f"))
    endings = [".md", ".html", ".csv"]
    if with_latex:
        write_text(out / "glue.tex", latex(table))
        endings.append(".tex")
    log.info("%s%s: %s", out / "glue", ", ".join(endings), plural(table["task"].nunique(), "task"))
    return unwritten


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
    """Returns the runs that make the table, and notes on the others."""
    others = sorted({run.task for run in runs} - set(COLUMNS))
    runs = [run for run in runs if run.task in COLUMNS]
    ended = [run for run in runs if run.teacher is not None]
    real = [run for run in ended if not run.demo]
    notes = []
    if real and len(real) < len(ended):
        notes.append(f"{plural(len(ended) - len(real), 'demo run')} left out: its corpus is synthetic, not GLUE.")
    if ended and not real:
        notes.append("**All runs are demos, on made-up corpora: these are not GLUE scores.**")
    if len(ended) < len(runs):
        notes.append(f"Not finished and left out: {_named(run for run in runs if run.teacher is None)}.")
    if others and ended:
        notes.append(f"Tasks that are not GLUE's have reports of their own: {', '.join(map(code, others))}.")
    return real or ended, notes


def remarks(runs: Sequence[Run]) -> list[str]:
    """Returns notes on how the students of runs in the table differ from those of other runs."""
    notes = []
    kinds: list[tuple[str, Callable[[Run], object]]] = [
        ("Interrupted, or ended by a time limit, so that students are the best so far", lambda run: run.remaining),
        ("Settings and epochs chosen on a slice held out of train instead of dev", lambda run: run.holdout),
        ("KD and PKD with more texts than the task's (`--unlabeled`)", lambda run: "unlabeled" in run.record),
    ]
    for note, those in kinds:
        if text := _named(filter(those, runs)):
            notes.append(f"{note}: {text}.")
    return notes


def _name(run: Run) -> str:
    return f"{run.task}/{run.folder.name}"


def _named(runs: Iterable[Run]) -> str:
    return ", ".join(code(_name(run)) for run in runs)
