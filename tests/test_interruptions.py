"""A search that is killed again and again loses nothing: real processes, a real Ray, a real journal."""

import os
import random
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
from crashes import kill_processes
from killed_searches import RUN, Recorded, count, journal, kill, recorded, wait_for
from killed_searches import start as start_search
from tiny import SPACE

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, tiny_data: Path) -> Path:
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "space.toml").write_text(SPACE.replace("seeds = 0", "seeds = 1"))
    return tmp_path


def start(home: Path, *flags: str) -> subprocess.Popen[str]:
    return start_search(home, "--depths", "1", "2", *flags)


@pytest.mark.timeout(1800)
def test_a_search_that_is_killed_twenty_times_loses_nothing(home: Path) -> None:
    """At any time, in its trials, and once while it exports; then it finishes."""
    kills, trials, rng = 20, 60, random.Random(2)
    output = home / "output.txt"
    flags = ("--trials", str(trials))
    finished: Recorded = {}
    for number in range(1, kills + 1):
        process = start(home, *flags)
        if number == kills:
            wait_for(process, output, "exporting the best student", 1)
        elif number % 3 == 2:  # mostly before its first trial
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=rng.uniform(1, 15))
        else:
            wait_for(process, journal(home), "\n", count(journal(home), "\n") + rng.randint(3, 30))
        kill(process)
        for key, trial in recorded(home).items():
            if key in finished:
                assert trial == finished[key]
            elif trial.state.is_finished():
                finished[key] = trial
    process = start(home, *flags)
    assert process.wait(timeout=200) == 0, output.read_text()
    at_the_end = recorded(home)
    assert all(trial.state.is_finished() for trial in at_the_end.values())
    assert all(at_the_end[key] == trial for key, trial in finished.items())
    rows = pd.read_csv(home / RUN / "trials.csv")
    searched = rows[rows["stage"] == "search"]
    each = range(trials // 2)
    assert searched[["depth", "trial"]].to_numpy().tolist() == [[depth, number] for depth in (1, 2) for number in each]
    assert set(rows["state"]) <= {"complete", "stopped early"}
    complete = searched[searched["state"] == "complete"]
    assert (complete["evaluations"] == 4).all()
    confirmed = rows[rows["stage"] == "confirm"]
    assert sorted(confirmed["depth"]) == sorted(set(complete["depth"]))
    assert not list((home / RUN / "checkpoints").glob("*.training"))


@pytest.mark.timeout(7200)
def test_a_search_whose_processes_are_killed_in_any_phase_loses_nothing(tmp_path: Path) -> None:
    kill_processes(tmp_path, goal=int(os.environ.get("PKD_TUNE_KILLS", "10")), until=time.time() + 7000, seed=3)
    failures = tmp_path / "failures.txt"
    assert not failures.exists(), failures.read_text()


@pytest.mark.parametrize(
    ("number", "flags", "left_out"),
    [(signal.SIGINT, ("--onnx",), "ONNX, int8 and plots for papers"), (signal.SIGTERM, (), "plots for papers")],
    ids=["ctrl-c", "scheduler"],
)
def test_ctrl_c_leaves_a_report_and_the_same_command_continues(
    home: Path, number: int, flags: tuple[str, ...], left_out: str
) -> None:
    process = start(home, *flags)
    wait_for(process, journal(home), '"op_code":7', 1)  # a score
    process.send_signal(number)
    assert process.wait(timeout=120) == 130
    output = (home / "output.txt").read_text()
    assert f"interrupted: writing a report of the trials so far, without {left_out};" in output
    assert "the same command continues" in output
    assert "Traceback" not in output
    assert "***" not in output  # as Ray's own handler prints
    assert (home / RUN / "report.md").exists()
    assert not list((home / RUN / "plots").glob("*"))
    assert '"formats"' not in (home / RUN / "summary.json").read_text()
    process = start(home, *flags)
    assert process.wait(timeout=200) == 0
    assert list((home / RUN / "plots").glob("*"))
    assert ('"formats"' in (home / RUN / "summary.json").read_text()) == bool(flags)


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
