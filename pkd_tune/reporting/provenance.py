"""The provenance of a result, as every command records it: command, time, code and library versions, machine."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


def provenance(command: str, gpus: Sequence[str]) -> dict[str, Any]:
    """Returns the provenance of what a command is about to compute.

    Args:
        command: The command line that does the same.
        gpus: Names of the machine's GPUs; determining them takes torch, which reporting does not load.
    """
    devices = [f"{os.cpu_count()} CPU cores", *(f"{count} × {name}" for name, count in Counter(gpus).items())]
    packages = ("pkd_tune", "torch", "transformers", "ray", "optuna", "datasets")
    return {
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _git_hash(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", *devices]),
    }


def _git_hash() -> str | None:
    """Returns the commit of the source tree that runs; None for an installed copy."""
    folder = Path(sys.modules["pkd_tune"].__file__ or ".").resolve().parent
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--", "."]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
