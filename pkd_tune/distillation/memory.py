"""What this process does with memory that it frees."""

import ctypes
import platform

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of glibc's <malloc.h>


def keep_freed_memory() -> None:
    """Keeps what is freed for the next allocation, instead of giving every large block back to the system at once.

    A training step frees and allocates hundreds of megabytes; the system would clear each page of them anew. Settings
    of glibc, without effect where there is another C library.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_MMAP_MAX, 0)
        libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)


def give_back_freed_memory() -> None:
    """Gives back what `keep_freed_memory()` has kept: the end of a training that the next may be smaller than."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
