"""What this process does with memory that it frees."""

import ctypes
import platform


def give_back_freed_memory() -> None:
    """Gives back to the system what the C library keeps for later: a training frees hundreds of megabytes as it ends.

    Without effect where the C library is not glibc.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
