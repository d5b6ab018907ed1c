"""CPU cores of their own for each process that runs trials."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_taken: dict[int, object] = {}  # by this process, until it ends, however that happens


def cores_folder(run_folder: Path) -> Path:
    """Returns where the processes of a run note on this machine which of its cores they took."""
    key = hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pkd_tune-cores-{key}"


def keep_to_cores(folder: Path, count: int) -> set[int]:
    """Binds the thread that calls it, and those it starts, to cores that no process with the same folder has.

    Returns:
        The cores; none where too few are left, or where the platform binds nothing: then the thread is left as it is.
    """
    if not hasattr(os, "sched_setaffinity"):
        return set()
    folder.mkdir(parents=True, exist_ok=True)
    for core in sorted(os.sched_getaffinity(0)) if not _taken else ():
        if len(_taken) == count:
            break
        with suppress(Timeout):
            _taken[core] = FileLock(folder / f"{core}.lock", timeout=0, thread_local=False).acquire()
    if len(_taken) < count:
        _taken.clear()  # and with it the locks
        return set()
    os.sched_setaffinity(0, _taken)
    return set(_taken)
