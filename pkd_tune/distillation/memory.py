"""What this process does with memory that it frees. On the CPU without effect where the C library is not glibc."""

import ctypes
import gc
import platform
from functools import cache

import torch

# Parameters of glibc's mallopt(3), from its malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 64 * 2**20
"""As much free memory as may lie at the end of the heap before any of it is given back."""
SEPARATE_BYTES = 16 * 2**20
"""Blocks of this size are asked of the system, and given back to it, one by one."""


@cache
def keep_freed_memory() -> None:
    """Lets the C library keep what one training step frees for the next one.

    By itself it gives much of that back to the system, which hands it out again page by page, each filled with zeros;
    and the larger the blocks it keeps together, the more memory lies unused between others. These sizes hold a student
    of 22.7 million parameters below 1.5 GB.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_THRESHOLD, SEPARATE_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Gives back to the system what a training leaves: objects that hold each other, and memory kept for later.

    That is what torch keeps on a GPU, for which other processes may be waiting, and what the C library keeps.
    """
    gc.collect()  # captured steps hold the bench that holds them
    torch.cuda.empty_cache()  # does nothing, and needs no GPU, in a process that has not used one
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
