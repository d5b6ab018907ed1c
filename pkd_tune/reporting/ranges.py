"""Ranges of a search space that the trials of a run show to be wrong, each with a range to search instead."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import pandas as pd

from pkd_tune.reporting.formatting import listed, number_text, plural
from pkd_tune.reporting.methods import is_regression, student_title, unused_settings
from pkd_tune.reporting.run import Run
from pkd_tune.reporting.verdict import is_at_baseline

End = Literal["lower", "upper"]

MIN_TRIALS = 6
"""Ended trials of a depth, or of one of its methods, below which nothing is said of ranges: the best of a few is often
the first setting, a published one."""
OUTER = 1 / 3
"""Share of a range, on its own scale, in which all learning rates that teach anything must lie to be at its end."""
MARGIN = 0.03
"""Share of a range, on its own scale, within which a best value lies at its end."""
FACTOR = 3
"""How much further a range is proposed to reach."""
TEACHER_RATES = 3
"""Learning rates of a teacher below which nothing is said of them."""
TEACHER_LEAD = 2.0
"""Points by which the lowest or the highest must be ahead of all others: another seed changes a score by as much."""
TEACHER_FACTOR = 2
"""How far beyond the teacher's learning rates another one is proposed."""
HIGHEST = {"alpha": 1.0, "warmup_fraction": 1.0}
LOWEST = {"epochs": 1, "batch_size": 1}
ABOVE_ZERO = ("learning_rate", "temperature", "max_grad_norm")
"""Parameters that cannot be 0."""


def range_notes(run: Run) -> list[str]:
    """Returns a sentence for each range that ought to be searched elsewhere; empty for most runs."""
    stuck = dict(_stuck(run))
    return [*_of_teacher(run), *stuck.values(), *_at_ends(run, {("learning_rate", end) for end in stuck})]


def _of_teacher(run: Run) -> Iterator[str]:
    """Yields that the teacher scored clearly best at the lowest or the highest of its learning rates."""
    rates = [training["learning_rate"] for training in run.search["teacher_trainings"]]
    scores = run.teacher.get("training_scores", ()) if run.teacher else ()  # older runs have none
    if len(scores) != len(rates) or len(set(rates)) < TEACHER_RATES:
        return
    best = max(scores)
    near = {rate for rate, score in zip(rates, scores, strict=True) if score > best - TEACHER_LEAD}
    for end, last, beyond in (("lowest", min(rates), 1 / TEACHER_FACTOR), ("highest", max(rates), TEACHER_FACTOR)):
        if near == {last}:
            wider = ", ".join(number_text(rate) for rate in sorted({*rates, last * beyond}))
            yield (
                f"The teacher scored best, {best:.1f}, at the {end} of its learning rates, {number_text(last)}, so "
                f'there may be better ones beyond. Search further: `--new --set "teacher.learning_rates=[{wider}]"`.'
            )


def _stuck(run: Run) -> Iterator[tuple[End, str]]:
    """Yields what is wrong with the learning rate, where most trials never predicted a second class.

    At most one sentence for each end of the range, for the first depth that shows it.
    """
    spec = run.record["space"]["learning_rate"]
    if "low" not in spec or "when" in spec or "degenerate" not in run.evaluations:
        return
    told = set()
    for depth in run.search["depths"]:
        trials, learnt = _learning(run, depth)
        places = [_place(spec, rate) for rate in trials["learning_rate"][learnt]]
        if len(trials) < MIN_TRIALS or not 0 < len(places) < len(trials) / 2:
            continue
        end: End | None = "upper" if min(places) >= 1 - OUTER else "lower" if max(places) <= OUTER else None
        if end is None or end in told:
            continue
        told.add(end)
        rates = trials["learning_rate"][learnt]
        bound = f"{number_text(rates.min())} or more" if end == "upper" else f"{number_text(rates.max())} or less"
        always = "value" if is_regression(run.trials.columns) else "class"
        count = f"{len(trials) - len(places)} of {len(trials)} trials"
        yield (
            end,
            f"{plural(depth, 'layer')}: {count} predicted the same {always} for every example to their end; all others "
            f"had a learning rate of {bound}, at the {end} end of its range. {_remedy('learning_rate', spec, end)}",
        )


def _learning(run: Run, depth: int) -> tuple[pd.DataFrame, pd.Series]:
    """Returns the search trials of a depth that ended with a score, and which of them ever predicted two classes."""
    trials = _ended(run)
    trials = trials[trials["depth"] == depth]
    rows = run.evaluations[(run.evaluations["depth"] == depth) & (run.evaluations["stage"] == "search")]
    constant = rows.groupby(["method", "trial"])["degenerate"].all()
    return trials, pd.Series(
        [not constant[key] for key in zip(trials["method"], trials["trial"], strict=True)], trials.index
    )


def _ended(run: Run) -> pd.DataFrame:
    """Returns the search trials that ended with a score."""
    trials = run.of_stage("search")
    return trials[trials["state"].isin(("complete", "stopped early"))]


def _at_ends(run: Run, told: set[tuple[str, End]]) -> Iterator[str]:
    """Yields the ends of ranges at which best values lie, but for those that were told of before.

    Where a student does not beat the constant baseline, its values are the best of none; where few trials were made,
    they are the best of few.
    """
    found: dict[tuple[str, End], list[str]] = {}
    ended = _ended(run).groupby(["depth", "method"]).size()
    for student in run.students:
        if ended.get((student["layers"], student["method"]), 0) < MIN_TRIALS:
            continue
        if run.teacher is not None and is_at_baseline(student, run.teacher):
            continue
        unused = unused_settings(student["method"], student["layers"], regression=is_regression(student["metrics"]))
        for name, value in student["settings"].items():
            spec = run.record["space"].get(name, {})
            if name in unused or "low" not in spec or not spec["low"] <= value <= spec["high"]:
                continue
            if "when" in spec:
                continue  # it may be the value for otherwise, and a wider range would have to repeat the condition
            place = _place(spec, value)
            end: End | None = "upper" if place >= 1 - MARGIN else "lower" if place <= MARGIN else None
            if end is not None and (name, end) not in told and _widened(name, spec, end) != spec:
                found.setdefault((name, end), []).append(f"{student_title(student)} ({number_text(value)})")
    for (name, end), students in found.items():
        spec = run.record["space"][name]
        where = f"lies at the {end} end of its range, so there may be better ones beyond"
        yield f"{name}: the best value of {listed(students)} {where}. {_remedy(name, spec, end)}"


def _place(spec: dict[str, Any], value: float) -> float:
    """Returns where a value lies in its range: 0 is its lower end, 1 the upper one."""
    low, high = spec["low"], spec["high"]
    if spec["log"]:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return float((value - low) / (high - low))


def _widened(name: str, spec: dict[str, Any], end: End) -> dict[str, Any]:
    """Returns a range that reaches further beyond one of its ends, as far as the parameter allows."""
    low, high = spec["low"], spec["high"]
    step = (FACTOR - 1) * (high - low)
    if end == "upper":
        high = min(HIGHEST.get(name, math.inf), high * FACTOR if spec["log"] else high + step)
    else:
        lower = low / FACTOR if spec["log"] or (name in ABOVE_ZERO and low <= step) else low - step
        low = max(LOWEST.get(name, 0), lower, 1 if spec["log"] and spec["int"] else 0)
    return {**spec, "low": round(low) if spec["int"] else low, "high": round(high) if spec["int"] else high}


def _remedy(name: str, spec: dict[str, Any], end: End) -> str:
    wider = _widened(name, spec, end)
    text = f"low = {number_text(wider['low'])}, high = {number_text(wider['high'])}"
    text += ", log = true" if spec["log"] else ""
    text += ", int = true" if spec["int"] else ""
    return f'Search further: `--new --set "space.{name}={{{text}}}"`.'
