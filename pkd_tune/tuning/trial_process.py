"""The process in which trials run one after another: resetting its state, and replacing it.

Ray keeps a trial's process for the next one. A process that should not be kept exits as the next trial begins; Ray then
starts that trial in a new one.
"""

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import torch

from pkd_tune.distillation.allocator import release_memory
from pkd_tune.tuning.process import prepare_process

MAX_GROWTH = 1.5
"""A process is replaced when it holds this many times the memory it held after its first trial ..."""
GROWTH_BYTES = 500_000_000
"""... and at least this much more."""

_retired: str | None = None
_baseline: tuple[int, int] | None = None
_trials = 0
_expected_on_gpu = 0


def mark_for_replacement(reason: str) -> None:
    """Makes this process unusable for other trials."""
    global _retired
    _retired = reason


def set_expected_gpu_bytes(size: int) -> None:
    """Sets the bytes kept on the GPU on purpose, which do not count as growth."""
    global _expected_on_gpu
    _expected_on_gpu = size


def share_of_others() -> float:
    """Returns the share of the GPU's memory that other processes have."""
    free, total = torch.cuda.mem_get_info()
    return (total - free - torch.cuda.memory_reserved()) / total


def begin_trial(threads: int | None) -> str | None:
    """Resets the process's state to what its first trial found; returns why it must be replaced, or None.

    Args:
        threads: Threads of torch's CPU operators; None: torch's default.
    """
    global _baseline, _trials
    if _retired is not None:
        return _retired  # at once: after a capture that failed torch cannot even give memory back
    prepare_process()
    release_memory()
    torch.set_grad_enabled(True)
    torch.set_default_dtype(torch.float32)
    torch.clear_autocast_cache()
    if threads is not None:
        torch.set_num_threads(threads)
    _trials += 1
    held = memory()
    if _trials == 2:
        _baseline = held
    for what, before, now in zip(("memory", "GPU memory"), _baseline or (), held, strict=False):
        if now > MAX_GROWTH * before and now - before > GROWTH_BYTES:
            return f"its process holds {now / 1e9:.1f} GB of {what} between trials, {before / 1e9:.1f} GB at first"
    return None


def memory() -> tuple[int, int]:
    """Returns the resident bytes of this process, and those it holds on its GPU beyond what is expected."""
    on_gpu = max(0, torch.cuda.memory_allocated() - _expected_on_gpu) if _uses_gpu() else 0
    return psutil.Process().memory_info().rss, on_gpu


@contextmanager
def deadline(seconds: float | None, trace: Path) -> Iterator[None]:
    """Ends this process with a traceback when the block takes too long, even while it hangs in native code.

    Args:
        seconds: The limit; None: no limit.
        trace: File for the traceback; removed when the block ends in time.
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
    return bool(torch.cuda.is_initialized())


def exit_process() -> None:
    """Exits this process at once, without clean-up."""
    os._exit(0)
