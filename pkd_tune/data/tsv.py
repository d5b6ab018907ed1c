"""Reads and validates the TSV files of GLUE.

They have no quoting: fields are separated by tabs, rows end at line feeds, and a quote character is ordinary text.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pkd_tune.config import Task, TaskSplit, UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.tables import first_problems, read_utf8

logger = logging.getLogger(__name__)


def parse_tsv(task: Task, path: Path, split: TaskSplit) -> tuple[RawSplit, list[str]]:
    """Reads one TSV file: UTF-8 with or without a byte order mark, columns by position, quotes as ordinary text.

    Returns:
        Its examples, and what is wrong with it: the file is missing, empty or not UTF-8, its header differs from the
        task's, or a row has a wrong number of columns or an invalid label; one line per problem, with file and line
        number, for the first few problems.
    """
    layout = split.layout
    assert layout is not None
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
        return raw, [f"{path} is empty: it has no examples; put {task.name}'s {split.name} split there"]

    read_label = _label_reader(task)
    # An extra tab inside a sentence shifts the last column, so that the label would be read from the sentence.
    exact = layout.header is not None and layout.label == len(layout.header) - 1
    needed = 1 + max(column for column in (layout.sentence1, layout.sentence2, layout.label) if column is not None)
    problems: list[str] = []
    short = 0
    for number, line in enumerate(lines, start=first_line):
        cells = line.split("\t")
        if layout.skips_short and len(cells) < needed:
            short += 1
            continue
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
                    f"{path}:{number}: label {cells[layout.label][:40]!r} is not one of {task.name}'s: {wanted}"
                )
            else:
                labels.append(label)
    if short:
        logger.info("note: %s: %d rows with too few columns are left out", path, short)
    return raw, first_problems(problems, path)


def _label_reader(task: Task) -> Callable[[str], float | None]:
    """Returns a function from a label's text to its class id or value; it returns None for an invalid label."""
    label_ids = {label: class_id for class_id, label in enumerate(task.raw_labels)}
    if task.value_range is None:
        return label_ids.get
    low, high = task.value_range

    def read_value(text: str) -> float | None:
        try:
            value = math.nan if "_" in text else float(text)  # Python reads 1_0 as 10
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
    if not path.exists():
        return [], f"{path} is missing; put the split there, or remove its folder to take the task from the hub"
    try:
        text = read_utf8(path)
    except UserError as error:
        return [], str(error)
    # str.splitlines would also split at characters that occur inside sentences, such as U+0085 and U+2028.
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines], None
