"""Tasks and splits by what users call them, and tasks as run.json records them."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pkd_tune.config import HubDataset, Layout, Task, TaskSplit, UserError
from pkd_tune.data.glue import glue_task, is_glue
from pkd_tune.data.tables import Table, read_table
from pkd_tune.data.task_file import (
    Description,
    describe_file,
    describe_folder,
    describe_hub,
    is_labelled,
    task_of_data,
    task_of_model,
)
from pkd_tune.files import expanded

HUB = "hub:"
"""Begins the name of a task that is a dataset on the hub."""


def find_task(name: str) -> Task:
    """Returns the task that a user means by `--task NAME`.

    Args:
        name: A GLUE task in any usual spelling; the path of a task file, which ends in .toml; a folder with train.csv;
            or `hub:owner/name`.

    Raises:
        UserError: There is no such task, or its file or its data are wrong.
    """
    described = _described(name)
    return glue_task(name) if described is None else task_of_data(described)


def task_of_files(name: str, files: Sequence[Path], classes: Sequence[str]) -> Task:
    """Returns a task with the given files as its only splits, called as the files are; labels in them are scored.

    The task's own data is not read, unless it alone can say what the classes are, or whether an example has one text or
    two: then its train file does, where it is there, and else the first file.

    Args:
        name: As for `find_task`.
        files: Of any kind that a task may have.
        classes: Names of the classes of the model that predicts them; LABEL_0 and so on are no names.

    Raises:
        UserError: There is no such task, a file cannot be read, or two have the same name.
    """
    described = _described(name)
    if described is None:
        return with_files(glue_task(name), files)
    unknown = described.kind == "classification" and described.labels is None and all(map(_GENERIC.fullmatch, classes))
    task = task_of_data(described) if unknown else task_of_model(described, classes, _example(described, files[0]))
    return with_files(task, files)


def _example(described: Description, file: Path) -> Table:
    """Returns a table that has the columns of the texts: train where the description does not name them and it is
    there, else a file that is to be predicted."""
    if described.text is None and described.folder is not None and "train" in described.files:
        with suppress(UserError):
            return read_table(described.folder / described.files["train"], [])
    return read_table(file, [])


def with_files(task: Task, files: Sequence[Path]) -> Task:
    """Returns the task with the given files as its only splits, called as the files are; labels in them are scored.

    Raises:
        UserError: A file cannot be read, or two have the same name.
    """
    splits = []
    for path in files:
        table = read_table(path, [task.label])
        labelled = is_labelled(table, task.label, task.raw_labels)
        splits.append(TaskSplit(part="test", called=path.stem, file=str(path.resolve()), labelled=labelled))
    if len({split.name for split in splits}) < len(splits):
        raise UserError(
            "--file: two files have the same name; rename one, or predict them one after the other with another --out"
        )
    return replace(task, splits=tuple(splits), folder=Path())


_GENERIC = re.compile(r"LABEL_\d+")


def _described(name: str) -> Description | None:
    """Returns the description of a task of one's own; None for a name that can only be GLUE's.

    Raises:
        UserError: Its file or its folder is wrong, or it has the name of a GLUE task.
    """
    path = expanded(name)
    if name.startswith(HUB):
        described = describe_hub(name.removeprefix(HUB))
    elif path.suffix == ".toml":
        described = describe_file(path)
    elif path.is_dir() and not is_glue(name):
        described = describe_folder(path)
    else:
        return None
    if is_glue(described.name):
        raise UserError(
            f"--task {name}: {described.name} is the name of a GLUE task; give another in a task file: name = ..."
        )
    return described


def find_trainable(name: str) -> Task:
    """Returns the task of this name, which must have a train split.

    Raises:
        UserError: As `find_task`, or the task has only a test split; names the task whose models predict it.
    """
    task = find_task(name)
    if not task.trainable:
        raise UserError(
            f"--task {name}: {task.name} has only a test split, which is predicted by models of {task.model_task}; "
            f"give --task {task.model_task}"
        )
    return task


def find_split(task: Task, name: str) -> TaskSplit:
    """Returns the split that a user means by a name.

    Accepts the split's own name (dev_mm), with `validation` for `dev` (validation, validation_mm); where no split has
    it, the name of its file (dev_mismatched) or in the hub dataset (validation_mismatched). In any case, and with
    hyphens for underscores.

    Raises:
        UserError: The task has no such split; the message lists those it has.
    """
    plain = name.lower().replace("-", "_")
    own = [split for split in task.splits if split.name in (plain, plain.replace("validation", "dev"))]
    for split in own or [split for split in task.splits if plain in (Path(split.file).stem, split.hub)]:
        return split
    raise UserError(f"{task.name} has no split {name}, only {', '.join(split.name for split in task.splits)}")


def task_of_record(record: Mapping[str, Any]) -> Task:
    """Returns a task from its record, in which dataclasses are objects and tuples lists, as run.json has them."""
    values = _tuples(record)
    splits = [{**split, "layout": split["layout"] and Layout(**_tuples(split["layout"]))} for split in record["splits"]]
    values["splits"] = tuple(TaskSplit(**split) for split in splits)
    values["hub"] = record["hub"] and HubDataset(**record["hub"])
    values["folder"] = record["folder"] and Path(record["folder"])
    return Task(**values)


def _tuples(record: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items()}
