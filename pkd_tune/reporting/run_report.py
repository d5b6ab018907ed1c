"""The report of a run: its first half, with scores, costs and significance, and the files it is written to."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pkd_tune.files import PLOTS, TRIALS, write_text
from pkd_tune.reporting.dev_predictions import student_and_teacher
from pkd_tune.reporting.document import Bullets, Element, Heading, Table, Text, literal, markdown
from pkd_tune.reporting.formatting import (
    SETTING_SYMBOLS,
    listed,
    metric_titles,
    millions,
    plural,
    setting_text,
    signed,
    spread_text,
)
from pkd_tune.reporting.importance import without_importances
from pkd_tune.reporting.latex import latex_table
from pkd_tune.reporting.methods import ABLATION_TITLES, METHOD_INFO, is_regression, student_title, unused_settings
from pkd_tune.reporting.published_scores import PUBLISHED_NOTE, compares, published_dev, published_table
from pkd_tune.reporting.ranges import range_notes
from pkd_tune.reporting.run import ENDED, Run, fixed_value, read_run
from pkd_tune.reporting.run_details import run_details
from pkd_tune.reporting.verdict import distillation_text, is_at_baseline, tuning_text, verdict_text

_UNFINISHED = (
    "**This search has not ended.** It is still running or was stopped; the same command, without `--new`, continues "
    "it. Scores and trials are reported when it ends."
)
_CONFIRMED = {
    False: "each at the epoch with the best dev score. They did not select the hyperparameters, but dev selected their "
    "epochs, so the score is slightly optimistic.",
    True: "each at the epoch with the best score on the held-out slice; dev was scored once, at the end of each.",
}
"""How a confirmation got its score, by `Run.holdout`."""


def write_report(
    run_dir: Path, tolerance: float | None = None, *, with_latex: bool = False, with_plots: bool = True
) -> Path:
    """Writes report.md, report.html and plots/ from the records of a run folder; returns the path of report.md.

    Args:
        run_dir: The run folder.
        tolerance: By how many points the student to ship may fall short of the teacher; None: what the search had.
        with_latex: Whether report.tex, with the tables of results and of differences, is written too.
        with_plots: Whether plots/ is written, which takes longer than all the rest; otherwise that of an earlier report
            is emptied.

    Raises:
        UserError: When a record is damaged or missing; nothing is written then.
    """
    # These load Plotly, matplotlib and Jinja, which takes seconds.
    from pkd_tune.reporting.page import page, plot_sections
    from pkd_tune.reporting.plots import write_plots
    from pkd_tune.reporting.search_figures import parallel_coordinates, search_figures
    from pkd_tune.reporting.student_figures import student_figures

    run = read_run(run_dir, tolerance)
    before, after = results(run), run_details(run, with_plots=with_plots)
    figures = [*search_figures(run), *student_figures(run)]
    parallels = parallel_coordinates(run)
    html = page(_title(run), before, plot_sections(figures, parallels), after)
    write_plots(figures if with_plots else (), parallels if with_plots else (), run_dir / PLOTS)
    write_text(run_dir / "report.html", html)
    if with_latex and run.teacher:
        tables = [latex_table(_results(run, run.teacher), _title(run), f"{run.task}-results")]
        if (differences := differences_table(run)).rows:
            tables.append(latex_table(differences, f"{_title(run)}, differences", f"{run.task}-differences"))
        write_text(run_dir / "report.tex", "\n".join(tables))
    write_text(run_dir / "report.md", markdown([*before, *after]))
    return run_dir / "report.md"


def results(run: Run) -> list[Element]:
    """Returns the elements of the first half of the report."""
    elements: list[Element] = [Heading(literal(_title(run)), 1)]
    if run.demo:
        elements.append(Text("**The data is a synthetic demo corpus, not real data.**"))
    if run.verdict:
        elements.append(Text(verdict_text(run.verdict)))
        if gain := distillation_text(run.verdict.student, run.students, unlabeled="unlabeled" in run.record):
            elements.append(Text(gain))
    elements.append(_results(run, run.teacher) if run.teacher else Text(_UNFINISHED))
    if run.teacher and (gaps := list(_gaps(run, run.teacher))):
        elements.append(Bullets(gaps))
    if not run.teacher or not run.students:
        return elements
    elements += _differences(run)
    elements += [
        element for student in run.students if "formats" in student for element in _formats(student, run.latency_on)
    ]
    if any(student["confirmed"] for student in run.students):
        elements += [Heading("Confirmation on fresh seeds"), _confirmations(run)]
    elements += student_and_teacher(run)
    if compares(run):
        elements += [Heading("Published scores of BERT-base"), published_table(run), Text(PUBLISHED_NOTE)]
    return [*elements, Heading("Notes"), Bullets(list(_notes(run, run.teacher)))]


def _title(run: Run) -> str:
    return f"{run.task}: students of {run.name}"


def _results(run: Run, teacher: dict[str, Any]) -> Table:
    titles = metric_titles(teacher["metrics"], run.score)
    confirmed = any(student["confirmed"] for student in run.students)
    published = [published_dev(run.task, m["method"], m["layers"]) for m in run.students] if compares(run) else []
    header = [
        "dev split",
        *(["confirmed score"] if confirmed else []),
        "selection score (held-out slice)" if run.holdout else "selection score",
        *titles.values(),
        "parameters",
        "size on disk",
        "latency",
        "speed-up",
        *(["published, dev"] if published else []),
        "hyperparameters",
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

    of_teacher = [published_dev(run.task, "teacher", teacher["layers"])] if published else []
    rows = [[f"teacher, {plural(teacher['layers'], 'layer')}", *blank, *costs(teacher), *of_teacher, ""]]
    groups = []
    for number, student in enumerate(run.students):
        if number == 0 or student["layers"] != run.students[number - 1]["layers"]:
            groups.append(len(rows))
        rows.append(
            [
                student_title(student),
                *([_confirmed_text(student)] if confirmed else []),
                f"{student['search_score']:.1f} (best of {student['trials_ended']})",
                *costs(student),
                *published[number : number + 1],
                _settings_text(run, student),
            ]
        )
    groups.append(len(rows))
    baseline = [f"{teacher['majority'][metric]:.1f}" for metric in titles]
    empty = [""] * (len(header) - 1 - len(blank) - len(baseline))
    rows.append([f"baseline: {teacher['baseline']}", *blank, *baseline, *empty])
    return Table(header, rows, left=(0, len(header) - 1), groups=tuple(groups))


def _confirmed_text(student: dict[str, Any]) -> str:
    confirmed = student["confirmed"]
    if not confirmed:
        return "–"
    return f"{spread_text(confirmed['mean'], confirmed['sd'])} (n = {len(confirmed['scores'])})"


def _settings_text(run: Run, student: dict[str, Any]) -> str:
    """Returns the hyperparameters of a student in one line, without those that have no effect.

    Epochs and initialisation are left out where they are those of all students.
    """
    unused = unused_settings(
        student["method"],
        student["layers"],
        regression=is_regression(student["metrics"]),
        settings=student["settings"],
    )
    unused |= {name for name in ("epochs", "init") if fixed_value(run.record["space"][name]) is not None}
    words = []
    for name, value in student["settings"].items():
        if name in unused:
            continue
        match name:
            case "strategy":
                words.append(str(value))
            case "epochs":
                words.append(plural(value, "epoch"))
            case "normalize":
                words.append("normalized" if value else "not normalized")
            case _:
                words.append(f"{SETTING_SYMBOLS.get(name, name)} {setting_text(value)}")
    return literal(", ".join(words))


def _gaps(run: Run, teacher: dict[str, Any]) -> Iterator[str]:
    """Yields what the results lack, a text each."""
    found = {(student["layers"], student["method"]) for student in run.students}
    for depth in run.search["depths"]:
        if lost := [method for method in run.methods if (depth, method) not in found]:
            names = listed([METHOD_INFO[method].title for method in lost], "or")
            yield f"There is no {names} student with {plural(depth, 'layer')}: none of its trials was completed."
    for student in run.students:
        if is_at_baseline(student, teacher):
            yield (
                f"{student_title(student)}: the student does not beat the constant baseline, which predicts the "
                f"{teacher['baseline']}."
            )
    if run.remaining:
        stopped = "reached its time limit" if run.status == "time limit" else "was interrupted"
        yield (
            f"The search {stopped} with {plural(run.remaining, 'training run')} to go, confirmations and ablations "
            "included; the same command, without `--new`, continues it."
        )
    ended = int(run.of_stage("search")["state"].isin(ENDED).sum())
    if run.planned is not None and ended < run.planned:
        yield f"The search is incomplete: {ended} of {run.planned} trials ended."
    seeds = run.search["seeds"]
    confirmed = [len(student["confirmed"]["scores"]) if student["confirmed"] else 0 for student in run.students]
    ended, wanted = sum(min(each, seeds) for each in confirmed), seeds * len(run.students)
    if ended < wanted:
        yield f"The confirmation is incomplete: {ended} of {wanted} training runs on fresh seeds are complete."
    for student in run.students:
        for ablation in student.get("ablations", ()):
            if student["confirmed"] and (made := len(ablation["seeds"])) < len(student["confirmed"]["seeds"]):
                title = f"{student_title(student)}: {ABLATION_TITLES[ablation['method']]}"
                yield f"{title} has {plural(made, 'training run')} of {len(student['confirmed']['seeds'])}."
    ablations = run.of_stage("ablation")
    if failed := int((ablations["state"] == "failed").sum()):
        yield f"{plural(failed, 'training run')} of ablations failed; `{TRIALS}` says why."
    if seeds == 1 and run.students and max(confirmed) <= 1:
        yield (
            "With one fresh seed the variance between seeds is unknown, so that no differences are judged: the same "
            "command with `--seeds 2` or more adds to it."
        )
    yield from range_notes(run)
    if not run.of_stage("search").empty:
        yield from without_importances(run)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Comparison:
    """A difference between the training runs of two models on fresh seeds."""

    subject: str
    """The student, as a sentence begins with it."""
    other: str
    against: dict[str, Any]
    """The difference with its interval, of summary.json."""
    plural: bool = False
    """Whether the subject is plural."""
    tuning: str = ""
    """Which of the two had fewer trials or keeps values of the other; empty where both had as many, or it does not
    matter."""

    def sentence(self) -> str:
        """Returns the comparison as a sentence of the report."""
        against, tuning = self.against, f"; {self.tuning}" if self.tuning else ""
        interval = f"95 % CI {signed(against['low'])} to {signed(against['high'])}"
        if not against["distinguishable"]:
            numbers = f"difference {signed(against['difference'])}, {interval}"
            return f"{self.subject} and {self.other} do **not differ significantly** ({numbers}){tuning}."
        word, verb = "better" if against["difference"] > 0 else "worse", "are" if self.plural else "is"
        points = f"{abs(against['difference']):.1f} points"
        return f"{self.subject} {verb} **significantly {word}** than {self.other} by {points} ({interval}){tuning}."


def _comparisons(run: Run) -> dict[str, list[_Comparison]]:
    """Returns the comparisons of students by their kind, whose description is the key; kinds without any are left out.

    Students are compared with the controls of their depth and with shallower ones of their method (each the best of its
    own trials), with ablations, and with the teacher.
    """
    tuned, ablated, teacher = [], [], []
    students = {(student["layers"], student["method"]): student for student in run.students}
    for student in run.students:
        subject = f"{plural(student['layers'], 'layer')}: {METHOD_INFO[student['method']].title}"
        for against in student["against"]:
            other = METHOD_INFO[against["method"]].title
            control = students[student["layers"], against["method"]]
            tuning = _kept_text(run, student, control) or tuning_text(student, control)
            tuned.append(_Comparison(subject=subject, other=other, against=against, tuning=tuning))
        ablated += [
            _Comparison(subject=subject, other=ABLATION_TITLES[against["method"]], against=against)
            for against in student.get("ablations", ())
        ]
        if against := student.get("against_teacher"):
            teacher.append(_Comparison(subject=subject, other="the teacher", against=against))
    for student in run.students:
        if against := student.get("against_shallower"):
            subject = f"{METHOD_INFO[student['method']].title}: {plural(student['layers'], 'layer')}"
            fewer = tuning_text(student, students[against["layers"], student["method"]], depths=True)
            other = plural(against["layers"], "layer")
            tuned.append(_Comparison(subject=subject, other=other, against=against, plural=True, tuning=fewer))
    unlabeled = "unlabeled" in run.record
    tuned_texts = " Fine-tuning uses no texts without labels." if unlabeled else ""
    ablated_texts = " Without distillation it uses no texts without labels." if unlabeled else ""
    kinds = {
        f"*Tuned against tuned*: each is the best of its own trials.{tuned_texts}": tuned,
        "*Ablation*: a student and the same hyperparameters without a term of the loss, not tuned again, on the same "
        f"seeds.{ablated_texts}": ablated,
        "*Against the teacher*:": teacher,
    }
    return {kind: found for kind, found in kinds.items() if found}


def _kept_text(run: Run, student: dict[str, Any], control: dict[str, Any]) -> str:
    """Returns which settings a student has of its control's trials; empty without any."""
    before, names = run.kept.get(student["method"], ("", []))
    if before != control["method"]:
        return ""
    titles = [METHOD_INFO[each["method"]].title for each in (student, control)]
    if any(student["settings"][name] != control["settings"].get(name) for name in names):
        return (  # the control had another winner by then, and has more trials now
            f"{titles[0]}, the best of {student['trials_ended']}, keeps {listed(names)} of what was {titles[1]}'s best "
            f"by then, and {titles[1]} is the best of {control['trials_ended']}"
        )
    return (
        f"{titles[0]}, the best of {student['trials_ended']}, keeps {listed(names)} of the best of {titles[1]}'s "
        f"{control['trials_ended']}"
    )


def _differences(run: Run) -> list[Element]:
    """Returns the section about significant differences; no elements without any comparison."""
    if not (comparisons := _comparisons(run)):
        return []
    elements: list[Element] = [Heading("Significant differences")]
    for kind, those in comparisons.items():
        elements += [Text(kind), Bullets([each.sentence() for each in those])]
    note = (
        "Training runs on fresh seeds are compared. Confidence intervals (CI) cover the choice of dev examples (paired "
        "bootstrap) and of seeds (Student's t, with the variance pooled over students; for ablations that of the "
        "differences between training runs on the same seed). Those of the teacher hold for all students together "
        "(Bonferroni)."
    )
    if any(each.tuning for those in comparisons.values() for each in those):
        note += " Intervals do not account for tuning: part of a difference may be due to a larger number of trials."
    return [*elements, Text(note)]


def differences_table(run: Run) -> Table:
    """Returns all comparisons as a table, for LaTeX."""
    rows: list[list[object]] = []
    groups = []
    for kind, those in _comparisons(run).items():
        groups.append(len(rows))
        for each in those:
            against = each.against
            interval = f"{signed(against['low'])} to {signed(against['high'])}"
            names = [kind.split("*")[1], each.subject, each.other]
            rows.append([*names, signed(against["difference"]), interval, each.tuning])
    header = ["kind", "student", "compared with", "difference", "95 % CI", "trials"]
    return Table(header, rows, left=(0, 1, 2, 5), groups=tuple(groups[1:]))


def _formats(student: dict[str, Any], latency_on: str) -> list[Element]:
    """Returns the table of a student's formats beside its teacher."""
    titles = {"teacher": "teacher, PyTorch", "pytorch": "PyTorch, fp32", "onnx": "ONNX, fp32", "int8": "ONNX, int8"}
    measured = {each["format"]: each for each in student["formats"]}
    rows = [
        [
            title,
            f"{each['metrics']['score']:.1f}",
            f"{each['latency_ms']:.1f} ms",
            f"{measured['teacher']['latency_ms'] / each['latency_ms']:.1f}×",
            f"{each['examples_per_second']:.0f} /s",
            f"{each['examples_per_second'] / measured['teacher']['examples_per_second']:.1f}×",
            f"{each['size_mb']:.1f} MB",
        ]
        for name, title in titles.items()
        if (each := measured.get(name))
    ]
    header = ["format", "score on dev", "latency", "speed-up", "throughput", "speed-up", "size on disk"]
    note = (
        f"Latency is the median time of a forward pass for a single dev example, throughput the examples per second in "
        f"batches of 32, both without tokenization on {literal(latency_on)}."
    )
    return [Heading(f"Formats of {student_title(student)}"), Table(header, rows), Text(note)]


def _confirmations(run: Run) -> Table:
    confirmed = [student for student in run.students if student["confirmed"]]
    titles = metric_titles({**confirmed[0]["confirmed"]["metrics"], "score": None}, run.score)
    rows = []
    for student in confirmed:
        named = [(student_title(student), student["confirmed"])]
        named += [
            (f"{student_title(student)}: {ABLATION_TITLES[each['method']]}", each)
            for each in student.get("ablations", ())
        ]
        for title, record in named:
            spreads = {**record["metrics"], "score": {"mean": record["mean"], "sd": record["sd"]}}
            rows.append(
                [
                    title,
                    len(record["scores"]),
                    *(spread_text(spreads[name]["mean"], spreads[name]["sd"]) for name in titles),
                    ", ".join(f"{score:.1f}" for score in record["scores"]),
                ]
            )
    depths = [student["layers"] for student in confirmed for _ in (0, *student.get("ablations", ()))]
    groups = tuple(i for i in range(1, len(depths)) if depths[i] != depths[i - 1])
    return Table(["mean ± sd", "n", *titles.values(), "score of each seed"], rows, groups=groups)


def _notes(run: Run, teacher: dict[str, Any]) -> Iterator[str]:
    """Yields explanations of the columns."""
    names = listed(list(metric_titles(teacher["metrics"], run.score).values()))
    where = "a slice held out of train" if run.holdout else "the dev split"
    yield (
        f"*Selection score*: the best evaluation of the best trial on {where}. It selected both the hyperparameters "
        f"and the epoch, so it is optimistic{'; dev played no part in the choice' if run.holdout else ''}."
    )
    if any(student["confirmed"] for student in run.students):
        yield (
            "*Confirmed score*: mean ± standard deviation on dev of n new training runs with the same hyperparameters "
            f"on fresh seeds, {_CONFIRMED[run.holdout]}"
        )
    elif run.search["seeds"] == 0:
        yield "No student was confirmed on fresh seeds, so the variance of the scores over seeds is unknown."
    yield (
        f"*{names[0].upper()}{names[1:]}*: dev score, × 100, of the exported checkpoint, loaded with plain "
        "`transformers` in fp32. It may differ slightly from the score of the trial, which computes in bf16 where the "
        "hardware supports it."
    )
    yield f"*Latency*: median time of a forward pass for a single dev example in fp32 on {literal(run.latency_on)}."
    temperature = "" if is_regression(teacher["metrics"]) else ", T is the temperature"
    patience = (
        "; skip and last are the strategies for choosing teacher layers; normalized means that [CLS] states are scaled "
        "to length 1 before they are compared"
    )
    if not any(student["method"].startswith("pkd") and student["layers"] > 1 for student in run.students):
        patience = ""
    yield (
        f"*Hyperparameters*: α and β are the weights in L = (1 − α)·CE + α·KD + β·PT{temperature}, lr is the peak "
        f"learning rate{patience}."
    )
