"""The table of all tasks from all runs: a row per teacher, method and depth, a column per task, as in the PKD paper.

`results/glue.csv` has one number per line; the tables of glue.md, glue.html and glue.tex are views of it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pkd_tune.config import METHODS
from pkd_tune.reporting.document import Bullets, Element, Heading, Table, Text, code, literal
from pkd_tune.reporting.formatting import plural, spread_text
from pkd_tune.reporting.latex import latex_table
from pkd_tune.reporting.methods import METHOD_INFO
from pkd_tune.reporting.run import Run

COLUMNS = {
    "CoLA": "CoLA (Matthews)",
    "SST-2": "SST-2 (acc)",
    "MRPC": "MRPC (F1/acc)",
    "STS-B": "STS-B (Pearson/Spearman)",
    "QQP": "QQP (F1/acc)",
    "MNLI": "MNLI (m/mm)",
    "QNLI": "QNLI (acc)",
    "RTE": "RTE (acc)",
    "WNLI": "WNLI (acc)",
}
"""The columns in the order of GLUE, each titled with its metrics in the order of their numbers."""

GAP = "–"

_KEY = ("teacher", "method", "layers", "task")


@dataclass(frozen=True, slots=True)
class View:
    """One of the two tables: best scores, or confirmed scores."""

    title: str
    label: str
    """Label of the LaTeX table."""
    note: str
    header: list[str]
    rows: list[list[str]]
    groups: list[int]
    """Index of the first row of each teacher but the first."""


def scores(runs: Sequence[Run]) -> pd.DataFrame:
    """Returns every metric of every teacher and student, one row each.

    Of several runs of a task with the same teacher, the run that began last counts, for each model separately; one that
    was interrupted, or ended by a time limit, only where no complete one has the model.

    Columns: teacher, method (`teacher` for the teacher itself), layers, task, metric (`score` is the mean of the
    others), best (score of the exported checkpoint, × 100), mean, sd and seeds (of the confirmation, empty without
    one), trials (number of trials of which it is the best), run.
    """
    latest: dict[tuple[str, str, int, str], list[dict[str, Any]]] = {}
    for run in sorted(runs, key=lambda run: (not run.remaining, _begun(run))):
        if run.teacher is None:
            continue
        own = {**run.teacher, "method": "teacher", "confirmed": None, "trials_ended": None}
        for model in [own, *run.students]:
            key = (run.teacher["name"], model["method"], model["layers"], run.task)
            latest[key] = [
                {
                    **dict(zip(_KEY, key, strict=True)),
                    "metric": metric,
                    "best": value,
                    **_spread(model["confirmed"], metric),
                    "trials": model["trials_ended"],
                    "run": f"{run.task}/{run.folder.name}",
                }
                for metric, value in model["metrics"].items()
            ]
    order = sorted(latest, key=_order)
    columns = [*_KEY, "metric", "best", "mean", "sd", "seeds", "trials", "run"]
    table = pd.DataFrame([row for key in order for row in latest[key]], columns=columns)
    return table.astype({"seeds": "Int64", "trials": "Int64", "mean": float, "sd": float})


def views(table: pd.DataFrame) -> list[View]:
    """Returns the table of confirmed scores, where there are any, and the table of best scores."""
    best = View(
        "Best of the search",
        "best",
        "Score of the exported checkpoint, the best of several trials. It is optimistic where dev selected the trial.",
        *_rows(table, confirmed=False),
    )
    if table["mean"].isna().all():
        return [best]
    confirmed = View(
        "Confirmed on fresh seeds",
        "confirmed",
        "Mean ± standard deviation over new training runs with the best hyperparameters on fresh seeds. The teacher is "
        "trained once, so it has no standard deviation.",
        *_rows(table, confirmed=True),
    )
    return [confirmed, best]


def elements(table: pd.DataFrame, notes: Sequence[str]) -> list[Element]:
    """Returns the content of glue.md and glue.html.

    Args:
        table: From `scores()`.
        notes: Further notes, a text each.
    """
    content: list[Element] = [Heading("GLUE, dev split, × 100", 1)]
    for view in views(table):
        content += [
            Heading(view.title),
            Table(view.header, [[literal(cell) for cell in row] for row in view.rows], groups=tuple(view.groups)),
            Text(view.note),
        ]
    used = table.groupby("task", sort=False)["run"].unique()
    runs = "; ".join(f"{literal(task)}: {', '.join(map(code, names))}" for task, names in used.items())
    mean = (
        "*Mean*: over the tasks of the row; the score of a task with several metrics is their mean. The number of "
        f"tasks is in parentheses where it is not all {len(COLUMNS)}. Means over different tasks are not comparable."
    )
    return [*content, Heading("Notes"), Bullets([mean, *notes, f"Runs: {runs}."])]


def latex(table: pd.DataFrame) -> str:
    r"""Returns the views as LaTeX tables; they need `\usepackage{booktabs}` and, being wide, `graphicx`."""
    return "\n".join(
        latex_table(
            Table(view.header, [[literal(cell) for cell in row] for row in view.rows], groups=tuple(view.groups)),
            f"GLUE dev scores. {view.note}",
            f"glue-{view.label}",
            gap=GAP,
            rules=[1 + first for first in (0, *view.groups)],  # below each teacher
        )
        for view in views(table)
    )


def _rows(table: pd.DataFrame, *, confirmed: bool) -> tuple[list[str], list[list[str]], list[int]]:
    rows: list[list[str]] = []
    groups = []
    column = "mean" if confirmed else "best"
    for (teacher, method, layers), of_model in _models(table):
        own = method == "teacher"
        if confirmed and not own and of_model["mean"].isna().all():
            continue
        if own and rows:
            groups.append(len(rows))
        depth = plural(layers, "layer")
        cells = [f"{teacher} (teacher, {depth})" if own else f"{METHOD_INFO[method].title}, {depth}"]
        cells += [_cell(of_model[of_model["task"] == task], "best" if own else column) for task in COLUMNS]
        means = of_model[of_model["metric"] == "score"]["best" if own else column].dropna()
        some = "" if len(means) == len(COLUMNS) else f" ({len(means)})"
        rows.append([*cells, f"{means.mean():.1f}{some}"])
    return ["model", *COLUMNS.values(), "mean"], rows, groups


def _models(table: pd.DataFrame) -> Iterator[tuple[tuple[str, str, int], pd.DataFrame]]:
    """Yields teacher, method and layers of each row, and the part of the table that belongs to it."""
    for keys in dict.fromkeys(zip(table["teacher"], table["method"], table["layers"], strict=True)):
        teacher, method, layers = keys
        same = (table["teacher"] == teacher) & (table["method"] == method) & (table["layers"] == layers)
        yield (teacher, method, int(layers)), table[same]


def _cell(of_task: pd.DataFrame, column: str) -> str:
    """Returns the metrics of a task in one cell, without their mean."""
    shown = of_task[(of_task["metric"] != "score") & of_task[column].notna()]
    spreads = [None if column == "best" or pd.isna(sd) else sd for sd in shown["sd"]]
    return " / ".join(spread_text(value, sd) for value, sd in zip(shown[column], spreads, strict=True)) or GAP


def _spread(confirmed: dict[str, Any] | None, metric: str) -> dict[str, Any]:
    if confirmed is None:
        return {"mean": None, "sd": None, "seeds": None}
    spread = confirmed if metric == "score" else confirmed["metrics"][metric]
    return {"mean": spread["mean"], "sd": spread["sd"], "seeds": len(confirmed["scores"])}


def _begun(run: Run) -> str:
    return str(run.record["provenance"]["started"])


def _order(key: tuple[str, str, int, str]) -> tuple[str, bool, int, int, int]:
    """Returns the sort key of a model's task: each teacher before its students, these by depth, then by method."""
    teacher, method, layers, task = key
    number = METHODS.index(method) if method in METHOD_INFO else 0
    return teacher, method != "teacher", layers, number, list(COLUMNS).index(task)
