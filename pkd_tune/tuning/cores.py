"""Binding the processes of trials to CPU cores, no two of them to one."""

import os
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

_taken: dict[int, object] = {}  # core -> lock, which the operating system releases when the process ends


def bind_to_cores(folder: Path, count: int) -> set[int]:
    """Binds the calling thread, and those it starts, to cores that no other process with the same folder has taken.

    Args:
        folder: Holds a lock file for each core of this machine.
        count: Cores to take; a process that has taken them keeps them until it ends.

    Returns:
        The cores; an empty set where too few are free, or the platform has no CPU affinity: the thread stays unbound.
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
