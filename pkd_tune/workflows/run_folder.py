"""Which folder a search works in, and whether what was begun there is the same search."""

import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

from pkd_tune.config import UserError
from pkd_tune.files import JOURNAL, RUN, RUN_LOG, read_json
from pkd_tune.tuning.journal import check_journal

COMPARED = ("demo", "search", "space", "content")
"""Parts of run.json that make a search the same; machine, versions and date may change."""

STUDENT = "content.student"
"""Hash of the model that --student names."""

FLAGS = {
    "search.seed": "--seed",
    "search.depths": "--depths",
    "search.sampler": "--sampler",
    "search.data.select_on": "--select-on",
    STUDENT: "the content of --student",
    "content.unlabeled": "the content of --unlabeled",
    "search.student_training.precision": "--precision",
    "demo": "--demo",
}
"""Settings that have a flag of their own; the others come from the space or from what was found."""

PLACES = (
    *("search.data.data_dir", "search.data.teacher_dir", "search.data.student_dir"),
    *("search.data.task.folder", "search.data.unlabeled"),
)
"""Settings that only say where something lies; what lies there is compared by content."""

TOTALS = (
    *(f"search.{name}" for name in ("trials", "control_trials", "finetuned_trials", "seeds")),
    "search.max_pending",
)
"""Settings that a continued run may change: how many training runs there are, and how many of them at once. What is
there stays where a number is smaller than it."""


def choose_run_folder(task_folder: Path, name: str, *, new: bool) -> Path:
    """Returns the latest run of a name (`NAME`, `NAME-2`, ...), or the next one for a new run; makes nothing.

    A folder such as `exp-2024` is no run of `exp` where it records that it was given this name itself.

    Args:
        task_folder: Holds all runs of a task.
        name: What a first run is called.
        new: Whether to start another run although there is one.
    """
    pattern = re.compile(re.escape(name) + r"(?:-(\d+))?")
    there = {path.name: path for path in task_folder.iterdir()} if task_folder.is_dir() else {}
    latest = 0
    for folder in there.values():
        match = pattern.fullmatch(folder.name)
        if match and (folder.name == name or _given_name(folder) in (None, name)):
            latest = max(latest, int(match[1] or 1))
    if latest and not new:
        return task_folder / _numbered(name, latest)
    free = (_numbered(name, number) for number in count(latest + 1))
    return task_folder / next(folder for folder in free if folder not in there)


def _numbered(name: str, number: int) -> str:
    return name if number == 1 else f"{name}-{number}"


def _given_name(run_dir: Path) -> str | None:
    """Returns what the run in a folder was called by `--name`; None where no readable record says it."""
    try:
        return read_json(run_dir / RUN).get("name") if (run_dir / RUN).is_file() else None
    except UserError:
        return None  # it is damaged, which is said where the run is to be continued


def begin_run_folder(task_folder: Path, name: str, record: dict[str, Any], *, new: bool) -> Path:
    """Returns the folder of the run to start or to continue, and makes it.

    Of several searches that start a new run at once, each gets a folder of its own.

    Args:
        task_folder: Holds all runs of a task.
        name: What a first run is called.
        record: What run.json would be, as far as it is known.
        new: Whether to start another run although there is one.

    Raises:
        UserError: When the run that would be continued has other settings, or its records are damaged.
    """
    task_folder.mkdir(parents=True, exist_ok=True)
    while True:
        run_dir = choose_run_folder(task_folder, name, new=new)
        if (run_dir / RUN).exists():
            check_same_search(run_dir, read_record(run_dir), record)
            check_trials_are_recorded(run_dir)
        try:
            run_dir.mkdir(exist_ok=not new)
            return run_dir
        except FileExistsError as error:
            if not new:
                raise UserError(f"{run_dir} is no folder; remove it, or choose another --name or --out") from error
            # another search took this number just now


def read_record(run_dir: Path) -> dict[str, Any]:
    """Returns a run's run.json.

    Raises:
        UserError: When it is damaged.
    """
    return read_json(run_dir / RUN, (*COMPARED, "id", "provenance"))


def run_id(run_dir: Path) -> str:
    """Returns the id of a run, which it keeps where it is moved; its folder where it has none."""
    return str(read_json(run_dir / RUN).get("id", run_dir.resolve()))


def check_trials_are_recorded(run_dir: Path) -> None:
    """Refuses to continue a run whose journal is gone or damaged: its trials would be trained again.

    Raises:
        UserError: One line with the file and the remedy.
    """
    journal = run_dir / JOURNAL
    if journal.exists() and journal.stat().st_size:
        check_journal(journal)
    elif (run_dir / RUN_LOG).exists():  # trials have begun, which alone write it
        state = "empty" if journal.exists() else "gone"
        raise UserError(
            f"{journal} is {state}, which holds the run's trials; restore it, or start another run with --new"
        )


def check_same_search(run_dir: Path, recorded: dict[str, Any], current: dict[str, Any]) -> None:
    """Refuses to continue a run whose settings are not the current ones; the numbers of trials and seeds may differ.

    Args:
        run_dir: Named in the error.
        recorded: The run's run.json, or the part of it that can be compared yet.
        current: What it would be now; parts that only one of the two has yet are not compared.

    Raises:
        UserError: One line per setting that differs.
    """
    parts = [part for part in COMPARED if part in recorded and part in current]
    before, now = (dict(_flat({part: record[part] for part in parts})) for record in (recorded, current))
    differing = [
        f"{run_dir}: {_name(key)} {_recorded_text(before, key)} in this run and {_requested_text(now, key)}; give the "
        "old value or start another run with --new"
        for key in dict.fromkeys([*before, *now])
        if key not in (*PLACES, *TOTALS)
        and not (key == STUDENT and key not in before and _has_student(before))  # earlier versions did not record it
        and not _follows_flag(key)
        and _recorded_text(before, key) != _recorded_text(now, key)
    ]
    if differing:
        raise UserError(*differing)


def relative_path(run_dir: Path, folder: Path) -> str:
    """Returns the way from a run's folder to another one; it holds wherever the two are moved together."""
    return Path(os.path.relpath(folder, run_dir)).as_posix()


def _flat(record: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields every leaf of nested objects with its dotted name; an empty list is none."""
    for key, value in record.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(i): item for i, item in enumerate(value, start=1)}
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif value != []:
            yield f"{prefix}{key}", value


def _name(key: str) -> str:
    """Returns what people call a setting: its flag where it has one."""
    return "--methods" if re.fullmatch(r"search\.stages\.\d+\.method", key) else FLAGS.get(key, key)


def _recorded_text(record: dict[str, Any], key: str) -> str:
    return f"was {record[key]!r}" if key in record else "was not there"


def _requested_text(record: dict[str, Any], key: str) -> str:
    return f"is now {record[key]!r}" if key in record else "is gone now"


def _has_student(record: dict[str, Any]) -> bool:
    """Returns whether students start from another model than the teacher."""
    return record.get("search.data.student_dir") != record.get("search.data.teacher_dir")


def _follows_flag(key: str) -> bool:
    """Returns whether a setting is one of several that a flag sets together, and not the one that is named for it."""
    return key.endswith((".seed", ".precision")) and key not in FLAGS
