"""Whether the disks have room for what a run will write."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from pkd_tune.config import UserError


def check_disk(totals: Mapping[Path, int]) -> None:
    """Refuses to begin where the files of a run might not fit on their disks.

    What a continued run has already is not asked for again. Not counted are the teacher and its outputs, which are made
    before, below --data-dir, and a run's journal, events and reports.

    Args:
        totals: The most bytes that each folder will hold; it need not exist yet.

    Raises:
        UserError: With what is needed and what is free.
    """
    more = {folder: max(0, total - _held(folder)) for folder, total in totals.items()}
    for folder in totals:
        needed, free = sum(more[other] for other in totals if _disk(other) == _disk(folder)), _free(folder)
        if needed > free:
            raise UserError(
                f"{folder}: trials and students may need {needed / 1e9:.1f} GB more on its disk, and "
                f"{free / 1e9:.1f} GB are free; give --storage, or --out, on a larger disk"
            )


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
