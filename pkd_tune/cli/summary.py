"""The summary that a search ends with: which student to ship, how good the others are, and where everything is."""

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pkd_tune.config import METHODS
from pkd_tune.files import BEST, RAY
from pkd_tune.reporting.document import plain
from pkd_tune.reporting.formatting import plural, spread_text
from pkd_tune.reporting.methods import METHOD_INFO
from pkd_tune.reporting.ranges import range_notes
from pkd_tune.reporting.run import read_run, verdict_of
from pkd_tune.reporting.verdict import is_at_baseline, score_of, verdict_text
from pkd_tune.workflows.finished_run import SearchRun

MAX_STUDENTS = 6
"""Lines about students; with the verdict, where things are and what is left to do, they are fifteen."""
WIDTH = 80
"""Of a terminal, in characters."""


def summary_lines(summary: dict[str, Any], run_dir: Path, notes: Sequence[str] = ()) -> list[str]:
    """Returns what a finished search says, in lines of at most 80 characters but for paths and commands to copy.

    Where there are too many students for a line each, only the best of each depth is named; the report has them all.

    Args:
        summary: The content of summary.json.
        run_dir: The run's folder.
        notes: Of the report, on ranges that turned out wrong: the first is told, and how many more there are.
    """
    more = f" (the report has {plural(len(notes) - 1, 'more note')} like this)" if notes[1:] else ""
    teacher = summary["teacher"]
    students = sorted(summary["students"], key=lambda s: (s["layers"], METHODS.index(s["method"])))
    if len(students) > MAX_STUDENTS:
        depths = {student["layers"] for student in students}
        students = [max((s for s in students if s["layers"] == depth), key=score_of) for depth in sorted(depths)]
    verdict = verdict_of(summary)
    return [
        *(textwrap.wrap(plain(verdict_text(verdict)), WIDTH, break_on_hyphens=False) if verdict else []),
        f"teacher: {teacher['metrics']['score']:.1f} on dev"
        + ("; students (size and speed as compared with it):" if students else ""),
        *(_line(student, teacher) for student in students),
        *(f"{plain(note)}{more}" for note in notes[:1]),
        f"report:      {run_dir / 'report.md'}",
        f"checkpoints: {run_dir / BEST}",
        f"TensorBoard: tensorboard --logdir {run_dir / RAY}  # has no login",
    ]


def _line(student: dict[str, Any], teacher: dict[str, Any]) -> str:
    size, speed = student["parameters"] / teacher["parameters"], teacher["latency_ms"] / student["latency_ms"]
    line = f"{plural(student['layers'], 'layer')}, {METHOD_INFO[student['method']].title} ({size:.0%}, {speed:.1f}×): "
    line += f"{student['metrics']['score']:.1f} on dev"
    if confirmed := student["confirmed"]:
        spread = spread_text(confirmed["mean"], confirmed["sd"])
        line += f", {spread} on {plural(len(confirmed['seeds']), 'fresh seed')}"
    return line + ("; does not beat the constant baseline" if is_at_baseline(student, teacher) else "")


def print_outcome(run: SearchRun, again: str) -> int:
    """Prints the summary of a search to standard error; returns the command's exit code.

    Args:
        run: What the search left.
        again: What continues it.

    Returns:
        0, also at the time limit; 130 after an interruption; 1 when there is no student.
    """
    lines = summary_lines(run.summary, run.folder, range_notes(read_run(run.folder)))
    if run.status == "interrupted":
        lines.append(f"stopped with {plural(run.remaining, 'trial')} to go; {again} continues")
    elif run.status == "time limit":
        lines.append(f"the time limit was reached with {plural(run.remaining, 'trial')} to go; {again} continues")
    elif run.status == "no student":
        lines.append(f"no trial was completed; most often because: {run.reason}")
    print("\n".join(lines), file=sys.stderr, flush=True)
    return {"finished": 0, "time limit": 0, "interrupted": 130, "no student": 1}[run.status]
