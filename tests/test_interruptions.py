"""A search that is killed again and again loses nothing: real processes, a real Ray, a real journal."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from tiny import SPACE

FLAGS = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--depths", "1", "2", "--space", "space.toml")
STUDIES = ("1-layer-pkd", "2-layer-pkd", "1-layer-pkd confirmed", "2-layer-pkd confirmed")


@pytest.fixture
def home(tmp_path: Path, tiny_data: Path) -> Path:
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "space.toml").write_text(SPACE.replace("trials = 4", "trials = 4\nseeds = 1"))
    return tmp_path


def start(home: Path, *flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pkd_tune.search", *FLAGS, *flags]
    with (home / "output.txt").open("a") as output:
        return subprocess.Popen(command, cwd=home, stderr=output, text=True, start_new_session=True)


def journal(home: Path) -> Path:
    return home / "results" / "MRPC" / "tiny" / "study.log"


def wait_for_lines(home: Path, process: subprocess.Popen[str], lines: int) -> bool:
    """Waits until the journal has that many lines; returns False when the search ends before."""
    while process.poll() is None:
        if journal(home).exists() and journal(home).read_bytes().count(b"\n") >= lines:
            return True
        time.sleep(0.005)
    return False


def recorded(home: Path) -> dict[tuple[str, int], Any]:
    storage = JournalStorage(JournalFileBackend(str(journal(home))))
    found = {}
    for name in STUDIES:
        for trial in optuna.load_study(study_name=name, storage=storage).get_trials(deepcopy=False):
            found[name, trial.number] = trial
    return found


def kill_often(home: Path, kills: int, seed: int) -> None:
    rng = random.Random(seed)
    finished: dict[tuple[str, int], Any] = {}
    lines = 0
    for _ in range(kills):
        process = start(home)
        lines += rng.randint(3, 30)
        if not wait_for_lines(home, process, lines):
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        lines = max(lines, journal(home).read_bytes().count(b"\n"))
        for key, trial in recorded(home).items():
            if key in finished:
                assert trial == finished[key]
            elif trial.state.is_finished():
                finished[key] = trial
    process = start(home)
    assert process.wait(timeout=200) == 0, (home / "output.txt").read_text()
    at_the_end = recorded(home)
    assert all(trial.state.is_finished() for trial in at_the_end.values())
    assert all(at_the_end[key] == trial for key, trial in finished.items())
    rows = pd.read_csv(home / "results/MRPC/tiny/trials.csv")
    searched = rows[rows["stage"] == "search"]
    assert searched[["depth", "trial"]].to_numpy().tolist() == [[1, 0], [1, 1], [2, 0], [2, 1]]
    assert set(rows["state"]) <= {"complete", "stopped early"}
    complete = searched[searched["state"] == "complete"]
    assert (complete["evaluations"] == 4).all()
    confirmed = rows[rows["stage"] == "confirm"]
    assert sorted(confirmed["depth"]) == sorted(set(complete["depth"]))
    assert not list((home / "results/MRPC/tiny/checkpoints").glob("*.training"))


def test_a_search_that_is_killed_twice_loses_nothing(home: Path) -> None:
    kill_often(home, kills=2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_twenty_times_loses_nothing(home: Path) -> None:
    kill_often(home, kills=20, seed=2)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "scheduler"])
def test_ctrl_c_leaves_a_report_and_the_same_command_continues(home: Path, number: int) -> None:
    process = start(home)
    assert wait_for_lines(home, process, 14)
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    output = (home / "output.txt").read_text()
    assert "interrupted: writing the report of what there is" in output
    assert "the same command continues" in output
    assert "Traceback" not in output
    assert "***" not in output  # as Ray's own handler prints
    assert (home / "results/MRPC/tiny/report.md").exists()
    process = start(home)
    assert process.wait(timeout=200) == 0


@pytest.mark.slow
def test_two_searches_started_at_once_do_not_disturb_each_other(home: Path) -> None:
    """One gets the run's folder and the other a clear line; with --new each has a folder of its own."""
    both = [start(home), start(home)]
    codes = sorted(process.wait(timeout=200) for process in both)
    assert codes == [0, 2]
    assert "another search is running there" in (home / "output.txt").read_text()
    both = [start(home, "--new"), start(home, "--new")]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    for name in ("tiny", "tiny-2", "tiny-3"):
        rows = pd.read_csv(home / "results" / "MRPC" / name / "trials.csv")
        assert (rows["stage"] == "search").sum() == 4
