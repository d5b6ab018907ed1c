"""The journal file that holds every study of a run."""

from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend


def open_journal(path: Path) -> JournalStorage:
    """Opens a run's journal, or begins it, for the one process that writes to it.

    What a process can leave behind that was killed while it wrote is undone: half a line, or its lock.
    """
    Path(f"{path}.lock").unlink(missing_ok=True)
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path)))
