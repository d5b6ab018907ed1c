"""A task's examples, from its TSV folder or the hub, as text and as tokens; tokenised once and kept.

The TSV files of a task lie in <data_dir>/data_raw/<TASK>/, tokenised splits in <data_dir>/data_feat/<TASK>/<key>/.
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
from pkd_tune.data.hub import dataset_cached, go_offline, hub_reachable
from pkd_tune.data.task import Task, TaskSplit
from pkd_tune.data.tokens import (
    DamagedFileError,
    Split,
    load_tokenizer,
    open_split,
    take,
    tokenise,
    tokenizer_key,
    write_split,
)
from pkd_tune.data.tsv import RawSplit, read_tsv, tsv_problems

if TYPE_CHECKING:
    import datasets

__all__ = [
    "RawSplit",
    "Split",
    "check_source",
    "load_features",
    "load_raw",
    "read_tsv",
    "row_count_notes",
    "selection_splits",
]

logger = logging.getLogger(__name__)

HOLDOUT_SHARE = 0.1
"""Share of the training split that is held out for every dev split it stands in for."""

_FORMAT = "1"  # Of the files of tokenised examples; another number makes every one be built again.


def check_source(
    task: Task, data_dir: Path, hub_repository: str = "nyu-mll/glue", *, needed: Sequence[str] = ()
) -> list[str]:
    """Everything that would keep the task's data from being read, one line per problem; empty when all is well.

    Reads the TSV files where they are there, at most 5 problems of each; otherwise only asks whether the hub, or its
    local cache, has the data.

    Args:
        task: The task.
        data_dir: The folder given as --data-dir.
        hub_repository: A dataset on the hub, or a local folder laid out like one.
        needed: Test splits whose files must be there; those of train and dev must in any case.
    """
    folder = _tsv_folder(task, data_dir)
    if folder.is_dir():
        return [
            problem
            for split in task.splits
            if split.name in needed or _is_used(folder, split)
            for problem in tsv_problems(task, _tsv_path(folder, split), split.name)
        ]
    if Path(hub_repository).is_dir() or dataset_cached(hub_repository, task.hub_name) or hub_reachable():
        return []
    return [_no_data(task, data_dir)]


def load_raw(task: Task, data_dir: Path, hub_repository: str = "nyu-mll/glue") -> dict[str, RawSplit]:
    """Reads all splits of a task from the TSV folder where it exists, otherwise from the hub.

    A folder may lack test splits: there is none then. Both sources give the same examples in the same order with the
    same labels; test splits have none.

    Args:
        task: The task to read.
        data_dir: The folder given as --data-dir.
        hub_repository: A dataset on the hub, or a local folder laid out like one.

    Raises:
        UserError: A file is missing or malformed, or the hub is needed and cannot give the data.
    """
    folder = _tsv_folder(task, data_dir)
    if folder.is_dir():
        return _raw_from_folder(task, folder)
    return _raw_from_hub(task, _open_hub(task, data_dir, hub_repository))


def selection_splits(task: Task, splits: dict[str, Split], select_on: SelectOn) -> dict[str, Split]:
    """The splits a search works with: `train`, and those its choices are made on, under the names of the dev splits.

    Args:
        task: The task.
        splits: From `load_features()`.
        select_on: `dev`: the official dev splits, as the paper does. `holdout`: for each of them `HOLDOUT_SHARE` of the
            training split, with its proportion of classes; training then has the rest, and the official dev splits
            see nothing before all choices are made.
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
    """One line for each split whose number of rows is not the official one, which is unusual but no error."""
    return [
        f"{task.name} {split} has {len(raw[split]):,} rows; the official split has {official:,}"
        for split, official in task.row_counts.items()
        if split in raw and len(raw[split]) != official
    ]


def load_features(
    task: Task, data_dir: Path, model_dir: Path, max_length: int, hub_repository: str = "nyu-mll/glue"
) -> dict[str, Split]:
    """The tokenised splits of a task, memory-mapped from files that are built once.

    Built again only when the source's content, the tokenizer's files, `max_length` or the version of transformers
    is another, or a file is damaged (which is logged). Of several processes one builds and the others wait.

    Args:
        task: The task to read.
        data_dir: The folder given as --data-dir.
        model_dir: A local model folder, of which only the tokenizer is read.
        max_length: Longest example in tokens, special tokens included; longer ones are cut, longest sentence first.
        hub_repository: A dataset on the hub, or a local folder laid out like one.

    Raises:
        UserError: The data or the tokenizer cannot be read, or --data-dir cannot be written.
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
        return {split: open_split(path) for split, path in paths.items()}
    except (FileNotFoundError, DamagedFileError):
        pass  # Built below, where no other process builds at the same time.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "build.lock").touch()
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}); --data-dir must be writable") from error
    with FileLock(folder / "build.lock"):
        to_build = [split for split, path in paths.items() if not _intact(path)]
        if to_build:
            raw = _raw_from_folder(task, tsv_folder) if dataset is None else _raw_from_hub(task, dataset)
            fast_tokenizer = load_tokenizer(model_dir, max_length)
            for split in to_build:
                write_split(paths[split], tokenise(raw[split], fast_tokenizer, max_length), tokenizer)
    return {split: open_split(path) for split, path in paths.items()}


def _intact(path: Path) -> bool:
    """Whether there is a whole file of tokenised examples; says so in the log when there is a damaged one."""
    try:
        open_split(path)
    except FileNotFoundError:
        return False
    except DamagedFileError as error:
        logger.warning("%s; tokenising this split again", error)
        return False
    return True


def _tsv_folder(task: Task, data_dir: Path) -> Path:
    return data_dir / "data_raw" / task.name


def _tsv_path(folder: Path, split: TaskSplit) -> Path:
    return folder / f"{split.file}.tsv"


def _is_used(folder: Path, split: TaskSplit) -> bool:
    """Whether a split is read from a folder: test splits, which only predictions need, are left out where missing."""
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
    """Hash of the files' bytes."""
    digest = hashlib.sha256()
    for path in (_tsv_path(folder, split) for split in task.splits if _is_used(folder, split)):
        if not path.is_file():
            raise UserError(f"{path} is missing")
        content = path.read_bytes()
        digest.update(f"{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _no_data(task: Task, data_dir: Path) -> str:
    *others, last = [f"{split.file}.tsv" for split in task.splits]
    files = f"{', '.join(others)} and {last}" if others else last
    return (
        f"{task.name}: there is no {_tsv_folder(task, data_dir)} and the Hugging Face hub is out of reach; put "
        f"{files} there, choose another --data-dir, or try --demo"
    )


def _open_hub(task: Task, data_dir: Path, repository: str) -> "datasets.DatasetDict":
    """The task's configuration of the hub's dataset, without one request where the hub is out of reach."""
    if not Path(repository).is_dir() and not hub_reachable():
        if not dataset_cached(repository, task.hub_name):
            raise UserError(_no_data(task, data_dir))
        go_offline()
    import datasets

    try:
        dataset = datasets.load_dataset(repository, task.hub_name)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{repository}: {task.hub_name!r} cannot be loaded from this dataset: {reason}") from error
    config = f"{repository}: {task.hub_name!r}"
    for hub_split in (split.hub for split in task.splits):
        if hub_split not in dataset:
            raise UserError(f"{config} has no split {hub_split!r}, only {', '.join(dataset)}")
        columns = dataset[hub_split].column_names
        for column in (*task.hub_sentences, "label"):
            if column not in columns:
                raise UserError(f"{config} has no column {column!r} in {hub_split!r}, only {', '.join(columns)}")
        # Class ids in another order would train and score without any sign that they mean something else.
        names = getattr(dataset[hub_split].features["label"], "names", [])
        if names != list(task.labels):
            raise UserError(f"{config} has the classes {names} in {hub_split!r}, expected {list(task.labels)}")
    return dataset


def _hub_key(task: Task, dataset: "datasets.DatasetDict") -> str:
    """The fingerprints by which the `datasets` library tells contents apart."""
    return " ".join(dataset[split.hub]._fingerprint for split in task.splits)


def _raw_from_hub(task: Task, dataset: "datasets.DatasetDict") -> dict[str, RawSplit]:
    raw = {}
    for split in task.splits:
        columns = [dataset[split.hub][column][:] for column in task.hub_sentences]
        # The hub fills test labels with -1, or with the real ones for MRPC; a test split has none here either way.
        labels = None if split.layout.label is None else dataset[split.hub]["label"][:]
        low, high = task.value_range or (0, task.outputs - 1)
        for row, label in enumerate(labels or ()):
            if not low <= label <= high:
                where = f"{task.hub_name!r} from the hub: row {row} of {split.hub!r}"
                raise UserError(f"{where} has the label {label}, expected {low:g} to {high:g}")
        raw[split.name] = RawSplit(columns[0], columns[1] if len(columns) == 2 else None, labels)
    return raw
