"""The dev predictions of a run's teacher and exported students, and what the report says of student and teacher.

dev-predictions.csv has a row per example: `split`, `example_id` (its row number), `label`, `teacher` and a column for
each student, named after its folder: class names, or numbers in a regression. `text_1` and `text_2` hold the texts of
the examples that a report may list, and are empty for all others.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from pkd_tune.config import UserError
from pkd_tune.files import DEV_PREDICTIONS
from pkd_tune.reporting.document import Element, Heading, Table, Text, code, literal
from pkd_tune.reporting.figures import Figure, Panel, Series
from pkd_tune.reporting.formatting import number_text, plural
from pkd_tune.reporting.methods import METHOD_INFO, SeriesStyle, student_title
from pkd_tune.reporting.run import Run

TEACHER = "teacher"
COLUMNS = ("split", "example_id", "label", TEACHER)
TEXTS = ("text_1", "text_2")
LISTED = 5
"""Examples of each kind of disagreement that a report lists; of a regression, twice as many in all."""
TEXT_LENGTH = 300
"""Characters of a text that are kept."""
MOST_CLASSES = 12
"""Classes up to which there is a confusion matrix; of more, the most frequent confusions are listed."""
CONFUSIONS = 10
MOST_POINTS = 500
"""Examples up to which a plot has a point for each; of more, evenly spaced ones are drawn."""

KINDS = ("only the teacher is right", "only the student is right", "both are wrong, and differ")
"""How student and teacher may disagree."""


def read_predictions(path: Path, students: Sequence[str], *, regression: bool) -> pd.DataFrame | None:
    """Returns the content of dev-predictions.csv; None where there is none, as in runs that began before it was kept.

    Args:
        path: The file.
        students: Folders of the students in the run.
        regression: Whether labels and predictions are numbers, and not names of classes.

    Raises:
        UserError: When the file is not such a table, or lacks a student.
    """
    if not path.is_file():
        return None
    remedy = "remove it, or run the search's command again, which writes it"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if missing := [name for name in (*COLUMNS, *students, TEXTS[0]) if name not in table]:
            raise UserError(f"{path} is damaged (no column {missing[0]}); {remedy}")
        if regression:
            numbers = ["label", TEACHER, *students]
            table[numbers] = table[numbers].astype(float)
    except (ValueError, pd.errors.ParserError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} is damaged ({error}); {remedy}") from error
    return table


def disagreements(table: pd.DataFrame, student: str) -> list[tuple[str, pd.DataFrame]]:
    """Returns the examples to list on which a student and the teacher differ: the first of each kind.

    In a regression these are the examples on which they differ most, under one kind, without a name.

    Args:
        table: Of `read_predictions`.
        student: Name of the student's column.
    """
    ours, theirs, label = table[student], table[TEACHER], table["label"]
    if pd.api.types.is_numeric_dtype(label):
        order = (ours - theirs).abs().sort_values(ascending=False, kind="stable").index
        return [("", table.loc[order[: 2 * LISTED]])]
    differ = ours != theirs
    rows = (differ & (theirs == label), differ & (ours == label), differ & (theirs != label) & (ours != label))
    return [(kind, table[those].head(LISTED)) for kind, those in zip(KINDS, rows, strict=True) if those.any()]


def student_and_teacher(run: Run) -> list[Element]:
    """Returns what the report says of the predictions of the student to ship and the teacher on dev."""
    if run.verdict is None:
        return []
    student = run.verdict.student
    classes: list[str] = run.search["data"]["task"]["labels"]
    folders = [each["folder"] for each in run.students]
    table = read_predictions(run.folder / DEV_PREDICTIONS, folders, regression=not classes)
    if table is None:
        return []
    name = student["folder"]
    title = student_title(student)
    elements: list[Element] = [Heading(f"{title}, and the teacher on dev")]
    if classes:
        elements += [_agreement(table, name, classes), *_confusion(table, name, title, classes)]
    listed = disagreements(table, name)
    if not any(len(rows) for _, rows in listed):
        return [*elements, Text("Student and teacher predict the same for every example.")]
    which = (
        f"The first {LISTED} of each kind of example on which the exported student and the teacher differ."
        if classes
        else f"The {plural(2 * LISTED, 'example')} on which the exported student and the teacher differ most."
    )
    return [
        *elements,
        Text(f"{which} {code(DEV_PREDICTIONS)} has the predictions for every example of all exported students."),
        _examples(listed, name, regression=not classes),
    ]


def scatter(run: Run) -> Figure:
    """Returns the predictions of the student to ship and of the teacher over the labels, in a regression."""
    panels = []
    if run.verdict is not None and not run.search["data"]["task"]["labels"]:
        student = run.verdict.student
        table = read_predictions(run.folder / DEV_PREDICTIONS, [student["folder"]], regression=True)
        if table is not None:
            drawn = table.iloc[:: -(-len(table) // MOST_POINTS)]
            looks = [
                (TEACHER, "teacher", SeriesStyle(symbol="square")),
                (student["folder"], "student", METHOD_INFO[student["method"]].look),
            ]
            series = [
                Series(name=name, look=look, x=list(drawn["label"]), y=list(drawn[column]), kind="points", opacity=0.5)
                for column, name, look in looks
            ]
            panels.append(Panel(title=student_title(student), x="label", y="prediction", series=series))
    return Figure(
        name="predictions",
        title="Predictions on dev",
        caption=f"Of the exported student to ship and of the teacher, for at most {MOST_POINTS} examples of dev.",
        panels=panels,
    )


def _agreement(table: pd.DataFrame, student: str, classes: Sequence[str]) -> Table:
    header = ["dev split", "examples", "both right", "only the teacher right", "only the student right"]
    header += ["both wrong, same class", *(["both wrong, differ"] if len(classes) > 2 else []), "agreement"]
    rows: list[list[object]] = []
    for split, part in table.groupby("split", sort=False):
        ours, theirs = part[student] == part["label"], part[TEACHER] == part["label"]
        same = part[student] == part[TEACHER]
        counts = [len(part), (ours & theirs).sum(), (theirs & ~ours).sum(), (ours & ~theirs).sum()]
        counts += [(same & ~ours).sum(), *([(~same & ~ours & ~theirs).sum()] if len(classes) > 2 else [])]
        rows.append([literal(split), *map(int, counts), f"{same.mean():.1%}"])
    return Table(header, rows)


def _confusion(table: pd.DataFrame, student: str, title: str, classes: Sequence[str]) -> list[Element]:
    """Returns a student's confusion matrix over all dev splits, or of many classes the most frequent confusions."""
    splits = list(table["split"].unique())
    over = "" if len(splits) == 1 else f", {' and '.join(map(literal, splits))} together"
    counts = Counter(zip(table["label"], table[student], strict=True))
    if len(classes) > MOST_CLASSES:
        of_label = Counter(table["label"])
        wrong = [(pair, count) for pair, count in counts.most_common() if pair[0] != pair[1]]
        confused = [
            [literal(label), literal(predicted), count, f"{count / of_label[label]:.0%}"]
            for (label, predicted), count in wrong[:CONFUSIONS]
        ]
        text = f"The most frequent confusions of {title}{over}; with {len(classes)} classes there is no matrix."
        header = ["label", "predicted", "examples", "share of the label's"]
        return [Text(text), Table(header, confused, left=(0, 1))] if confused else []
    rows = [[literal(label), *(counts[label, predicted] for predicted in classes)] for label in classes]
    text = f"Confusion matrix of {title}{over}: a row for each label, a column for each predicted class."
    return [Text(text), Table(["label", *(f"predicted {literal(each)}" for each in classes)], rows)]


def _examples(listed: Sequence[tuple[str, pd.DataFrame]], student: str, *, regression: bool) -> Table:
    rows: list[list[object]] = []
    groups: list[int] = []
    texts = [name for name in TEXTS if name in listed[0][1]]

    def shown(value: object) -> str:
        return number_text(value) if isinstance(value, float) else literal(value)

    for kind, examples in listed:
        groups.append(len(rows))
        for example in examples.to_dict("records"):
            rows.append(
                [
                    f"{literal(example['split'])} {literal(example['example_id'])}",
                    *([] if regression else [kind]),
                    *(shown(example[name]) for name in ("label", TEACHER, student)),
                    *(literal(example[name]) for name in texts),
                ]
            )
    header = ["example", *([] if regression else ["who is right"]), "label", "teacher", "student"]
    words = range(len(header), len(header) + len(texts))
    header += ["text", "second text"][: len(texts)]
    left = (0, *words) if regression else tuple(range(len(header)))
    return Table(header, rows, left=left, groups=tuple(groups[1:]))
