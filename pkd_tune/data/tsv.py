"""Reads and validates the TSV files of GLUE.

They have no quoting: fields are separated by tabs, rows end at line feeds, and a quote character is ordinary text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pkd_tune.config import UserError
from pkd_tune.data.task import Task

_MAX_PROBLEMS = 5


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


def read_tsv(task: Task, path: Path, split: str) -> RawSplit:
    """Reads one TSV file: UTF-8 with or without a byte order mark, columns by position, quotes as ordinary text.

    Raises:
        UserError: The file is missing, empty or not UTF-8, its header differs from the task's, or a row has a wrong
            number of columns or an invalid label; one line per problem, with file and line number, for the first 5
            problems.
    """
    raw, problems = _parse(task, path, split)
    if problems:
        raise UserError(*problems)
    return raw


def tsv_problems(task: Task, path: Path, split: str) -> list[str]:
    """Returns the problems for which `read_tsv` would raise UserError; empty for a valid file."""
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
    # An extra tab inside a sentence shifts the last column, so that the label would be read from the sentence.
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
    if len(problems) > _MAX_PROBLEMS:
        problems = [*problems[:_MAX_PROBLEMS], f"{path}: ... and {len(problems) - _MAX_PROBLEMS:,} more"]
    return raw, problems


def _label_reader(task: Task) -> Callable[[str], float | None]:
    """Returns a function from a label's text to its class id or value; it returns None for an invalid label."""
    label_ids = {label: class_id for class_id, label in enumerate(task.raw_labels)}
    if task.value_range is None:
        return label_ids.get
    low, high = task.value_range

    def read_value(text: str) -> float | None:
        try:
            value = float(text)
        except ValueError:
            return None
        # fp32, as in the hub dataset, so that both sources give the same values.
        return float(np.float32(value)) if low <= value <= high else None

    return read_value


def _wanted_labels(task: Task) -> str:
    if task.value_range is None:
        return ", ".join(task.raw_labels)
    low, high = task.value_range
    return f"numbers from {low:g} to {high:g}"


def _lines(path: Path) -> tuple[list[str], str | None]:
    """Returns the lines without their ends, and a problem if the file cannot be read."""
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
    # str.splitlines would also split at characters that occur inside sentences, such as U+0085 and U+2028.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines], None
