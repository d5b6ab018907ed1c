"""GLUE submissions: a zip file with predictions for the eleven test splits as TSV files.

Each file has the header `index<TAB>prediction` and a row per test example in the order of the split, counted from 0.
"""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pkd_tune.config import Task, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.files import atomic_path

if TYPE_CHECKING:
    import numpy.typing as npt

    Values = Sequence[float] | npt.NDArray[Any]

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # equal predictions give equal bytes


def write_submission(
    path: Path,
    predictions: Mapping[str, Mapping[str, "Values"]],
    *,
    wanted: Sequence[str] = tuple(TASKS),
    fill_missing: bool = False,
) -> list[str]:
    """Validates predictions and writes them as a submission zip, atomically.

    Args:
        path: The zip file; its folder is created if missing.
        predictions: Class ids or values by task name and test split. Those of AX come from a model of MNLI.
        wanted: Tasks to include. The GLUE server accepts only zip files with all tasks.
        fill_missing: Whether wanted tasks without predictions get a constant prediction: the most frequent class of the
            train split, or a middle value.

    Returns:
        Notes for the user, one line each: tasks filled with a constant, and tasks left out.

    Raises:
        UserError: Wanted tasks have no predictions, a split does not have the official number of rows, or a prediction
            is invalid, with all such problems; or the zip cannot be written.
    """
    if unknown := {*wanted, *predictions} - TASKS.keys():
        raise ValueError(f"no such tasks: {unknown}")
    tasks = [task for name, task in TASKS.items() if name in wanted]
    missing = [task for task in tasks if task.name not in predictions]
    notes, problems = [], []
    if missing and not fill_missing:
        names = ", ".join(task.name for task in missing)
        problems.append(
            f"{path}: no predictions for {names}; predict them, or fill them with a constant (--fill-missing)"
        )
    elif missing:
        notes = [f"{task.name}: no predictions; filled with {_texts(task, [task.filler])[0]!r}" for task in missing]
    files: dict[str, str] = {}
    for task in tasks:
        filled = {name: [task.filler] * task.row_counts[name] for name in task.test_splits}
        chosen = predictions.get(task.name, filled)
        lacking = [name for name in task.test_splits if name not in chosen]
        problems += [f"{path}: no predictions for {task.name} {name}, which a submission needs" for name in lacking]
        for name in (name for name in task.test_splits if name in chosen):
            problems += _problems(task, name, chosen[name])
            if not problems:
                files[f"{task.split(name).submission}.tsv"] = _table(_texts(task, chosen[name]))
    if problems:
        raise UserError(*problems)
    left_out = [name for name in TASKS if name not in wanted]
    if left_out:
        notes.append(
            f"{path} has no files for {', '.join(left_out)}: the GLUE server accepts only zip files with all tasks"
        )

    _write_zip(path, files)
    return notes


def _problems(task: Task, split: str, predictions: "Values") -> list[str]:
    """Returns what is wrong with the predictions of a split, one line each; of invalid values only the first."""
    problems = row_problems(task, split, len(predictions))
    for row, value in enumerate(predictions):
        if task.regression and not math.isfinite(value):
            problems.append(f"{task.name} {split}: row {row} is {value}, but must be finite")
        elif not task.regression and value not in range(task.outputs):
            problems.append(
                f"{task.name} {split}: row {row} is {value}, but must be a class id from 0 to {task.outputs - 1}"
            )
        else:
            continue
        break
    return problems


def row_problems(task: Task, split: str, found: int) -> list[str]:
    """Returns one line if the number of rows is not the official one, otherwise none."""
    official = task.row_counts[split]
    if found == official:
        return []
    return [
        f"{task.name} {split}: {found:,} predictions, but the official split has {official:,} rows; "
        f"the GLUE server accepts only predictions for the official {task.split(split).file}"
    ]


def _texts(task: Task, predictions: "Values") -> list[str]:
    """Returns predictions as text: labels as in the TSV files, or values clipped to the range with 3 decimals."""
    if task.value_range is None:
        return [task.raw_labels[int(class_id)] for class_id in predictions]
    low, high = task.value_range
    return [f"{min(max(float(value), low), high) + 0.0:.3f}" for value in predictions]  # + 0.0 avoids -0.000


def _table(texts: list[str]) -> str:
    return "".join(["index\tprediction\n", *(f"{index}\t{text}\n" for index, text in enumerate(texts))])


def _write_zip(path: Path, files: Mapping[str, str]) -> None:
    """Writes the zip, atomically.

    Raises:
        UserError: The folder or the file cannot be written.
    """
    try:
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for file_name, text in files.items():
                entry = zipfile.ZipInfo(file_name, _ZIP_DATE)
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; choose another path") from error
