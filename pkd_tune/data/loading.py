"""Loads the examples of a task, as text or as tokens, and selects the splits of a search.

Examples come from TSV files in <data_dir>/data_raw/<TASK>/ or else from the hub. Tokenised splits are cached in
<data_dir>/data_feat/<TASK>/<key>/.
"""

import hashlib
import importlib.metadata
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock

from pkd_tune.config import SelectOn, UserError
from pkd_tune.data.hub import dataset_cached, hub_reachable, open_dataset, read_dataset
from pkd_tune.data.task import Task, TaskSplit
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
from pkd_tune.data.tsv import RawSplit, read_tsv, tsv_problems
from pkd_tune.files import LOCK_MODE

if TYPE_CHECKING:
    import datasets

logger = logging.getLogger(__name__)

HOLDOUT_SHARE = 0.1
"""Share of the train split that is held out in place of each dev split."""

_FORMAT = "3"  # of the tokenised files; increment to invalidate the cache


def check_source(
    task: Task, data_dir: Path, hub_repository: str = "nyu-mll/glue", *, needed: Sequence[str] = ()
) -> list[str]:
    """Returns the problems for which loading the task's examples would fail, one line each; empty if there are none.

    If there is a TSV folder its files are read, and at most 5 problems of each are returned; otherwise this only checks
    whether the hub or its local cache has the data.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.
        hub_repository: A dataset on the hub, or a local folder with the same layout.
        needed: Test splits that must exist; train and dev splits always must.
    """
    folder = _tsv_folder(task, data_dir)
    if folder.is_dir():
        return [
            problem
            for split in task.splits
            if split.name in needed or _is_used(folder, split)
            for problem in tsv_problems(task, _tsv_path(folder, split), split.name)
        ]
    return [] if _hub_has(task, hub_repository) else [_no_data(task, data_dir)]


def load_raw(task: Task, data_dir: Path, hub_repository: str = "nyu-mll/glue") -> dict[str, RawSplit]:
    """Reads the splits of a task from its TSV folder if that exists, otherwise from the hub.

    Test splits whose files are missing from the folder are omitted. Both sources give the same examples and labels in
    the same order; test splits have no labels.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.
        hub_repository: A dataset on the hub, or a local folder with the same layout.

    Raises:
        UserError: A file is missing or malformed, or the hub dataset is unavailable or does not fit the task.
    """
    folder = _tsv_folder(task, data_dir)
    if folder.is_dir():
        return _raw_from_folder(task, folder)
    return read_dataset(task, _open_hub(task, data_dir, hub_repository))


def selection_splits(task: Task, splits: dict[str, Split], select_on: SelectOn) -> dict[str, Split]:
    """Returns the train split and, under the names of the dev splits, those that select epochs, trials and teachers.

    Args:
        task: The task.
        splits: From `load_features()`.
        select_on: `dev` selects on the official dev splits, as the paper does. `holdout` selects, in place of each dev
            split, on `HOLDOUT_SHARE` of the train split, stratified by class; the rest of it is for training, and the
            official dev splits are not used for any choice.
    """
    if select_on == "dev":
        return {name: splits[name] for name in ("train", *task.dev_splits)}
    from sklearn.model_selection import train_test_split

    train = splits["train"]
    rest, chosen = np.arange(len(train)), {}
    for name in task.dev_splits:
        strata = None if task.regression or train.labels is None else train.labels[rest]
        size = max(task.outputs, int(HOLDOUT_SHARE * len(train)))
        rest, held = train_test_split(rest, test_size=size, random_state=0, stratify=strata)
        chosen[name] = take(train, name, np.sort(held))
    return {"train": take(train, "train", np.sort(rest)), **chosen}


def row_count_notes(task: Task, raw: dict[str, RawSplit]) -> list[str]:
    """Returns one line for each split whose number of rows is not the official one, which is not an error."""
    return [
        f"{task.name} {split} has {len(raw[split]):,} rows; the official split has {official:,}"
        for split, official in task.row_counts.items()
        if split in raw and len(raw[split]) != official
    ]


def load_features(
    task: Task,
    data_dir: Path,
    model_dir: Path,
    max_length: int,
    hub_repository: str = "nyu-mll/glue",
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
        hub_repository: A dataset on the hub, or a local folder with the same layout.
        verify: Whether cached files are checked against their hashes. Processes of trials skip this, as the driver of
            the search has done it.

    Raises:
        UserError: The data or the tokenizer cannot be read, or --data-dir is not writable.
    """
    tsv_folder = _tsv_folder(task, data_dir)
    dataset = None if tsv_folder.is_dir() else _open_hub(task, data_dir, hub_repository)
    source = _tsv_key(task, tsv_folder) if dataset is None else _hub_key(task, dataset)
    tokenizer = tokenizer_key(model_dir)
    parts = [_FORMAT, importlib.metadata.version("transformers"), task.name, source, tokenizer, str(max_length)]
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

    folder = data_dir / "data_feat" / task.name / key
    used = [split for split in task.splits if dataset is not None or _is_used(tsv_folder, split)]
    paths = {split.name: folder / f"{split.name}.arrow" for split in used}
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
            raw = _raw_from_folder(task, tsv_folder) if dataset is None else read_dataset(task, dataset)
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


def _tsv_folder(task: Task, data_dir: Path) -> Path:
    return data_dir / "data_raw" / task.name


def _tsv_path(folder: Path, split: TaskSplit) -> Path:
    return folder / f"{split.file}.tsv"


def _is_used(folder: Path, split: TaskSplit) -> bool:
    """Returns whether a split is read from a folder: test splits, which only predictions need, may be missing."""
    return split.part != "test" or _tsv_path(folder, split).exists()


def _raw_from_folder(task: Task, folder: Path) -> dict[str, RawSplit]:
    raw: dict[str, RawSplit] = {}
    problems: list[str] = []
    for split in (split for split in task.splits if _is_used(folder, split)):
        try:
            raw[split.name] = read_tsv(task, _tsv_path(folder, split), split.name)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return raw


def _tsv_key(task: Task, folder: Path) -> str:
    """Returns the hashes of the files that are read from a folder."""
    paths = [_tsv_path(folder, split) for split in task.splits if _is_used(folder, split)]
    if missing := [path for path in paths if not path.is_file()]:
        raise UserError(*(f"{path} is missing" for path in missing))
    return " ".join(file_hash(path) for path in paths)


def _no_data(task: Task, data_dir: Path) -> str:
    *others, last = [f"{split.file}.tsv" for split in task.splits]
    files = f"{', '.join(others)} and {last}" if others else last
    return (
        f"{task.name}: {_tsv_folder(task, data_dir)} does not exist and the Hugging Face hub is out of reach; put "
        f"{files} there, choose another --data-dir, or try --demo"
    )


def _open_hub(task: Task, data_dir: Path, repository: str) -> "datasets.DatasetDict":
    """Returns the hub dataset.

    Raises:
        UserError: It is neither reachable nor in the local cache, or does not fit the task.
    """
    if not _hub_has(task, repository):
        raise UserError(_no_data(task, data_dir))
    return open_dataset(task, repository)


def _hub_has(task: Task, repository: str) -> bool:
    """Returns whether the hub dataset is a local folder, in the local cache, or on a reachable hub."""
    return Path(repository).is_dir() or dataset_cached(repository, task.hub_name) or hub_reachable()


def _hub_key(task: Task, dataset: "datasets.DatasetDict") -> str:
    """Returns the fingerprints by which the `datasets` library identifies the content of the splits."""
    return " ".join(dataset[split.hub]._fingerprint for split in task.splits)
