"""What a process that trains needs to be set before it imports torch: for the command's own process and for Ray's.

Standard library only: it is called before anything slow is imported.
"""

import atexit
import gc
import os

ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
"""Variables that libraries read when they are imported. OpenMP threads that spin while they wait are a hundred times
slower when another program uses one of their cores; with this setting they sleep."""


NO_HOME = "/nonexistent"
"""Home of a process that has none: libraries ask for it when they are imported, and need not be able to write there."""


def prepare_process() -> None:
    """Sets environment variables that the user has not set, and collects garbage less often.

    Importing torch, transformers and Ray makes a million objects that stay; looking for garbage among them as often as
    Python does by default takes a tenth of a process's start, and looking once more at the process's end takes seconds.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if os.path.expanduser("~") == "~":  # no HOME, and a user without an entry, as containers have
        os.environ["HOME"] = NO_HOME
    gc.set_threshold(100_000, 50, 50)
    atexit.unregister(gc.freeze)  # once, however often a process is prepared
    atexit.register(gc.freeze)


def environment() -> dict[str, str]:
    """Returns the variables for processes that others start, with the values that the user has set."""
    return {name: os.environ.get(name, value) for name, value in ENVIRONMENT.items()}
