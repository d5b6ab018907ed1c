"""Tasks by what users call their splits, and as run.json records them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pkd_tune.config import HubDataset, Layout, Task, TaskSplit, UserError


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
