"""Temporary folders that only this user can enter, of names that nobody can foresee, and that do not stay behind."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "pkd-"
LOCK = "lock"
"""Held for as long as the process lives that made the folder; the operating system releases it."""


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yields a new folder, and removes it at the end; first removes those that killed processes of this user left.

    Args:
        parent: Where the folder is made.
    """
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=parent))
    lock = FileLock(folder / LOCK, blocking=False)
    lock.acquire()
    folder = folder.rename(folder.with_name(folder.name.removeprefix(".")))  # only now may others find it abandoned
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def remove_abandoned(parent: Path) -> None:
    """Removes the folders that `temporary_folder()` made in processes of this user that were killed."""
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or not (folder / LOCK).is_file():
                continue
            with FileLock(folder / LOCK, blocking=False):
                shutil.rmtree(folder, ignore_errors=True)
        except (FileNotFoundError, Timeout):
            continue  # another process has just removed it, or uses it
