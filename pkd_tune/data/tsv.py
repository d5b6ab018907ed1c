"""Reads GLUE's TSV files, and says what is wrong with them.

GLUE's files are not CSV: fields end at tabs and rows at line feeds, and a quote character is a letter like any other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pkd_tune.config import UserError
from pkd_tune.data.task import Task

_MOST_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class RawSplit:
    """The text of one split. An example's id is its row number, counted from 0."""

    sentence1: list[str]
    """First sentence of each example."""
    sentence2: list[str] | None
    """Second sentence of each example, or None for a task of single sentences."""
    labels: Sequence[float] | None
    """Class id of each example, or its label in a regression task, as fp32 holds it; None in a split without labels."""

    def __len__(self) -> int:
        return len(self.sentence1)


def read_tsv(task: Task, path: Path, split: str) -> RawSplit:
    """Reads one TSV file: UTF-8 with or without a byte order mark, columns by position, quotes left alone.

    Raises:
        UserError: The file is missing, empty or not UTF-8, its header is not the task's, or a row has too few columns,
            too many before its label, or no label of the task's; one line per problem, with file and line number, the
            first 5 of them.
    """
    raw, problems = _parse(task, path, split)
    if problems:
        raise UserError(*problems)
    return raw


def tsv_problems(task: Task, path: Path, split: str) -> list[str]:
    """All that `read_tsv` would complain about, one line each; empty when the file is fine."""
    return _parse(task, path, split)[1]


def _parse(task: Task, path: Path, split: str) -> tuple[RawSplit, list[str]]:
    layout = task.layout(split)
    labels: list[float] | None = None if layout.label is None else []
    raw = RawSplit([], None if layout.sentence2 is None else [], labels)
    lines, problem = _lines(path)
    if problem is not None:
        return raw, [problem]
    first_line = 1
    if layout.header is not None and lines:
        if tuple(lines[0].split("\t")) != layout.header:
            expected = " | ".join(layout.header)
            found = lines[0].replace("\t", " | ")
            return raw, [f"{path}:1: the header must be {expected!r} (tabs shown as |), but is {found[:200]!r}"]
        lines, first_line = lines[1:], 2
    if not lines:
        return raw, [f"{path} is empty: it has no examples; put {task.name}'s {split} split there"]

    read_label = _label_reader(task)
    # With the label in the last column, a tab too many inside a sentence would put a piece of text in its place.
    exact = layout.header is not None and layout.label == len(layout.header) - 1
    needed = 1 + max(column for column in (layout.sentence1, layout.sentence2, layout.label) if column is not None)
    problems: list[str] = []
    for number, line in enumerate(lines, start=first_line):
        cells = line.split("\t")
        if len(cells) < needed or (exact and len(cells) > needed):
            wanted = needed if exact else f"at least {needed}"
            problems.append(f"{path}:{number}: {len(cells)} columns, but {task.name} needs {wanted}")
            continue
        raw.sentence1.append(cells[layout.sentence1])
        if raw.sentence2 is not None and layout.sentence2 is not None:
            raw.sentence2.append(cells[layout.sentence2])
        if labels is not None and layout.label is not None:
            label = read_label(cells[layout.label])
            if label is None:
                wanted = _wanted_labels(task)
                problems.append(
                    f"{path}:{number}: label {cells[layout.label][:40]!r} is none of {task.name}'s: {wanted}"
                )
            else:
                labels.append(label)
    if len(problems) > _MOST_PROBLEMS:
        problems = [*problems[:_MOST_PROBLEMS], f"{path}: ... and {len(problems) - _MOST_PROBLEMS:,} more"]
    return raw, problems


def _label_reader(task: Task) -> Callable[[str], float | None]:
    """How a label's text becomes a class id or a value; None where it is no label of the task's."""
    label_ids = {label: class_id for class_id, label in enumerate(task.raw_labels)}
    if task.value_range is None:
        return label_ids.get
    low, high = task.value_range

    def read_value(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        # As precise as the hub has it, so that both sources give the same.
        return float(np.float32(value)) if low <= value <= high else None

    return read_value


def _wanted_labels(task: Task) -> str:
    if task.value_range is None:
        return ", ".join(task.raw_labels)
    low, high = task.value_range
    return f"numbers from {low:g} to {high:g}"


def _lines(path: Path) -> tuple[list[str], str | None]:
    """The file's lines without their ends, or what keeps it from being read."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], f"{path} is missing; put the split there, or remove its folder to take the task from the hub"
    except OSError as error:
        return [], f"{path} cannot be read: {error.strerror}"
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        return [], f"{path}:{line}: not UTF-8; save the file as UTF-8"
    # Not str.splitlines: it also splits at characters that occur inside sentences, such as U+0085 and U+2028.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines], None
