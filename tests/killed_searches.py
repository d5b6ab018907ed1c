"""Searches in processes of their own, to be watched through the files they write, and killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

RUN = "results/MRPC/tiny"
FLAGS = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--space", "space.toml")
Recorded = dict[tuple[str, int], FrozenTrial]


def start(home: Path, *flags: str, base: Sequence[str] = FLAGS) -> subprocess.Popen[str]:
    """Starts a search with a temporary folder of its own; what it says goes to the end of output.txt."""
    command = [sys.executable, "-m", "pkd_tune.search", *base, *flags]
    with (home / "output.txt").open("a") as output:
        (home / "tmp").mkdir(exist_ok=True)
        environment = {**os.environ, "TMPDIR": str(home / "tmp"), "RAY_TMPDIR": str(home / "tmp")}
        return subprocess.Popen(command, cwd=home, env=environment, stderr=output, text=True, start_new_session=True)


def kill(process: subprocess.Popen[str]) -> None:
    """Kills a running search, with all processes it has started."""
    assert process.poll() is None, "it ended before"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def journal(home: Path, run: str = RUN) -> Path:
    return home / run / "study.log"


def count(path: Path, text: str) -> int:
    return path.read_text().count(text) if path.exists() else 0


def wait_for(process: subprocess.Popen[str], path: Path, text: str, times: int) -> None:
    """Waits until a running search has written a text so many times into a file."""
    while count(path, text) < times:
        assert process.poll() is None, "it ended before"
        time.sleep(0.005)


def recorded(home: Path, run: str = RUN) -> Recorded:
    """Returns every trial in the journal, by the name of its study and its number."""
    storage = JournalStorage(JournalFileBackend(str(journal(home, run))))
    return {
        (name, trial.number): trial
        for name in optuna.get_all_study_names(storage)
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False)
    }
