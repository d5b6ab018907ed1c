"""Tasks and splits by what users call them, and tasks as run.json records them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkd_tune.config import HubDataset, Layout, Task, TaskSplit, UserError
from pkd_tune.data.glue import glue_task, is_glue
from pkd_tune.data.task_file import task_of_file, task_of_folder, task_of_hub

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
    path = Path(name).expanduser()
    if name.startswith(HUB):
        task = task_of_hub(name.removeprefix(HUB))
    elif path.suffix == ".toml":
        task = task_of_file(path)
    elif path.is_dir() and not is_glue(name):
        task = task_of_folder(path)
    else:
        return glue_task(name)
    if is_glue(task.name):
        raise UserError(
            f"--task {name}: {task.name} is the name of a GLUE task; give another in a task file: name = ..."
        )
    return task


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

    Accepts the split's own name (dev_mm), with `validation` for `dev` (validation, validation_mm), the name of its TSV
    file (dev_mismatched) and its name in the hub dataset (validation_mismatched), in any case and with hyphens for
    underscores.

    Raises:
        UserError: The task has no such split; the message lists those it has.
    """
    plain = name.lower().replace("-", "_")
    for split in task.splits:
        if plain in (split.name, Path(split.file).stem, split.hub) or plain.replace("validation", "dev") == split.name:
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
