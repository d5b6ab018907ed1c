"""Runs the trials of the studies on Ray to their end, and keeps their files in bounds."""

import logging
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pkd_tune.tuning.cluster  # noqa: F401 - first: it sets what Ray reads when it is imported

from ray import tune  # isort: skip
from tqdm import tqdm

from pkd_tune.files import RAY, REASON_LENGTH, RUN_LOG
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.plan import TrialId
from pkd_tune.tuning.progress import SearchProgress
from pkd_tune.tuning.ray_bridge import StudyScheduler, StudySearcher, trial_id_of
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.tensorboard import TensorBoardLogger
from pkd_tune.tuning.trial import TrialContext, predictions_name, run_trial, state_name, weights_name

KEPT_WEIGHTS = 3
"""Complete trials of each depth and method whose best weights stay on disk."""

RESTARTS = 3
"""Times a trial is started again after its process died, or was replaced."""


def run_search(
    context: TrialContext,
    studies: Studies,
    run_dir: Path,
    *,
    location: str | None = None,
    loggers: Sequence[str] = (),
    quiet: bool = False,
    verbose: bool = False,
    trainable: Callable[..., None] = run_trial,
) -> None:
    """Runs trials until the studies have no more, or until Ctrl-C. Ray must have been started.

    Every trial's suggestion, scores and end are in the studies; TensorBoard's events are under `ray/` in the run
    folder, the files of trials in the context's, and what happened to processes in `run.log`.

    Args:
        context: What all trials share.
        studies: Say what is to be run, and remember how it went.
        run_dir: The run's folder.
        place: The run's own folder or URI that all nodes see, for Ray's records; None: the run's folder.
        loggers: Services that get every result as well: wandb, mlflow.
        quiet: Whether there is no progress bar.
        verbose: Whether what goes to `run.log` is shown as well.
        trainable: What a trial runs.
    """
    remove_leftovers(studies, context.artifacts)
    bar = SearchProgress(studies, context.search.student_training.epochs)
    callbacks: list[tune.Callback] = [] if quiet else [bar]
    # How trials end is in the journal, and the report says it; Ray would print a traceback for each.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with _log_to(run_dir / RUN_LOG, show=verbose):
            tune.Tuner(
                tune.with_resources(tune.with_parameters(trainable, context=context), context.resources.trial_resources),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(studies),
                    scheduler=StudyScheduler(studies),
                    num_samples=-1,
                    max_concurrent_trials=context.resources.count,
                    reuse_actors=True,
                    trial_dirname_creator=_trial_name,
                    trial_name_creator=_trial_name,
                ),
                run_config=tune.RunConfig(
                    name=RAY,
                    storage_path=location or str(run_dir),
                    failure_config=tune.FailureConfig(max_failures=RESTARTS),
                    callbacks=[
                        *callbacks,
                        Housekeeping(studies, context.artifacts),
                        TensorBoardLogger(run_dir / RAY),
                        *_service_callbacks(loggers, run_dir),
                    ],
                    verbose=0,
                ),
            ).fit()
    finally:
        signal.signal(signal.SIGINT, at_ctrl_c)  # Ray leaves its own there, which would ignore the next Ctrl-C
        bar.close()


def disk_bytes(weights: int, study_keys: int, resources: Resources) -> int:
    """Returns the most bytes that trials' files take at once.

    A running trial keeps a state of its weights, its best weights and two moments of the optimiser, and writes the
    next before it gives up the last; an ended one, its best weights.

    Args:
        weights: Bytes of the deepest student.
        studies: Depths and methods, each of which has winners.
        slots: Say how many trials run at once.
    """
    return weights * (2 * 4 * resources.count + (KEPT_WEIGHTS + 1) * study_keys)


def remove_leftovers(studies: Studies, artifacts: ArtifactStore) -> None:
    """Deletes what a killed search left behind: all but what belongs to running, winning and confirming trials."""
    kept = set()
    for study_key in studies.plans:
        best = [TrialId(study_key, "search", trial.number) for trial in studies.ranking(study_key)[:KEPT_WEIGHTS]]
        kept |= {weights_name(trial_id) for trial_id in best}
        for stage in ("search", "confirm"):
            for trial in studies.trials(study_key, stage):
                if trial.state.name == "RUNNING":
                    kept.add(state_name(TrialId(study_key, stage, trial.number)))
        kept |= {
            predictions_name(TrialId(study_key, "confirm", t.number)) for t in studies.trials(study_key, "confirm")
        }
    for name in artifacts.names() - kept:
        artifacts.delete(name)


class Housekeeping(tune.Callback):
    """Ends trials that Ray has given up, and deletes files that are not needed: the disk must not fill.

    What stays is the best weights of the best few trials.
    """

    def __init__(self, studies: Studies, artifacts: ArtifactStore) -> None:
        self.studies = studies
        self.artifacts = artifacts

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Deletes what the trial that just ended has outdone, or what it saved in vain."""
        trial_id = trial_id_of(trial.config)
        self.artifacts.delete(state_name(trial_id))
        for outdone in self.studies.ranking(trial_id.study_key)[KEPT_WEIGHTS:]:
            self.artifacts.delete(weights_name(TrialId(trial_id.study_key, "search", outdone.number)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Ends a trial whose process died too often, with the last line of its error for a reason."""
        trial_id = trial_id_of(trial.config)
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        lines = text.strip().splitlines() or ["the trial's process died"]
        logging.getLogger(__name__).error("%s: given up\n%s", trial_id.name, text)
        self.studies.fail(trial_id, textwrap.shorten(lines[-1], REASON_LENGTH))
        self.artifacts.delete(state_name(trial_id))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes that a trial is started again."""
        logging.getLogger(__name__).info("%s: its process ended; it is started again", trial_id_of(trial.config).name)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles callbacks, and the journal is what lasts."""
        return {}


def _service_callbacks(names: Sequence[str], run_dir: Path) -> list[tune.Callback]:
    """Returns Ray's own callbacks that send results to a service."""
    callbacks: list[tune.Callback] = []
    if "wandb" in names:
        from ray.air.integrations.wandb import WandbLoggerCallback

        callbacks.append(WandbLoggerCallback(project="pkd_tune", group=run_dir.name))
    if "mlflow" in names:
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        callbacks.append(MLflowLoggerCallback(experiment_name=f"pkd_tune {run_dir.parent.name} {run_dir.name}"))
    return callbacks


class BesideTheBar(logging.Handler):
    """Prints messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one."""
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _log_to(path: Path, *, show: bool) -> Iterator[None]:
    """Sends what this room logs, and what Ray prints of dead processes, to a file and not to the terminal."""
    room = logging.getLogger("pkd_tune.tuning")
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file):
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        room.addHandler(handler)
        shown = BesideTheBar()
        if show:
            room.addHandler(shown)
        room.propagate = False
        room.setLevel(logging.INFO)
        try:
            yield
        finally:
            room.propagate = True
            room.removeHandler(handler)
            room.removeHandler(shown)


def _trial_name(trial: Any) -> str:
    return trial_id_of(trial.config).name
