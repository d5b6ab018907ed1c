"""What a search would train on, as text: how the task was understood, its classes, lengths, and what may be wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from pkd_tune.config import Task
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.loading import load_raw, source_notes
from pkd_tune.data.tokens import load_tokenizer, token_lengths
from pkd_tune.data.unlabeled import UNLABELED, read_unlabeled
from pkd_tune.reporting.document import Table, markdown
from pkd_tune.reporting.formatting import METRIC_TITLES, listed
from pkd_tune.workflows.request import SearchRequest

PERCENTILES = (50, 90, 99, 100)
MOST_ROWS = 40
"""Classes that are listed one by one."""


def check(request: SearchRequest) -> str:
    """Returns what was understood of the task's data, as text for a terminal."""
    data = request.config.data
    task, raw = data.task, load_raw(data.task, data.data_dir)
    notes = [*source_notes(task, {} if request.options.demo else raw), *duplicate_notes(raw, task)]
    if data.unlabeled is not None:
        raw[UNLABELED] = read_unlabeled(task, data.unlabeled)
        notes += unlabeled_notes(raw)
    lengths = {
        name: token_lengths(split, load_tokenizer(data.teacher_dir, data.max_length)) for name, split in raw.items()
    }
    return "\n".join(
        [
            *understood(task),
            "",
            _table(["split", "examples"], [[name, f"{len(split):,}"] for name, split in raw.items()]),
            "",
            label_table(task, raw),
            "",
            length_table(lengths, data.max_length),
            *(["", *notes] if notes else []),
        ]
    )


def understood(task: Task) -> list[str]:
    """Returns how the description of a task was understood."""
    names = [METRIC_TITLES[name] for name in task.metrics]
    of_score = names[0] if len(task.scored) == 1 else f"the mean of {listed(names)}"
    kind = "a number" if task.regression else f"one of {len(task.labels)} classes"
    return [
        f"{task.title}: {kind} (column {task.label}) from {' and '.join(task.text)}",
        f"metrics: {', '.join(names)}; the score is {of_score}",
    ]


def label_table(task: Task, raw: Mapping[str, RawSplit]) -> str:
    """Returns a table of the labels of each split: examples per class, the most frequent first, or percentiles."""
    labelled = {name: np.asarray(split.labels) for name, split in raw.items() if split.labels is not None}
    if task.regression:
        rows = [
            [name, *(f"{value:g}" for value in np.percentile(labels, (0, 25, 50, 75, 100)))]
            for name, labels in labelled.items()
        ]
        return _table(["labels", "lowest", "25 %", "median", "75 %", "highest"], rows)
    counts = {name: Counter(labels.tolist()) for name, labels in labelled.items()}
    order = sorted(range(len(task.labels)), key=lambda label: (-counts["train"][label], label))
    rows = [[task.labels[label], *(f"{count[label]:,}" for count in counts.values())] for label in order[:MOST_ROWS]]
    if rest := order[MOST_ROWS:]:
        sums = [f"{sum(count[label] for label in rest):,}" for count in counts.values()]
        rows.append([f"{len(rest)} rarer", *sums])
    return _table(["class", *counts], rows)


def length_table(lengths: Mapping[str, np.ndarray], max_length: int) -> str:
    """Returns a table of the lengths of the examples in tokens, and how many are truncated."""
    rows = [
        [
            name,
            *(f"{value:.0f}" for value in np.percentile(lengths_N, PERCENTILES)),
            f"{np.mean(lengths_N > max_length):.1%}",
        ]
        for name, lengths_N in lengths.items()
    ]
    header = ["tokens", *(f"{p} %" if p < 100 else "longest" for p in PERCENTILES), f"truncated at {max_length}"]
    return _table(header, rows)


def duplicate_notes(raw: Mapping[str, RawSplit], task: Task) -> list[str]:
    """Returns a line for each dev or test split with examples that train has too, and for classes train lacks."""
    texts = {
        name: list(zip(split.sentence1, split.sentence2 or split.sentence1, strict=True)) for name, split in raw.items()
    }
    known = set(texts["train"])
    notes = []
    if repeated := len(texts["train"]) - len(known):
        notes.append(f"{repeated:,} examples of train repeat the texts of another")
    for name in (name for name in texts if name != "train"):
        if shared := sum(text in known for text in texts[name]):
            notes.append(
                f"{shared:,} of {len(texts[name]):,} examples of {name} are in train too: its scores are too high"
            )
    absent = (
        [] if task.regression else [task.labels[i] for i in set(range(task.outputs)) - set(raw["train"].labels or ())]
    )
    if absent:
        notes.append(f"no example of train has the class {listed(sorted(absent), 'or')}")
    return notes


def unlabeled_notes(raw: Mapping[str, RawSplit]) -> list[str]:
    """Returns a line for each split that has texts in common with those without labels, and for repeated ones."""
    texts = {
        name: list(zip(split.sentence1, split.sentence2 or split.sentence1, strict=True)) for name, split in raw.items()
    }
    mine = texts.pop(UNLABELED)
    notes = []
    if repeated := len(mine) - len(set(mine)):
        notes.append(f"{repeated:,} texts of {UNLABELED} repeat another")
    for name, theirs in texts.items():
        if shared := len(set(mine) & set(theirs)):
            notes.append(
                f"{shared:,} texts of {UNLABELED} are in {name} too"
                + ("" if name == "train" else ": students are trained on texts that they are scored on")
            )
    return notes


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
