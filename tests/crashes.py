"""Searches one of whose processes is killed, in every phase, each until it ends; what they leave is checked.

    python tests/crashes.py FOLDER --kills 100 --until 21:10

kills as many times, and goes on where an earlier call stopped. Every kill is a line of FOLDER/kills.csv; a search with
which something was wrong stays in its folder, with the reason in FOLDER/failures.txt.
"""

import argparse
import csv
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
from killed_searches import RUN, Recorded, journal, recorded, start
from safetensors import safe_open
from tiny import SPACE, write_bert, write_mrpc

from pkd_tune.files import read_json

PHASES = ("start", "teacher", "outputs", "Ray", "search", "confirm", "ablation", "export", "report", "end")
VICTIMS = ("driver", "group", "gcs", "raylet", "agent", "trial", "worker")
"""`group` is the driver with all that it has started; an agent belongs to the raylet, and a worker runs no trial."""
WITHOUT_RAY = PHASES[:4]
"""In these there is no process but the driver, on a machine without GPUs."""
LONGEST_DELAY = {"start": 8, "teacher": 1, "Ray": 4, "search": 4, "confirm": 4, "ablation": 3, "export": 2}
"""Seconds after a phase has begun within which a process is killed; at once in phases that are over soon."""
FLAGS = ("--depths", "1", "2", "--trials", "4")
SPACE_OF_ALL_STAGES = SPACE.replace("seeds = 0", "seeds = 1").replace("control_trials = 0", "control_trials = 2")
KILLS_OF_A_SEARCH = 6
CREATE_STUDY, CREATE_TRIAL = 0, 4
"""Optuna's codes in a journal."""


@dataclass
class Search:
    """One search, which is killed and continued until it ends."""

    home: Path
    process: subprocess.Popen[str] | None = None
    began: float = 0.0
    said: int = 0
    """Bytes that earlier processes of it have written into output.txt."""
    killed: tuple[str, str] | None = None
    """The phase in which a process was killed last, and which."""
    finished: Recorded = field(default_factory=dict)
    """Trials that had ended at a kill; they must stay as they are."""

    def begin(self) -> None:
        output = self.home / "output.txt"
        self.said = output.stat().st_size if output.exists() else 0
        self.began = time.time()
        self.process = start(self.home, *FLAGS)

    def output(self) -> str:
        return (self.home / "output.txt").read_bytes()[self.said :].decode(errors="replace")

    def ended(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def phase(self) -> str:
        """Returns what the running process is doing, as its messages and files say."""
        text = self.output()
        new = [name for name in ("summary.json", "report.html") if self._is_new(self.home / RUN / name)]
        if new:
            return "end" if "report.html" in new else "report"
        if "exporting the best student" in text:
            return "export"
        if "search 0/" in text or "running" in text:
            return self._stage()
        if "teacher: tiny, 4 layers" in text:
            caches = self.home / "data/teacher_cache/MRPC"
            return "Ray" if len(list(caches.glob("*.safetensors"))) == 2 else "outputs"
        return "teacher" if "trials at once" in text or "trial at once" in text else "start"

    def _is_new(self, path: Path) -> bool:
        return path.exists() and path.stat().st_mtime > self.began

    def _stage(self) -> str:
        """Returns of which stage the trial is that was started last."""
        names, latest = [], ""
        for line in journal(self.home).read_bytes().split(b"\n")[:-1]:
            entry = json.loads(line)
            if entry["op_code"] == CREATE_STUDY:
                names.append(entry["study_name"])
            elif entry["op_code"] == CREATE_TRIAL:
                latest = names[entry["study_id"]]
        return {"confirmed": "confirm", "ablations": "ablation"}.get(latest.rpartition(" ")[2], "search")


def victims(process: subprocess.Popen[str]) -> dict[str, list[psutil.Process]]:
    """Returns the processes of a search by what they are."""
    found: dict[str, list[psutil.Process]] = {name: [] for name in VICTIMS}
    driver = psutil.Process(process.pid)
    found["driver"] = found["group"] = [driver]
    for child in driver.children(recursive=True):
        try:
            text = " ".join([child.name(), *child.cmdline()])
        except psutil.Error:
            continue
        if "ray::" in text:
            found["agent" if "Agent" in text else "trial" if "train" in text else "worker"].append(child)
        elif child.name() in ("gcs_server", "raylet"):
            found["gcs" if child.name() == "gcs_server" else "raylet"].append(child)
    return found


def own_processes(home: Path) -> list[psutil.Process]:
    """Returns all processes that a search in this folder has started, by the temporary folder it gave them."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("RAY_TMPDIR") == str(home / "tmp"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_once(search: Search, phase: str, victim: str, rng: random.Random) -> None:
    """Runs a search up to a phase, and kills a process of it; then the search ends by itself, or has been killed."""
    search.begin()
    search.killed = None
    process = search.process
    assert process is not None
    while not search.ended() and PHASES.index(search.phase()) < PHASES.index(phase):
        time.sleep(0.03)
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=rng.uniform(0, LONGEST_DELAY.get(phase, 0.05)))
    while not search.ended() and phase not in WITHOUT_RAY and not victims(process)[victim]:
        time.sleep(0.02)  # a trial begins soon, or the search ends
    if search.ended():
        return
    of_search, now = victims(process), search.phase()
    killed = victim if of_search[victim] else "driver"
    search.killed = now, killed
    if killed == "group":
        os.killpg(process.pid, signal.SIGKILL)
    else:
        rng.choice(of_search[killed]).kill()
    code = process.wait(timeout=300)
    text = search.output()
    if killed in ("driver", "group"):
        assert code == -signal.SIGKILL
    else:
        assert code == 0 or (code == 1 and "the same command continues" in text), f"exit code {code}"
    check_survivors(search)


def check_survivors(search: Search) -> None:
    """Checks that no process is left of a search that was killed, and no ended trial is gone or has changed."""
    left = own_processes(search.home)
    _, alive = psutil.wait_procs(left, timeout=200)  # agents of a dead raylet try for 90 s to reach a dead GCS
    names = [process.name() for process in alive if process.is_running()]
    for process in alive:
        process.kill()
    assert not names, f"still running: {names}"
    if not journal(search.home).exists():
        return
    for key, trial in recorded(search.home).items():
        if key in search.finished:
            assert trial == search.finished[key], f"{key} has changed"
        elif trial.state.is_finished():
            search.finished[key] = trial


def audit(search: Search, known: dict[tuple[Any, ...], float]) -> None:
    """Checks a search that has ended: every trial was run once, tables and journal agree, students can be loaded, and
    nothing is left behind. The same settings must have had the same score in other searches."""
    home, run = search.home, search.home / RUN
    at_the_end = recorded(home)
    assert all(trial.state.is_finished() for trial in at_the_end.values())
    assert all(at_the_end[key] == trial for key, trial in search.finished.items())
    rows = pd.read_csv(run / "trials.csv")
    searched = rows[(rows["stage"] == "search") & (rows["method"] == "pkd")]
    assert searched[["depth", "trial"]].to_numpy().tolist() == [[depth, n] for depth in (1, 2) for n in (0, 1)]
    assert set(rows["state"]) <= {"complete", "stopped early"}
    confirmed = rows[rows["stage"] == "confirm"].groupby(["depth", "method"])["seed"].apply(sorted)
    assert [*confirmed] == [[43.0]] * 6
    assert len(rows[rows["stage"] == "search"]) == 8
    ablations = rows[rows["stage"] == "ablation"].groupby(["depth", "method", "origin"])["seed"].apply(sorted)
    assert [*ablations] == [[43.0]] * len(ablations)
    titles = {"search": "{}", "confirm": "{} confirmed", "ablation": "{} ablations"}
    settings = list(rows.columns[rows.columns.get_loc("alpha") : -1])
    for row in rows[rows["state"] == "complete"].to_dict("records"):
        study = titles[row["stage"]].format(f"{row['depth']}-layer-{row['method']}")
        if row["stage"] == "search":
            assert abs(at_the_end[study, int(row["trial"])].value - row["score"]) < 1e-9
        key = tuple(str(row[name]) for name in ("depth", "seed", *settings))
        assert known.setdefault(key, row["score"]) == row["score"], f"{study} {row['trial']}: other scores elsewhere"
    summary = read_json(run / "summary.json")
    assert len(summary["students"]) == 6
    for student in summary["students"]:
        with safe_open(run / student["folder"] / "model.safetensors", "pt") as file:
            assert len(list(file.keys())) > 0
    assert "report of" in (run / "report.html").read_text() or (run / "report.html").stat().st_size > 10000
    assert [*(home / "tmp").glob("*")] == []
    unfinished = [path for path in home.rglob("*") if re.search(r"\.(partial|trainings?)$|^\.tmp", path.name)]
    assert unfinished == []
    assert "Traceback" not in (home / "output.txt").read_text()


def new_search(home: Path) -> Search:
    write_mrpc(home / "data" / "data_raw" / "MRPC")
    write_bert(home / "data" / "models" / "pretrained" / "tiny")
    (home / "space.toml").write_text(SPACE_OF_ALL_STAGES)
    return Search(home)


def next_kill(killed: Counter[tuple[str, str]], reached: str, rng: random.Random) -> tuple[str, str]:
    """Returns a phase that is still to come, and a victim, of those that were killed least often."""
    pairs = [
        (phase, victim)
        for phase in PHASES[PHASES.index(reached) :]
        for victim in (VICTIMS[:2] if phase in WITHOUT_RAY else VICTIMS)
    ]
    return min(pairs, key=lambda pair: (killed[pair], PHASES.index(pair[0]), rng.random()))


def kill_processes(folder: Path, goal: int, until: float, seed: int) -> Counter[tuple[str, str]]:
    """Kills processes of searches until there were so many kills, or it is too late.

    Returns:
        How often a process was killed in each phase, those of earlier calls included. What was wrong is in
        failures.txt.
    """
    rng, known = random.Random(seed), dict[tuple[Any, ...], float]()
    table = folder / "kills.csv"
    folder.mkdir(parents=True, exist_ok=True)
    before = [tuple(row[:2]) for row in csv.reader(table.open())] if table.exists() else []
    killed = Counter((phase, victim) for phase, victim in before)
    number = len([*folder.glob("search-*")]) + len(before)
    while killed.total() < goal and time.time() < until:
        number += 1
        search = new_search(folder / f"search-{number}")
        reached, ended = PHASES[0], False
        try:
            for _ in range(KILLS_OF_A_SEARCH):
                if ended or killed.total() >= goal or time.time() > until:
                    break
                wanted = next_kill(killed, reached, rng)
                try:
                    kill_once(search, *wanted, rng)
                finally:
                    if search.killed is not None:
                        killed[search.killed] += 1
                        with table.open("a") as file:
                            csv.writer(file).writerow([*search.killed, search.home.name])
                        print(f"{datetime.now():%H:%M:%S} {search.home.name}: {' '.join(search.killed)}", flush=True)
                ended = search.process is not None and search.process.returncode == 0
                reached = max(reached, wanted[0], key=PHASES.index)
            if not ended:
                search.begin()
                assert search.process is not None
                assert search.process.wait(timeout=600) == 0, search.output()[-3000:]
                check_survivors(search)
            audit(search, known)
            shutil.rmtree(search.home)
        except (AssertionError, subprocess.TimeoutExpired, OSError, KeyError, ValueError):
            for process in own_processes(search.home):
                process.kill()
            with (folder / "failures.txt").open("a") as file:
                file.write(f"{search.home.name}, after {search.killed}:\n{traceback.format_exc()}\n")
    return killed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--until", default="23:59", help="HH:MM today")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    hour, minute = map(int, args.until.split(":"))
    until = datetime.now().replace(hour=hour, minute=minute, second=0).timestamp()
    killed = kill_processes(args.folder.resolve(), args.kills, until, args.seed)
    for index, names in ((0, PHASES), (1, VICTIMS)):
        print({name: sum(count for pair, count in killed.items() if pair[index] == name) for name in names})
    failures = args.folder / "failures.txt"
    sys.exit(failures.read_text() if failures.exists() else 0)


if __name__ == "__main__":
    main()
