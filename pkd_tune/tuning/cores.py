"""A CPU core of its own for each process that runs trials."""

import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_taken: tuple[int, object] | None = None  # by this process, until it ends, however that happens


def cores_folder(run_folder: Path) -> Path:
    """Returns where the processes of a run note on this machine which of its cores they took."""
    key = hashlib.sha256(str(run_folder.resolve()).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"pkd_tune-cores-{key}"


def keep_to_a_core(folder: Path) -> int | None:
    """Binds the thread that calls it, and those it starts, to a core that no process with the same folder has.

    Returns:
        The core; None where all are taken, or where the platform binds nothing: then the thread is left as it is.
    """
    global _taken
    if not hasattr(os, "sched_setaffinity"):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    for core in sorted(os.sched_getaffinity(0)) if _taken is None else ():
        with suppress(Timeout):
            _taken = core, FileLock(folder / f"{core}.lock", timeout=0, thread_local=False).acquire()
            break
    if _taken is None:
        return None
    os.sched_setaffinity(0, {_taken[0]})
    return _taken[0]
