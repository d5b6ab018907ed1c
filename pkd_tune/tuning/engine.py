"""Starts Ray, runs the trials of the studies to their end, and stops Ray again."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pkd_tune.config import SearchConfig
from pkd_tune.distillation.teacher import Teacher

# Ray reads these when it is imported. Its own progress tables, tips and usage reports have no place in our output.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

import ray
from ray import tune

from pkd_tune.tuning.progress import SearchBar
from pkd_tune.tuning.scheduler import StudyScheduler
from pkd_tune.tuning.searcher import StudySearcher, assignment_of
from pkd_tune.tuning.slots import Slots
from pkd_tune.tuning.study import Assignment, Studies
from pkd_tune.tuning.trial import checkpoint_path, run_trial

OBJECT_STORE_BYTES = 128 * 2**20
"""Nothing large goes through Ray's object store: trials read the shared files themselves."""


def run_search(search: SearchConfig, teacher: Teacher, studies: Studies, run_dir: Path, slots: Slots) -> None:
    """Runs trials until every depth has its quota, or until Ctrl-C.

    Every trial's suggestion, scores and end are in the studies; TensorBoard events, one folder per trial, and Ray's own
    records are under `ray/` in the run folder, the best weights of complete trials under `checkpoints/`.
    """
    checkpoints = run_dir / "checkpoints"
    remove_leftovers(studies, checkpoints)
    trainable = tune.with_parameters(
        run_trial, search=search, teacher=teacher, device=slots.device, checkpoints=checkpoints
    )
    resources = {"cpu": 1, "gpu": 1} if slots.device == "cuda" else {"cpu": 1}
    bar = SearchBar(studies)
    try:
        with ray_of(slots, run_dir / "ray-start.log"):
            tune.Tuner(
                tune.with_resources(trainable, resources),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(studies),
                    scheduler=StudyScheduler(studies),
                    num_samples=-1,
                    max_concurrent_trials=slots.count,
                    reuse_actors=True,
                    trial_dirname_creator=_trial_name,
                    trial_name_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name="ray",
                    storage_path=str(run_dir),
                    callbacks=[bar, KeepBestWeights(studies, checkpoints)],
                    verbose=0,
                ),
            ).fit()
    finally:
        bar.close()


@contextmanager
def ray_of(slots: Slots, log: Path) -> Iterator[None]:
    """Starts a Ray of this machine alone, a CPU or GPU per slot, and stops it; what its core says goes to the log."""
    with _stderr_to(log):
        ray.init(
            address="local",
            _node_ip_address="127.0.0.1",  # listen on loopback only
            num_cpus=slots.count,
            num_gpus=slots.count if slots.device == "cuda" else 0,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    # How trials end is in the journal, and the report says it; Ray would print a traceback for each.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray.shutdown()


def remove_leftovers(studies: Studies, checkpoints: Path) -> None:
    """Deletes weights that a killed search left behind: all but those of the best trial of each depth."""
    best = {depth: studies.best(depth) for depth in studies.quota}
    kept = {
        checkpoint_path(checkpoints, Assignment(depth, trial.number))
        for depth, trial in best.items()
        if trial is not None
    }
    for path in checkpoints.glob("depth-*"):
        if path.is_file() and path not in kept:
            path.unlink()


class KeepBestWeights(tune.Callback):
    """Deletes the weights of every complete trial but the best of each depth, so that the disk does not fill."""

    def __init__(self, studies: Studies, checkpoints: Path) -> None:
        self.studies = studies
        self.checkpoints = checkpoints

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Deletes what the trial that just ended has outdone, or what it saved in vain."""
        for assignment in self.studies.outdone(assignment_of(trial.config).depth):
            checkpoint_path(self.checkpoints, assignment).unlink(missing_ok=True)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles callbacks, and the journal is what lasts."""
        return {}


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Sends what this process writes to standard error to the end of a file, C++ libraries included.

    Ray's core says there what it finds odd about a machine, such as having no network; no setting of it keeps it quiet.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def _trial_name(trial: Any) -> str:
    return assignment_of(trial.config).name
