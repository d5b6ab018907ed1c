"""Searches on a real Ray: trials that complete, that fail or are interrupted, and many of them."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import trainables
from runner_runs import ALPHA, ONE, TWO, directly, plans, search
from studies import seen

from pkd_tune.config import MachineError, Method
from pkd_tune.tuning import cluster
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.ray_bridge import StudySearcher
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.runner import (
    KEEP_BEST,
    TrialCleanup,
    delete_half_written_files,
    delete_stale_files,
    disk_bytes,
)
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.time_limit import TimeLimit
from pkd_tune.tuning.trial import TrialContext
from pkd_tune.tuning.trial_tables import trial_rows


@pytest.fixture(scope="module")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Ray on two cores, for all searches of this module."""
    with cluster.local_cluster(TWO, tmp_path_factory.mktemp("ray") / "log"):
        yield


@pytest.fixture
def context(context: TrialContext, ray_cluster: None, tmp_path: Path) -> TrialContext:
    """Returns what the trials of a test share, while Ray runs; nodes keep a test's files apart from another's."""
    return replace(context, scratch=tmp_path / "scratch")


def test_trials_in_one_process_score_what_each_scores_alone(
    context: TrialContext, tiny_space: Path, tmp_path: Path
) -> None:
    """First or last in a process, in the search or as a confirmation; a bad trial before changes nothing."""
    rates = (1e30, 2e-3, 3e-3)
    studies = Studies(
        tmp_path / "study.log", plans(tiny_space, (2, 3), learning_rates=rates), seeds=(7,), early_stopping=False
    )
    rows = search(context, studies)
    assert [row["state"] for row in rows] == ["failed", "complete", "complete", "complete"]
    assert "not finite" in rows[0]["error"]
    assert rows[3]["seed"] == 7
    study_key = StudyKey(2, "pkd")
    for stage, trials in (("search", studies.trials(study_key)[1:]), ("confirm", studies.trials(study_key, "confirm"))):
        for trial in trials:
            seed = 7 if stage == "confirm" else None
            seen = directly(context, 2, studies.settings(study_key, trial), seed)
            assert trial.intermediate_values == {e.number: e.metrics["score"] for e in seen}
            assert trial.value == max(trial.intermediate_values.values())
    winner = studies.best(study_key)
    assert winner is not None
    files = {path.name for path in context.artifacts.folder.iterdir()}
    assert files == {
        "2-layer-pkd-trial-0001.safetensors",
        "2-layer-pkd-trial-0002.safetensors",
        "2-layer-pkd-confirm-0000.predictions",
    }


@pytest.mark.slow
@pytest.mark.parametrize("uri", [None, pytest.param("file://{}/far", marks=pytest.mark.slow)], ids=["folder", "uri"])
def test_a_killed_process_costs_its_trial_an_epoch_at_most_and_a_hung_one_is_given_up(
    context: TrialContext, tiny_space: Path, tmp_path: Path, uri: str | None
) -> None:
    """And where files lie at a URI, nothing of them stays on the machine that ran the trials."""
    artifacts = ArtifactStore(tmp_path / "checkpoints", uri and uri.format(tmp_path))
    studies = Studies(tmp_path / "study.log", plans(tiny_space, (2, 3)), early_stopping=False)
    rows = search(replace(context, artifacts=artifacts), studies, trainables.killed_then_hasty)
    weights = {f"2-layer-pkd-trial-000{number}.safetensors" for number in (0, 1)}
    assert {path.name for path in artifacts.folder.iterdir()} == (weights if uri is None else set())
    assert artifacts.names() == weights
    assert (tmp_path / "2-layer-pkd-trial-0000.killed").exists()
    assert [row["state"] for row in rows] == ["complete", "complete", "failed"]
    study_key = StudyKey(2, "pkd")
    for trial in studies.trials(study_key)[:2]:
        seen = directly(context, 2, studies.settings(study_key, trial))
        assert trial.intermediate_values == {e.number: e.metrics["score"] for e in seen}
    assert rows[2]["error"] == "took longer than 0.05 seconds"
    log = (tmp_path / "run.log").read_text()
    assert "the trial is restarted" in log
    assert "File" in log  # where the last one hung


def test_a_process_that_is_killed_between_two_trials_costs_no_trial(context: TrialContext, tmp_path: Path) -> None:
    """It dies as Ray makes it ready for its next trial, which Ray then gives up at once, and so does the next."""
    studies = Studies(tmp_path / "study.log", [StudyPlan(study_key=StudyKey(2, "pkd"), quota=5, parameters=ALPHA)])
    rows = search(context, studies, trainables.killed_when_done, run_dir=tmp_path)
    assert [row["state"] for row in rows] == ["complete"] * 5
    assert len(list(tmp_path.glob("*.killed"))) == 2
    assert (tmp_path / "run.log").read_text().count("the trial is restarted") == 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Yields a folder on a file system of its own that is soon full."""
    folder = tmp_path / "small disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no file system may be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.slow
def test_a_process_that_has_grown_is_replaced_and_the_log_says_so(
    context: TrialContext, tiny_space: Path, tmp_path: Path
) -> None:
    rates = (2e-3, 3e-3, 4e-3, 5e-3)
    studies = Studies(tmp_path / "study.log", plans(tiny_space, (1, 4), learning_rates=rates), early_stopping=False)
    rows = search(context, studies, trainables.growing)
    assert [row["state"] for row in rows] == ["complete"] * 4
    log = (tmp_path / "run.log").read_text()
    assert "1-layer-pkd-trial-0002: started" not in log
    assert "1-layer-pkd-trial-0003: started in a new process: its process holds" in log


@pytest.mark.slow
def test_a_full_disk_stops_the_search_in_one_line_and_uses_up_no_trial(
    context: TrialContext, tiny_space: Path, tmp_path: Path, small_disk: Path
) -> None:
    """The second trial finds it full. With space again, the same search goes on where it stopped."""
    context = replace(context, artifacts=ArtifactStore(small_disk))
    plan = plans(tiny_space, (1, 3))
    studies = Studies(tmp_path / "study.log", plan, early_stopping=False)
    with pytest.raises(MachineError) as raised:
        search(context, studies, trainables.filling_the_disk, run_dir=tmp_path)
    name = "1-layer-pkd-trial-0001"
    assert re.fullmatch(f"{name}: .*/{name}[.a-z]*: No space left on device; free some space there", str(raised.value))
    assert [row["state"] for row in trial_rows(studies)] == ["complete", "interrupted"]
    assert "Traceback" in (tmp_path / "run.log").read_text()
    (small_disk / "filler").unlink()
    rows = search(context, Studies(tmp_path / "study.log", plan, early_stopping=False), run_dir=tmp_path)
    assert [row["state"] for row in rows] == ["complete"] * 3


@pytest.mark.slow
def test_a_trial_uses_the_cores_it_was_given_and_halves_a_batch_that_does_not_fit_once(
    context: TrialContext, tiny_space: Path, tmp_path: Path
) -> None:
    studies = Studies(tmp_path / "study.log", plans(tiny_space, (1, 2)), early_stopping=False)
    two_cores = replace(context, resources=replace(ONE, threads=2))
    rows = search(two_cores, studies, trainables.short_of_memory)
    assert (tmp_path / "threads").read_text() == "2"
    assert [row["state"] for row in rows] == ["complete", "failed"]
    assert "out of memory with batches of 16 in halves" in rows[1]["error"]
    last = studies.trials(StudyKey(1, "pkd"))[0].user_attrs["evaluation 4"]
    assert last["micro_batches"] == 2


@pytest.mark.slow
def test_trials_that_run_at_the_time_limit_are_stopped_and_continue(context: TrialContext, tmp_path: Path) -> None:
    """They would have waited for ever; with more time, the same trials go on, and none is used up."""
    plan = [StudyPlan(study_key=StudyKey(2, "pkd"), quota=2, parameters=ALPHA)]
    limit = TimeLimit(time.monotonic() + 1.0, slots=2)
    studies = Studies(tmp_path / "study.log", plan, time_limit=limit)
    rows = search(context, studies, trainables.waiting, run_dir=tmp_path)
    assert {row["state"] for row in rows} == {"interrupted"}
    assert studies.is_out_of_time()
    assert studies.unfinished() == 2
    (tmp_path / "go").touch()
    rows = search(context, Studies(tmp_path / "study.log", plan), trainables.waiting, run_dir=tmp_path)
    assert [(row["trial"], row["state"]) for row in rows] == [(0, "complete"), (1, "complete")]


def test_a_trial_whose_process_died_too_often_stops_the_search_and_has_not_failed(tmp_path: Path) -> None:
    studies = Studies(tmp_path / "study.log", [StudyPlan(study_key=StudyKey(2, "pkd"), quota=1, parameters=ALPHA)])
    config = StudySearcher(studies).suggest("a")
    (tmp_path / "error.txt").write_text("Failure # 1\nTraceback\nActorDiedError: " + "it is dead " * 40 + "\n")
    trial: Any = SimpleNamespace(config=config, error_file=str(tmp_path / "error.txt"), num_failures=4)
    cleanup = TrialCleanup(studies, ArtifactStore(tmp_path))
    cleanup.on_step_end(1, [])
    cleanup.on_trial_error(1, [], trial)
    with pytest.raises(MachineError, match=r"its process died 4 times \(ActorDiedError: it is dead.*free some memory"):
        cleanup.on_step_end(1, [])
    (row,) = trial_rows(studies)
    assert row["state"] == "interrupted"


def test_the_most_that_files_of_trials_take() -> None:
    """Each of 3 running trials has two states of 4 tensors per weight, each of 2 studies 3 best weights and one."""
    assert disk_bytes(10, 2, Resources(cpu_trials=3)) == 10 * (3 * 2 * 4 + 2 * 4)


def test_weights_and_states_of_a_killed_search_do_not_pile_up(tmp_path: Path) -> None:
    study_key = StudyKey(2, "pkd")
    studies = Studies(tmp_path / "study.log", [StudyPlan(study_key=study_key, quota=KEEP_BEST + 2, parameters=ALPHA)])
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for number in range(KEEP_BEST + 2):
        asked = studies.ask()
        assert asked is not None
        if number <= KEEP_BEST:
            studies.report(asked[0], 1, 70.0 + number, seen(1.0, 70.0 + number))
            studies.complete(asked[0])
        for kind in ("safetensors", "training", "safetensors.partial"):
            (folder / f"{TrialId(study_key, 'search', number).name}.{kind}").touch()
    delete_stale_files(studies, ArtifactStore(folder))
    assert sorted(path.name for path in folder.iterdir()) == [
        *(f"2-layer-pkd-trial-000{number}.safetensors" for number in range(1, KEEP_BEST + 1)),
        f"2-layer-pkd-trial-000{KEEP_BEST + 1}.training",  # still running: it goes on from there
    ]


def test_half_written_files_of_killed_processes_are_deleted_and_no_others(tmp_path: Path) -> None:
    whole = TrialId(StudyKey(2, "pkd"), "search", 0).name
    for name in (f"{whole}.safetensors", f".{whole}.safetensors.123.partial", ".tmp1Ab2Cd"):
        (tmp_path / name).touch()
    delete_half_written_files(ArtifactStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [f"{whole}.safetensors"]


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    code = """
import resource, sys, torch
from pathlib import Path
from pkd_tune.distillation.checkpoint import (write_tensors)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_tensors(Path(sys.argv[1]), {"a": torch.zeros(100_000)})
except OSError as error:
    print("refused:", error.filename, error.strerror)
"""
    path = tmp_path / "weights.safetensors"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.stdout == f"refused: {path} File too large\n", done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_thousand_instant_trials(context: TrialContext, tmp_path: Path) -> None:
    """Two depths share them; the driver stays small and quick, and so does the run's folder."""
    study_keys: list[tuple[int, Method]] = [(1, "pkd"), (2, "pkd")]
    studies = Studies(
        tmp_path / "study.log",
        [StudyPlan(study_key=StudyKey(*study_key), quota=500, parameters=ALPHA) for study_key in study_keys],
    )
    worked = time.process_time()
    rows = search(replace(context, resources=TWO), studies, trainables.instant)
    worked = time.process_time() - worked
    assert len(rows) == 1000
    late, last = sorted(datetime.fromisoformat(row["started"]) for row in rows)[-101::100]
    apart = (last - late).total_seconds() / 100
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    held = psutil.Process().memory_info().rss
    print(f"{worked / 1000:.3f} s of the driver per trial; the last 100 trials began {apart:.3f} s apart")
    print(f"{held / 1e6:.0f} MB in the driver, {size / 1e6:.1f} MB on disk")
    assert held < 1e9
    assert size < 100e6
    for depth, method in study_keys:
        best = studies.best(StudyKey(depth, method))
        assert best is not None
        assert abs(best.params["alpha"] - 0.5) < 0.01
