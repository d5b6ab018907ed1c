"""The words and tables of a run's report: the answer first, how it was made last."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pkd_tune.files import write_text
from pkd_tune.reporting.document import Block, Bullets, Heading, Table, Text, markdown
from pkd_tune.reporting.formatting import (
    METRIC_TITLES,
    SETTING_SYMBOLS,
    listed,
    metric_titles,
    metrics_text,
    millions,
    plural,
    setting_text,
    signed,
    spread_text,
)
from pkd_tune.reporting.importance import without_importances
from pkd_tune.reporting.methods import METHOD_INFO, in_order, student_title, unused_settings
from pkd_tune.reporting.provenance import background
from pkd_tune.reporting.published_scores import PUBLISHED_NOTE, compares, published_dev, published_table
from pkd_tune.reporting.run import ENDED, Run, read_run

__all__ = [
    "METRIC_TITLES",
    "learnt_nothing",
    "metric_titles",
    "metrics_text",
    "plural",
    "results",
    "setting_text",
    "write_report",
]


def write_report(run_dir: Path) -> Path:
    """Writes report.md, report.html and plots/ from the records of a run folder; returns the path of report.md.

    Raises:
        UserError: When a record is damaged; nothing is written then.
    """
    # These load plotly and matplotlib, which takes seconds.
    from pkd_tune.reporting.page import page, plots_html
    from pkd_tune.reporting.parallel import parallel_coordinates
    from pkd_tune.reporting.plots import write_plots
    from pkd_tune.reporting.search_figures import search_figures
    from pkd_tune.reporting.student_figures import student_figures

    run = read_run(run_dir)
    before, after = results(run), background(run)
    figures = [*search_figures(run), *student_figures(run)]
    parallels = parallel_coordinates(run)
    plots = plots_html(figures, parallels)
    write_plots(figures, parallels, run_dir / "plots")
    write_text(run_dir / "report.html", page(f"{run.task}: students of {run.name}", before, plots, after))
    write_text(run_dir / "report.md", markdown([*before, *after]))
    return run_dir / "report.md"


def results(run: Run) -> list[Block]:
    """Returns the first half of the report: every student's scores and costs, and how sure they are."""
    blocks: list[Block] = [Heading(f"{run.task}: students of {run.name}", 1)]
    if run.demo:
        blocks.append(Text("**A made-up demo corpus, not GLUE's.**"))
    if run.teacher:
        blocks.append(_results(run, run.teacher))
    else:
        blocks.append(Text(_UNFINISHED))
    if gaps := [*_gaps(run), *run.missing]:
        blocks.append(Bullets(gaps))
    if not run.students:
        return blocks
    if comparisons := [_comparison(run, student, each) for student in run.students for each in student["against"]]:
        note = "Intervals hold 95 % of a paired bootstrap over dev examples, of the trainings on fresh seeds."
        if any(_tuning(run, student, each) for student in run.students for each in student["against"]):
            note += " They say nothing of how much each was tuned: part of a difference may come from more trials."
        blocks += [Heading("Which differences are real"), Bullets(comparisons), Text(note)]
    if any(student["confirmed"] for student in run.students):
        blocks += [Heading("Confirmed on fresh seeds"), _confirmations(run)]
    if compares(run):
        blocks += [Heading("Published for BERT-base"), published_table(run), Text(PUBLISHED_NOTE)]
    return [*blocks, Heading("How to read the scores"), Bullets(list(_notes(run)))]


def learnt_nothing(student: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Tells whether a student scores no better than always predicting the most frequent class, or the mean label."""
    return bool(student["metrics"]["score"] <= teacher["majority"]["score"] + 0.05)


_UNFINISHED = (
    "**This search is not finished**: there is no summary.json yet. It has just begun, is still running, or was "
    "killed; the same command again continues it."
)


def _results(run: Run, teacher: dict[str, Any]) -> Table:
    titles = metric_titles(teacher["metrics"])
    confirmed = any(student["confirmed"] for student in run.students)
    beside = [published_dev(run.task, m["method"], m["layers"]) for m in run.students] if compares(run) else []
    header = [
        "dev split",
        *(["confirmed score"] if confirmed else []),
        "selection score (held-out slice)" if run.holdout else "selection score",
        *titles.values(),
        "parameters",
        "size on disk",
        "latency",
        "speed-up",
        *(["published, dev"] if beside else []),
        "settings",
    ]
    blank = [""] * (1 + confirmed)

    def costs(model: dict[str, Any]) -> list[str]:
        return [
            *(f"{model['metrics'][metric]:.1f}" for metric in titles),
            f"{millions(model['parameters'])} ({model['parameters'] / teacher['parameters']:.0%})",
            f"{model['size_mb']:.1f} MB",
            f"{model['latency_ms']:.1f} ms",
            f"{teacher['latency_ms'] / model['latency_ms']:.1f}×",
        ]

    own = [published_dev(run.task, "teacher", teacher["layers"])] if beside else []
    rows: list[list[str]] = [[f"teacher, {plural(teacher['layers'], 'layer')}", *blank, *costs(teacher), *own, ""]]
    groups = []
    for number, student in enumerate(run.students):
        if number == 0 or student["layers"] != run.students[number - 1]["layers"]:
            groups.append(len(rows))
        selection = f"{student['search_score']:.1f}"
        if student["trials_ended"]:
            selection += f" (best of {student['trials_ended']})"
        rows.append(
            [
                student_title(student),
                *([_confirmed_text(student)] if confirmed else []),
                selection,
                *costs(student),
                *beside[number : number + 1],
                _settings_text(student),
            ]
        )
    groups.append(len(rows))
    majority = [f"{teacher['majority'][metric]:.1f}" for metric in titles]
    rows.append([teacher["baseline"], *blank, *majority, *[""] * (len(header) - 1 - len(blank) - len(majority))])
    return Table(header, rows, left=(0, len(header) - 1), groups=tuple(groups))


_CONFIRMED = {
    False: "each at the epoch that scored best on dev: these did not choose the settings, but dev chose their epochs, "
    "so it is slightly optimistic.",
    True: "each at the epoch that scored best on the held-out slice; dev was looked at once, at the end of each.",
}
"""How a confirmation came to its score, by `Run.holdout`."""


def _confirmed_text(student: dict[str, Any]) -> str:
    confirmed = student["confirmed"]
    if not confirmed:
        return "–"
    return f"{spread_text(confirmed['mean'], confirmed['sd'])} (n = {len(confirmed['scores'])})"


def _settings_text(student: dict[str, Any]) -> str:
    """Returns a student's settings in one line, without those that have no effect."""
    unused = unused_settings(student["method"], student["layers"])
    words = []
    for name, value in student["settings"].items():
        if name in unused:
            continue
        match name:
            case "strategy":
                words.append(str(value))
            case "normalize":
                words.append("normalized" if value else "not normalized")
            case _:
                words.append(f"{SETTING_SYMBOLS.get(name, name)} {setting_text(value)}")
    return ", ".join(words) or "–"


def _gaps(run: Run) -> Iterator[str]:
    """Yields what is missing or weak among the students, a sentence each."""
    there = {(student["layers"], student["method"]) for student in run.students}
    for depth in run.search["depths"] if run.teacher else []:
        if lost := [m for m in in_order(run.search["methods"]) if (depth, m) not in there]:
            names = listed([METHOD_INFO[method].title for method in lost], "or")
            yield (
                f"No trial of {names} with {plural(depth, 'layer')} reached the end of its training, so there is no "
                "such student."
            )
    for student in run.students:
        if run.teacher and learnt_nothing(student, run.teacher):
            yield (
                f"{student_title(student)}: no better than always predicting the {run.teacher['baseline']}; it has "
                "learnt nothing."
            )
    ended = int(run.of_stage("search")["state"].isin(ENDED).sum())
    if run.planned is not None and ended < run.planned:
        yield f"The search was cut short: {ended} of {run.planned} trials ended."
    wanted = run.search["seeds"] * len(run.students)
    ended = int((run.of_stage("confirm")["state"] == "complete").sum())
    if ended < wanted:
        yield f"Not everything is confirmed: {ended} of {wanted} trainings on fresh seeds are complete."
    if run.teacher and not run.of_stage("search").empty:
        yield from without_importances(run)


def _comparison(run: Run, student: dict[str, Any], against: dict[str, Any]) -> str:
    """Returns in words how a student compares with a control of its depth."""
    name, other = METHOD_INFO[student["method"]].title, METHOD_INFO[against["method"]].title
    depth = plural(student["layers"], "layer")
    interval = f"95 % interval {signed(against['low'])} to {signed(against['high'])}"
    tuning = _tuning(run, student, against)
    if not against["distinguishable"]:
        difference = signed(against["difference"])
        return f"{depth}: {name} and {other} are **not distinguishable** (difference {difference}, {interval}){tuning}."
    word = "better" if against["difference"] > 0 else "worse"
    points = f"{abs(against['difference']):.1f} points"
    return f"{depth}: {name} is **{word}** than {other} by {points} ({interval}){tuning}."


def _tuning(run: Run, student: dict[str, Any], against: dict[str, Any]) -> str:
    """Returns how many trials a student and its control are the best of, where that is known and not the same."""
    (control,) = [s for s in run.students if (s["layers"], s["method"]) == (student["layers"], against["method"])]
    tried, other = student["trials_ended"], control["trials_ended"]
    if not tried or not other or tried == other:
        return ""
    return f"; the best of {plural(tried, 'trial')} against the best of {other}"


def _confirmations(run: Run) -> Table:
    confirmed = [student for student in run.students if student["confirmed"]]
    titles = metric_titles({**confirmed[0]["confirmed"]["metrics"], "score": None})
    rows = []
    for student in confirmed:
        record = student["confirmed"]
        spreads = {**record["metrics"], "score": {"mean": record["mean"], "sd": record["sd"]}}
        rows.append(
            [
                student_title(student),
                len(record["scores"]),
                *(spread_text(spreads[name]["mean"], spreads[name]["sd"]) for name in titles),
                ", ".join(f"{score:.1f}" for score in record["scores"]),
            ]
        )
    depths = [student["layers"] for student in confirmed]
    groups = tuple(i for i in range(1, len(depths)) if depths[i] != depths[i - 1])
    return Table(["mean ± sd", "n", *titles.values(), "score of each seed"], rows, groups=groups)


def _notes(run: Run) -> Iterator[str]:
    """Yields what the columns mean."""
    assert run.teacher is not None
    names = listed(list(metric_titles(run.teacher["metrics"]).values()))
    where = "a slice held out of train" if run.holdout else "the dev split"
    yield (
        f"*Selection score*: the best evaluation of the best trial, on {where}, which chose both the settings and the "
        f"epoch, so it is optimistic{'; dev played no part in the choice' if run.holdout else ''}."
    )
    if any(student["confirmed"] for student in run.students):
        yield (
            "*Confirmed score*: on dev, mean ± standard deviation of n new trainings with the same settings on fresh "
            f"seeds, {_CONFIRMED[run.holdout]}"
        )
    elif run.search["seeds"] == 0:
        yield "No student was trained again on fresh seeds, so no score here says how much chance is in it."
    yield (
        f"*{names[0].upper()}{names[1:]}*: on dev, times 100, of the exported folder loaded again with plain "
        "`transformers` in fp32. A trial's own score may differ a little: training computes in bf16 where the hardware "
        "does."
    )
    yield f"*Latency*: median of one forward pass for a single dev example in fp32 on {run.latency_on}."
    yield (
        "*Settings*: of L = (1 − α)·CE + α·KD + β·PT at temperature T and peak learning rate lr; skip or last says "
        "which teacher layers are imitated, normalized that [CLS] states are scaled to length 1 first."
    )
