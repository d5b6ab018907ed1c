"""What a run needs of its surroundings: checked before it works, and printed for a bug report."""

import importlib.metadata
import locale
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import torch
from filelock import FileLock

from pkd_tune.config import UserError
from pkd_tune.data.hub import hub_reachable
from pkd_tune.files import write_text
from pkd_tune.tuning.cluster import session_parent
from pkd_tune.tuning.resources import choose_resources, gpu_names
from pkd_tune.workflows.checks import Problems, check_writable

LIBRARIES = ("pkd_tune", "torch", "transformers", "ray", "optuna", "datasets", "huggingface_hub", "safetensors")
SHOWN = ("HF_", "RAY_", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_", "LANG", "LC_", "SLURM_JOB_ID")
"""Variables whose names begin so are shown, unless they hold a secret."""


def problems_of(folders: Mapping[str, Path]) -> list[str]:
    """Returns what would stop a search on this machine, one line each.

    Args:
        folders: That it writes to, by the flag that names each.
    """
    problems = Problems()
    problems.attempt(session_parent)
    for flag, folder in folders.items():
        before = len(problems.found)
        check_writable(folder, flag, problems)
        if len(problems.found) == before:
            problems.found += [
                f"{flag} {folder}: its file system refuses to {operation} ({reason}); give a folder on another one"
                for operation, reason in refused_operations(_existing(folder))
            ]
    return problems.found


def check_environment(folders: Mapping[str, Path]) -> None:
    """Checks the surroundings before a run works.

    Raises:
        UserError: With everything that would stop it.
    """
    if found := problems_of(folders):
        raise UserError(*found)


def refused_operations(folder: Path) -> Iterator[tuple[str, str]]:
    """Yields each operation that a run needs and the file system of a folder lacks, with its reason."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".pkd_tune-") as made:
        probe = Path(made)

        def lock() -> None:
            with FileLock(probe / "lock", timeout=5):
                pass

        def replace() -> None:
            for text in ("first", "second"):
                write_text(probe / "file", text)

        operations: dict[str, Callable[[], None]] = {"lock a file": lock, "rename a file over another": replace}
        for name, operation in operations.items():
            try:
                operation()
            except OSError as error:
                yield name, error.strerror or str(error)


def describe(folders: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Yields name and value of everything that a bug report should hold; nothing of it is a secret."""
    yield "system", f"{platform.platform()}, Python {platform.python_version()}"
    for library in LIBRARIES:
        yield library, importlib.metadata.version(library)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield "CPU", f"{os.cpu_count()} cores, {cores} for this process; {choose_resources(0).count} trials at once"
    yield "GPU", ", ".join(gpu_names()) or f"none (CUDA of PyTorch: {torch.version.cuda})"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free"
    if sys.platform != "win32":
        import resource

        limits = {
            "open files": resource.RLIMIT_NOFILE,
            "processes": resource.RLIMIT_NPROC,
            "file": resource.RLIMIT_FSIZE,
        }
        unlimited = resource.RLIM_INFINITY
        values = {name: resource.getrlimit(limit)[0] for name, limit in limits.items()}
        yield "limits", ", ".join(f"{n} {'none' if v == unlimited else v}" for n, v in values.items())
    yield "encoding", f"{locale.getpreferredencoding(False)}, terminal {sys.stdout.encoding}"
    yield "home", _folder(Path(os.path.expanduser("~")))
    yield "temporary", _folder(Path(tempfile.gettempdir()))
    for flag, folder in folders.items():
        yield flag, _folder(folder)
    yield "hub", "answers" if hub_reachable() else "out of reach, or HF_HUB_OFFLINE is set"
    for name in sorted(os.environ):
        if name.startswith(SHOWN) and not any(word in name for word in ("TOKEN", "KEY", "SECRET", "PASSWORD")):
            yield name, os.environ[name]


def _folder(folder: Path) -> str:
    existing = _existing(folder)
    state = "" if existing == folder else "not there yet, "
    access = "writable" if os.access(existing, os.W_OK) else "not writable"
    return f"{folder} ({state}{access}, {shutil.disk_usage(existing).free / 1e9:.1f} GB free)"


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
