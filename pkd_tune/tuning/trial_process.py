"""The process in which trials run one after another: what each must find as the first one did, and when to give it up.

Ray keeps a trial's process for the next one. A process that should not be kept ends itself as the next trial begins;
Ray then starts that trial in a new one.
"""

import faulthandler
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import torch
from filelock import FileLock, Timeout

from pkd_tune.distillation.memory import release_memory

GROWTH = 1.5
"""A process that holds this many times what it held after its first trial is replaced ..."""
GROWTH_BYTES = 500_000_000
"""... when that is at least so much more."""

_spoilt: str | None = None
_baseline: tuple[int, int] | None = None
_trials = 0
_expected_on_gpu = 0


def spoil(reason: str) -> None:
    """Says that no other trial should run in this process."""
    global _spoilt
    _spoilt = reason


def expect_on_gpu(kept: int) -> None:
    """Says how many bytes are kept on the GPU on purpose, besides what the first trial left there.

    They do not count as growth.
    """
    global _expected_on_gpu
    _expected_on_gpu = kept


def begin_trial(threads: int | None) -> str | None:
    """Puts the process's state back to what the first trial found; returns why it cannot be used any more, or None.

    Args:
        threads: For torch's operators on the CPU; None leaves them alone.
    """
    global _baseline, _trials
    release_memory()
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.clear_autocast_cache()
    if threads is not None:
        torch.set_num_threads(threads)
    if _spoilt is not None:
        return _spoilt
    _trials += 1
    held = memory()
    if _trials == 2:
        _baseline = held
    for what, before, now in zip(("memory", "GPU memory"), _baseline or (), held, strict=False):
        if now > GROWTH * before and now - before > GROWTH_BYTES:
            return f"its process holds {now / 1e9:.1f} GB of {what} between trials, {before / 1e9:.1f} GB at first"
    return None


def memory() -> tuple[int, int]:
    """Returns the bytes of this process that are in memory, and those it holds on its GPU beyond what is expected."""
    on_gpu = max(0, torch.cuda.memory_allocated() - _expected_on_gpu) if _uses_gpu() else 0
    return psutil.Process().memory_info().rss, on_gpu


@contextmanager
def deadline(seconds: float | None, trace: Path) -> Iterator[None]:
    """Ends this process when what is inside takes longer, wherever it hangs, after writing there where it hung.

    Not even a call into a library that never comes back can hold it up.

    Args:
        seconds: None: no deadline.
        trace: The file; removed again when all goes well.
    """
    if seconds is None:
        yield
        return
    trace.parent.mkdir(parents=True, exist_ok=True)
    with trace.open("w") as file:
        faulthandler.dump_traceback_later(seconds, exit=True, file=file)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
            trace.unlink(missing_ok=True)


def _uses_gpu() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def leave() -> None:
    """Ends this process at once."""
    os._exit(0)


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
