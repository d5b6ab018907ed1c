"""Loads the examples of a task, as text or as tokens, and selects the splits of a search.

Examples come from the files that the task's description names, for GLUE those in <data_dir>/data_raw/<TASK>/, or else
from the hub. Tokenised splits are cached in <data_dir>/data_feat/<TASK>/<key>/.
"""

import hashlib
import importlib.metadata
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from pkd_tune.config import SelectOn, Task, TaskSplit, UserError
from pkd_tune.data.examples import RawSplit, examples_of, take_rows
from pkd_tune.data.hub import has_dataset, open_task_dataset, read_dataset
from pkd_tune.data.tables import read_table
from pkd_tune.data.tokens import (
    DamagedFileError,
    Split,
    file_hash,
    load_tokenizer,
    open_split,
    take,
    tokenise,
    tokenizer_key,
    write_split,
)
from pkd_tune.data.tsv import parse_tsv
from pkd_tune.files import LOCK_MODE

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

HOLDOUT_FRACTION = 0.1
"""Share of the train split that is held out in place of each dev split."""

FORMAT = "4"
"""Of the tokenised files; increment to invalidate the cache."""


def check_source(task: Task, data_dir: Path, *, needed: Sequence[str] = ()) -> list[str]:
    """Returns the problems for which loading the task's examples would fail, one line each; empty if there are none.

    Files are read, and the first few problems of each are returned. A benchmark's dataset on the hub is only looked
    for; any other was read to find its classes, and is checked like files.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.
        needed: Test splits that must exist; train and dev splits always must.
    """
    folder = _folder(task, data_dir)
    if folder is None and not _is_on_hub(task):
        return [_no_data(task, data_dir)]
    if folder is None and task.benchmark:
        return []
    try:
        raw, problems = _read(task, data_dir, needed)
    except UserError as error:
        return list(error.problems)
    return problems or _class_problems(task, raw)


def load_raw(task: Task, data_dir: Path) -> dict[str, RawSplit]:
    """Reads the splits of a task from its files if there are any, otherwise from the hub.

    Test splits whose files are missing from the folder are omitted. Both sources give the same examples and labels in
    the same order. A dev split that the task does not have is held out of train.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.

    Raises:
        UserError: A file is missing or malformed, or the hub dataset is unavailable or does not fit the task.
    """
    raw, problems = _read(task, data_dir)
    if problems:
        raise UserError(*problems)
    return raw


def source_notes(task: Task, raw: dict[str, RawSplit]) -> list[str]:
    """Returns what is worth saying of splits, one line each, without being an error.

    The number of rows is not that of the official split, or dev is held out of train.
    """
    notes = [
        f"{task.name} {split} has {len(raw[split]):,} rows; the official split has {official:,}"
        for split, official in task.row_counts.items()
        if split in raw and len(raw[split]) != official
    ]
    notes += [
        f"{task.name} has no dev split: {len(raw[split.name]):,} examples of train, a tenth, are held out for it"
        for split in task.splits
        if split.held_out and split.name in raw
    ]
    return notes


def selection_splits(task: Task, splits: dict[str, Split], select_on: SelectOn) -> dict[str, Split]:
    """Returns the train split and, under the names of the dev splits, those that select epochs, trials and teachers.

    Args:
        task: The task.
        splits: From `load_features()`.
        select_on: `dev` selects on the official dev splits, as the paper does. `holdout` selects, in place of each dev
            split, on `HOLDOUT_FRACTION` of the train split, stratified by class; the rest of it is for training, and
            the official dev splits choose nothing.
    """
    if select_on == "dev":
        return {name: splits[name] for name in ("train", *task.dev_splits)}
    train = splits["train"]
    assert train.labels is not None
    rest, held = hold_out(task, train.labels, task.dev_splits)
    return {
        "train": take(train, "train", rest),
        **{name: take(train, name, rows) for name, rows in held.items()},
    }


def hold_out(
    task: Task, labels_N: npt.NDArray[np.generic], names: Sequence[str]
) -> tuple[npt.NDArray[np.int64], dict[str, npt.NDArray[np.int64]]]:
    """Divides the train split: what is held out of it in place of other splits, and what remains.

    Of each class its share is held out, rounded, but at least one example, and never the last one of train.

    Args:
        task: Whether there are classes.
        labels_N: The label of each example.
        names: The splits to hold out, each `HOLDOUT_FRACTION` of the whole.

    Returns:
        Row numbers that remain, and those held out for each name, in ascending order.

    Raises:
        UserError: There are too few examples, or of only one class more than one.
    """
    rng = np.random.default_rng(0)
    rest, held = np.arange(len(labels_N)), {}
    classes_N = np.zeros_like(rest) if task.regression else np.unique(labels_N, return_inverse=True)[1]
    wanted_K = np.maximum(1, np.round(HOLDOUT_FRACTION * np.bincount(classes_N))).astype(int)
    for name in names:
        if not task.regression:
            classes_K, counts_K = np.unique(labels_N[rest], return_counts=True)
            if sum(counts_K > 1) < 2:
                found = ", ".join(
                    f"{task.labels[int(label)]!r} {count}" for label, count in zip(classes_K, counts_K, strict=True)
                )
                raise UserError(
                    f"{task.name}: no {name} split can be held out of train, which needs two classes with at least two "
                    f"examples each (examples by class: {found}); give a dev split, or more examples"
                )
        if len(rest) < 4:
            raise UserError(f"{task.name}: no {name} split can be held out of {len(rest)} examples; give a dev split")
        of_classes = [rest[classes_N[rest] == k] for k in range(len(wanted_K))]
        rows = [
            rng.permutation(of_class)[: min(k, len(of_class) - 1)]
            for of_class, k in zip(of_classes, wanted_K, strict=True)
        ]
        held[name] = np.sort(np.concatenate(rows))
        rest = np.setdiff1d(rest, held[name])
    return rest, held


def load_features(
    task: Task,
    data_dir: Path,
    model_dir: Path,
    max_length: int,
    *,
    verify: bool = True,
) -> dict[str, Split]:
    """Returns the tokenised splits of a task by name, memory-mapped from cached files.

    The cache depends on the source's content, the tokenizer's files, `max_length` and the version of transformers.
    Missing files are built, by one of several processes while the others wait; damaged ones are rebuilt with a warning.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.
        model_dir: A local model folder, of which only the tokenizer is read.
        max_length: Maximum length of an example in tokens, including special tokens; longer ones are truncated, the
            longer sentence first.
        verify: Whether cached files are checked against their hashes. Processes of trials skip this, as the driver of
            the search has done it.

    Raises:
        UserError: The data or the tokenizer cannot be read, or --data-dir is not writable.
    """
    folder = _folder(task, data_dir)
    dataset = _open_hub(task, data_dir) if folder is None else None
    source = _files_key(task, folder) if folder is not None else _hub_key(task, dataset)
    parts = [FORMAT, importlib.metadata.version("transformers"), source, tokenizer_key(model_dir), str(max_length)]
    parts += [task.name, task.kind, task.label, *task.text, *task.raw_labels]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    names = [split.name for split in _used_splits(task, data_dir)]
    folder = data_dir / "data_feat" / task.name / key
    return cached_splits(folder, names, lambda: load_raw(task, data_dir), model_dir, max_length, verify=verify)


def cached_splits(
    folder: Path,
    names: Sequence[str],
    read: Callable[[], Mapping[str, RawSplit]],
    model_dir: Path,
    max_length: int,
    *,
    verify: bool,
) -> dict[str, Split]:
    """Returns tokenised splits by name, memory-mapped from the files of a folder; missing files are built.

    Args:
        folder: Its name depends on everything that the tokens depend on.
        names: Of the splits.
        read: Called only when splits must be tokenised; returns their texts.
        model_dir: As `load_features()` takes it.
        max_length: As `load_features()` takes it.
        verify: As `load_features()` takes it.

    Raises:
        UserError: --data-dir is not writable, or the tokenizer cannot be read.
    """
    paths = {name: folder / f"{name}.arrow" for name in names}
    try:
        return {split: open_split(path, verify=verify) for split, path in paths.items()}
    except (FileNotFoundError, DamagedFileError):
        pass  # built below, under the lock
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.lock").touch()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); --data-dir must be writable") from error
    with FileLock(folder / "build.lock", mode=LOCK_MODE):
        to_build = [split for split, path in paths.items() if not _intact(path)]
        if to_build:
            raw = read()
            fast_tokenizer = load_tokenizer(model_dir, max_length)
            for split in to_build:
                write_split(paths[split], tokenise(raw[split], fast_tokenizer, max_length))
    return {split: open_split(path) for split, path in paths.items()}


def _intact(path: Path) -> bool:
    """Returns whether a file exists and is undamaged; logs a warning if it is damaged."""
    try:
        open_split(path)
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        logger.warning("%s; tokenising the split again", error)
        return False
    return True


def _folder(task: Task, data_dir: Path) -> Path | None:
    """Returns the folder of the task's files; None if its examples come from the hub."""
    if task.folder is not None:
        return task.folder
    given = data_dir / "data_raw" / task.name
    return given if task.hub is None or (task.splits[0].file and given.is_dir()) else None


def _used_splits(task: Task, data_dir: Path, needed: Sequence[str] = ()) -> list[TaskSplit]:
    """Returns the splits that are read: test splits, which only predictions need, may lack their files."""
    folder = _folder(task, data_dir)
    return [
        split
        for split in task.splits
        if folder is None or split.part != "test" or split.name in needed or (folder / split.file).exists()
    ]


def _read(task: Task, data_dir: Path, needed: Sequence[str] = ()) -> tuple[dict[str, RawSplit], list[str]]:
    """Returns all splits, and what is wrong with their rows.

    Raises:
        UserError: The dataset on the hub is unavailable or does not fit the task, or nothing can be held out of train.
    """
    folder = _folder(task, data_dir)
    if folder is None:
        raw, problems = read_dataset(task, _open_hub(task, data_dir))
    else:
        raw, problems = {}, []
        for split in (split for split in _used_splits(task, data_dir, needed) if split.file):
            raw[split.name], wrong = _read_file(task, folder / split.file, split)
            problems += wrong
    held = [split.name for split in task.splits if split.held_out]
    if held and not problems:
        train = raw["train"]
        rest, rows = hold_out(task, np.asarray(train.labels), held)
        raw |= {"train": take_rows(train, rest), **{name: take_rows(train, rows[name]) for name in held}}
    return raw, problems


def _read_file(task: Task, path: Path, split: TaskSplit) -> tuple[RawSplit, list[str]]:
    if split.layout is not None:
        return parse_tsv(task, path, split)
    try:
        table = read_table(path, [*task.text, *([task.label] if split.labelled else [])])
    except UserError as error:
        return RawSplit([], None, None), list(error.problems)
    return examples_of(task, table, labelled=split.labelled)


def _class_problems(task: Task, raw: dict[str, RawSplit]) -> list[str]:
    """Returns one line for each split in which all labels are the same: nothing can be learnt from it, or scored."""
    found = []
    for split in (split for split in task.splits if split.part != "test"):
        labels = raw[split.name].labels
        if labels is not None and len(set(labels)) == 1:
            label = f"{labels[0]:g}" if task.regression else repr(task.labels[int(labels[0])])
            found.append(f"{task.name} {split.name}: every example has the label {label}; there must be at least two")
    return found


def _files_key(task: Task, folder: Path) -> str:
    """Returns which file each split is read from, by content; a split that is held out of train has none."""
    files = [split for split in task.splits if split.file and (split.part != "test" or (folder / split.file).exists())]
    if missing := [folder / split.file for split in files if not (folder / split.file).is_file()]:
        raise UserError(*(f"{path} is missing" for path in missing))
    names = [f"{split.name} {file_hash(folder / split.file)}" for split in files]
    return "\n".join([*names, *(split.name for split in task.splits if split.held_out)])


def _no_data(task: Task, data_dir: Path) -> str:
    assert task.hub is not None
    if not task.benchmark:
        return f"{task.name}: {task.hub.repository} is not on this machine, and the Hugging Face hub is out of reach"
    *others, last = [split.file for split in task.splits]
    files = f"{', '.join(others)} and {last}" if others else last
    return (
        f"{task.name}: {data_dir / 'data_raw' / task.name} does not exist and the Hugging Face hub is out of reach; "
        f"put {files} there, choose another --data-dir, or try --demo"
    )


def _open_hub(task: Task, data_dir: Path) -> "datasets.DatasetDict":
    """Returns the hub dataset.

    Raises:
        UserError: It is neither reachable nor in the local cache, or does not fit the task.
    """
    if not _is_on_hub(task):
        raise UserError(_no_data(task, data_dir))
    return open_task_dataset(task)


def _is_on_hub(task: Task) -> bool:
    return task.hub is not None and has_dataset(task.hub)


def _hub_key(task: Task, dataset: "datasets.DatasetDict") -> str:
    """Returns the fingerprints by which the `datasets` library identifies the content of the splits."""
    names = [f"{split.name} {dataset[split.hub]._fingerprint}" for split in task.splits if split.hub]
    return "\n".join([*names, *(split.name for split in task.splits if split.held_out)])
