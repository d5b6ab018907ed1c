"""Plots of the best students: score against size and latency, and the training of their trials."""

from typing import Any

import pandas as pd

from pkd_tune.reporting.dev_predictions import scatter
from pkd_tune.reporting.figures import Figure, Panel, Series
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.methods import METHOD_INFO, SeriesStyle, student_title
from pkd_tune.reporting.run import Run
from pkd_tune.reporting.search_figures import evaluations

_SELECTED = {
    False: "Hyperparameters and epochs were selected on dev too.",
    True: "Hyperparameters and epochs were selected on a slice held out of train, not on dev.",
}
"""Which examples selected the students, by `Run.holdout`."""


def student_figures(run: Run) -> list[Figure]:
    """Returns the figures of the students, in the order of the report."""
    return [
        score_by_cost(run),
        scatter(run),
        losses(run),
        agreement(run),
        cosines(run),
    ]


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Returns the Pareto front of (cost, score) points, by increasing cost."""
    best: list[tuple[float, float]] = []
    for cost, score in sorted(set(points), key=lambda point: (point[0], -point[1])):
        if not best or score > best[-1][1]:
            best.append((cost, score))
    return best


def score_by_cost(run: Run) -> Figure:
    """Returns the scores of teacher and students over size and over latency, each with its Pareto front."""
    panels = []
    if run.teacher and run.students:
        for title, column, x in (("Size", "size_mb", "MB on disk"), ("Latency", "latency_ms", "ms per example")):
            panels.append(Panel(title=title, x=x, y="score on dev, × 100", series=_costs(run, run.teacher, column)))
    return Figure(
        name="score-by-cost",
        title="Score against size and latency",
        caption="Confirmed score with its standard deviation where there is one, otherwise the score of the exported "
        f"checkpoint. {_SELECTED[run.holdout]} The dotted line is the Pareto front.",
        panels=panels,
    )


def _costs(run: Run, teacher: dict[str, Any], column: str) -> list[Series]:
    scores = [
        (s["confirmed"]["mean"], s["confirmed"]["sd"] or 0.0) if s["confirmed"] else (s["metrics"]["score"], 0.0)
        for s in run.students
    ]
    points = [(s[column], score) for s, (score, _) in zip(run.students, scores, strict=True)]
    own = (teacher[column], teacher["metrics"]["score"])
    xs, ys = zip(*front([*points, own]), strict=True)
    series = [Series(name="Pareto front", look=SeriesStyle(dash="dot"), x=xs, y=ys, width=1.5, opacity=0.6)]
    for method in dict.fromkeys(student["method"] for student in run.students):
        mine = [i for i, student in enumerate(run.students) if student["method"] == method]
        series.append(
            Series(
                name=METHOD_INFO[method].title,
                look=METHOD_INFO[method].look,
                x=[points[i][0] for i in mine],
                y=[points[i][1] for i in mine],
                kind="points",
                error=[scores[i][1] for i in mine],
                labels=[student_title(run.students[i]) for i in mine],
            )
        )
    label = f"teacher, {plural(teacher['layers'], 'layer')}"
    look = SeriesStyle(symbol="star")
    return [*series, Series(name="teacher", look=look, x=[own[0]], y=[own[1]], kind="points", labels=[label])]


def losses(run: Run) -> Figure:
    """Returns the loss of each student over its epochs with its weighted terms."""
    panels = []
    for student in run.students:
        rows = _best_trial(run, student)
        if rows.empty or "loss_total" not in rows:
            continue
        alpha, beta = student["settings"]["alpha"], student["settings"]["beta"]
        terms: list[tuple[str, pd.Series[float], SeriesStyle]] = [
            ("L", rows["loss_total"], SeriesStyle()),
            ("(1 − α)·CE", rows["loss_ce"] * (1 - alpha), METHOD_INFO["finetuned"].look),
            ("α·KD", rows["loss_kd"] * alpha, METHOD_INFO["kd"].look),
            ("β·PT", rows["loss_pt"] * beta, METHOD_INFO["pkd"].look),
        ]
        series = [
            Series(name=name, look=look, x=list(rows["epoch"]), y=list(values), markers=True)
            for name, values, look in terms
            if (values > 0).any()
        ]
        panels.append(Panel(title=student_title(student), x="epoch", y="loss", series=series, log_y=True))
    return Figure(
        name="losses",
        title="Loss of the best trials",
        caption="L = (1 − α)·CE + α·KD + β·PT and its weighted terms, on a logarithmic scale, for the best trial of "
        "each depth and method.",
        panels=panels,
    )


def agreement(run: Run) -> Figure:
    """Returns the agreement of each student's predictions with the teacher's over its epochs, in percent."""
    panels = []
    for depth in run.search["depths"]:
        series = []
        for student in _of_depth(run, depth):
            rows = _best_trial(run, student)
            if "agreement" in rows and rows["agreement"].notna().any():
                method = METHOD_INFO[student["method"]]
                x, y = list(rows["epoch"]), list(rows["agreement"])
                series.append(Series(name=method.title, look=method.look, x=x, y=y, markers=True))
        if series:
            panels.append(
                Panel(title=plural(depth, "layer"), x="epoch", y=f"agreement on {run.selected_on}, %", series=series)
            )
    return Figure(
        name="agreement",
        title="Agreement with the teacher",
        caption=f"Share of the examples of {_examples(run)} on which student and teacher predict the same class, "
        "correct or not, for the best trial of each depth and method.",
        panels=panels,
    )


def cosines(run: Run) -> Figure:
    """Returns the cosine similarity of each student's intermediate layers to the teacher layers they imitate."""
    panels = []
    for depth in run.search["depths"]:
        series = [found for student in _of_depth(run, depth) if (found := _cosines_of(run, student))]
        if series:
            y = "cosine similarity"
            panels.append(Panel(title=plural(depth, "layer"), x="student layer", y=y, series=series, integer_x=True))
    return Figure(
        name="cosines",
        title="Similarity to the teacher's layers",
        caption=f"Mean cosine similarity over {_examples(run)} of the [CLS] state after a student layer and after the "
        "teacher layer it is compared with, at the best evaluation of the best trial.",
        panels=panels,
    )


def _cosines_of(run: Run, student: dict[str, Any]) -> Series | None:
    rows = _best_trial(run, student)
    columns = [name for name in rows if str(name).startswith("cosine_")]
    if rows.empty or not columns:
        return None
    best = rows.loc[(rows["epoch"] - student["epoch"]).abs().idxmin(), columns].dropna()
    if len(best) < 2:  # a single layer is no line
        return None
    method, imitated = METHOD_INFO[student["method"]], dict(enumerate(student["imitated_layers"], start=1))
    layers = [int(str(name).removeprefix("cosine_")) for name in best.index]
    labels = [f"layer {layer}" + (f" → teacher {imitated[layer]}" if layer in imitated else "") for layer in layers]
    y = [float(str(value)) for value in best]
    return Series(name=method.title, look=method.look, x=layers, y=y, markers=True, labels=labels)


def _examples(run: Run) -> str:
    return "the slice held out of train" if run.holdout else "the dev split"


def _of_depth(run: Run, depth: int) -> list[dict[str, Any]]:
    return [student for student in run.students if student["layers"] == depth]


def _best_trial(run: Run, student: dict[str, Any]) -> pd.DataFrame:
    """Returns the evaluations of the trial that trained a student."""
    rows = evaluations(run, student["layers"], student["method"])
    return rows if rows.empty else rows[rows["trial"] == student["trial"]]
