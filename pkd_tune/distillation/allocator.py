"""The process's memory: tuning glibc's allocator for training, and releasing memory between training runs.

Where the C library is not glibc, the allocator is left alone.
"""

import ctypes
import gc
import platform
from functools import cache

import torch

# Parameters of glibc's mallopt(3), from its malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

TRIM_BYTES = 64 * 2**20
"""M_TRIM_THRESHOLD: free memory at the top of the heap above which it is returned to the system."""
MMAP_BYTES = 16 * 2**20
"""M_MMAP_THRESHOLD: size from which blocks are mapped, and returned to the system, one by one."""
TRIM_STEPS = 64
"""Training steps on a CPU after which free memory is returned to the system."""


@cache
def tune_allocator() -> None:
    """Has glibc keep the memory that one training step frees for the next one.

    By default it returns much of it to the system, which then maps new zeroed pages at every step; larger thresholds
    than these fragment the heap.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, MMAP_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, TRIM_BYTES)


def release_memory() -> None:
    """Returns unused memory to the system: garbage in reference cycles, torch's GPU cache and the C library's heap."""
    gc.collect()  # captured steps and their train step refer to each other
    torch.cuda.empty_cache()  # does nothing, and needs no GPU, in a process that has not used one
    trim_heap()


def trim_heap() -> None:
    """Returns free pages of the C library's heap to the system, also those between blocks that are in use.

    Batches of many lengths leave gaps of many sizes: without this, a training's heap grows as long as it lasts.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
