"""From the columns of a table to the examples of a task: texts and labels, checked row by row."""

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pkd_tune.config import Task
from pkd_tune.data.tables import MOST_PROBLEMS, Table, first_problems


@dataclass(frozen=True, slots=True)
class RawSplit:
    """The text and labels of one split. An example's id is its row number, counted from 0."""

    sentence1: list[str]
    """First sentence of each example."""
    sentence2: list[str] | None
    """Second sentence of each example, or None for a single-sentence task."""
    labels: Sequence[float] | None
    """Class id of each example, or its fp32 value in a regression task; None in a split without labels."""

    def __len__(self) -> int:
        return len(self.sentence1)


def take_rows(raw: RawSplit, rows: Iterable[int]) -> RawSplit:
    """Returns a split of some rows of another, in the given order."""
    rows = list(rows)
    return RawSplit(
        [raw.sentence1[row] for row in rows],
        None if raw.sentence2 is None else [raw.sentence2[row] for row in rows],
        None if raw.labels is None else [raw.labels[row] for row in rows],
    )


def examples_of(
    task: Task, table: Table, *, labelled: bool, class_texts: Sequence[str] = ()
) -> tuple[RawSplit, list[str]]:
    """Returns the examples of a table, and what is wrong with them: one line each for the first few problems.

    Args:
        task: Names the columns, and has the classes.
        table: One split of it.
        labelled: Whether the split has labels.
        class_texts: Labels as the table has them, in the order of class ids, if these are not the task's `raw_labels`.
    """
    if missing := missing_columns(table, [*task.text, *([task.label] if labelled else [])]):
        return RawSplit([], None, None), missing
    problems: list[str] = []
    texts = [_texts(table, name, problems) for name in task.text]
    empty = [row for row, of_row in enumerate(zip(*texts, strict=True)) if not any(text.strip() for text in of_row)]
    problems += [f"{table.place(row)}: {' and '.join(map(repr, task.text))} {_verb(task)} empty" for row in empty]
    labels: list[float] | None = None
    if labelled and task.regression:
        labels = _values(task, table, problems)
    elif labelled:
        labels = _class_ids(task, table, class_texts or task.raw_labels, problems)
    raw = RawSplit(texts[0], texts[1] if task.pair else None, labels)
    return raw, first_problems(problems, table.source)


def missing_columns(table: Table, needed: Sequence[str]) -> list[str]:
    """Returns one line for each column that a table does not have."""
    return [
        f"{table.source}: no column {name!r}, only {', '.join(map(repr, table.names)) or 'an empty file'}"
        for name in needed
        if name not in table.names
    ]


def class_text(value: Any) -> str | None:
    """Returns a label as the text of its class; None for what is neither a string nor a whole number, or is blank."""
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def label_problems(table: Table, column: str) -> list[str]:
    """Returns the problems of a column as one of classes: missing labels, other types, strings beside numbers."""
    problems = []
    kinds: dict[type, int] = {}
    for row, value in enumerate(table.columns[column]):
        if value is None or (isinstance(value, str) and not value.strip()):
            problems.append(f"{table.place(row)}: {column!r} is empty; every example needs a label")
        elif isinstance(value, str) and not _is_unicode(value):
            problems.append(f"{table.place(row)}: {column!r} is no valid Unicode: half of a character, as of an emoji")
        elif class_text(value) is None:
            problems.append(
                f"{table.place(row)}: {column!r} is {_shown(value)}; classes are strings or whole numbers "
                '(kind = "regression" is for real numbers)'
            )
        else:
            kinds.setdefault(str if isinstance(value, str) else int, row)
    if len(kinds) == 2:
        text, number = kinds[str], kinds[int]
        problems.append(
            f"{table.place(max(text, number))}: {column!r} has strings and numbers, "
            f"{_shown(table.columns[column][text])} and {_shown(table.columns[column][number])}; use one of them"
        )
    return first_problems(problems, table.source)


def _verb(task: Task) -> str:
    return "are" if task.pair else "is"


def _texts(table: Table, name: str, problems: list[str]) -> list[str]:
    """Returns a text column, a missing value as an empty text."""
    values = table.columns[name]
    wrong = next((row for row, value in enumerate(values) if not isinstance(value, str | None)), None)
    if wrong is not None:
        problems.append(f"{table.place(wrong)}: {name!r} is {_shown(values[wrong])}; texts must be strings")
    texts = [value if isinstance(value, str) else "" if value is None else str(value) for value in values]
    problems += [
        f"{table.place(row)}: {name!r} is no valid Unicode: half of a character, as where a text was cut in an emoji"
        for row, text in enumerate(texts)
        if not _is_unicode(text)
    ]
    return texts


def _is_unicode(text: str) -> bool:
    """Returns whether a text can be written as UTF-8: JSON may have halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _class_ids(task: Task, table: Table, texts: Sequence[str], problems: list[str]) -> list[float]:
    """Returns the class id of each row, -1 where the label is not one of the task's."""
    if wrong := label_problems(table, task.label):
        problems += wrong
        return []
    ids = {text: class_id for class_id, text in enumerate(texts)}
    found: list[float] = []
    hint = ""
    for row, value in enumerate(table.columns[task.label]):
        text = class_text(value) or ""
        found.append(ids.get(text, -1))
        if text not in ids:
            if len(problems) < MOST_PROBLEMS:  # which are shown
                near = difflib.get_close_matches(text, texts, n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"there are {_listed(texts)}"
            problems.append(f"{table.place(row)}: {task.label!r} is {_shown(text)}, which is not a class; {hint}")
    return found


def _values(task: Task, table: Table, problems: list[str]) -> list[float]:
    """Returns the label of each row in fp32, NaN where it is no finite number in the task's range."""
    low, high = task.value_range or (-math.inf, math.inf)
    found: list[float] = []
    for row, value in enumerate(table.columns[task.label]):
        try:
            with np.errstate(over="ignore"):  # it becomes infinite, which is said below
                number = math.nan if _only_python_counts(value) else float(np.float32(value))
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        found.append(number)
        if not (math.isfinite(number) and low <= number <= high):
            wanted = "finite number" if math.isinf(low) else f"number from {low:g} to {high:g}"
            problems.append(f"{table.place(row)}: {task.label!r} is {_shown(value)}, but must be a {wanted}")
    return found


def _only_python_counts(value: Any) -> bool:
    """Returns whether a value is a number to Python alone: a truth value, or 1_0, which it reads as 10."""
    return isinstance(value, bool) or (isinstance(value, str) and "_" in value)


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(map(repr, texts[:10])) + (", ..." if len(texts) > 10 else "")


def _shown(value: Any) -> str:
    text = "empty" if value is None or value == "" else repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
