"""From what users call a task to its description: a name of GLUE, a task file, a folder, or a hub dataset."""

from pathlib import Path

from pkd_tune.config import Task, UserError
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
