"""Runs the trials of the studies on Ray, and deletes files of trials that are no longer needed."""

import logging
import signal
import sys
import textwrap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.error import TuneError
from tqdm import tqdm

from pkd_tune.config import MachineError
from pkd_tune.files import RAY, REASON_LENGTH, RUN_LOG, machine_failure
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.plan import TrialId
from pkd_tune.tuning.progress import SearchProgress
from pkd_tune.tuning.ray_bridge import StudyScheduler, StudySearcher, trial_id_of
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import STUDY_NAMES, Studies
from pkd_tune.tuning.tensorboard import TensorBoardLogger
from pkd_tune.tuning.trial import TrialContext, predictions_name, run_trial, state_name, weights_name

log = logging.getLogger(__name__)

KEEP_BEST = 3
"""Best trials of each depth and method whose weights stay on disk."""

RESTARTS = 3
"""Times a trial is restarted after its process died or was replaced."""


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
    """Runs trials until the studies have no more, until Ctrl-C, or until the machine fails. Ray must have been started.

    At the studies' time limit, running trials are stopped as by Ctrl-C: they continue when the search does.

    Settings, scores and states of all trials are recorded in the studies; TensorBoard's events go to `ray/` in the run
    folder, the files of trials to the context's artifacts, and messages about processes to `run.log`.

    Args:
        context: What all trials share.
        studies: Suggest the trials and record them.
        run_dir: The run's folder.
        location: The run's folder or URI that all nodes see, for Ray's records; None: `run_dir`.
        loggers: Services that receive every result as well: wandb, mlflow.
        quiet: Whether to show no progress bar.
        verbose: Whether to show the messages of `run.log` as well.
        trainable: The function that runs a trial.

    Raises:
        MachineError: When files or memory were refused, or a trial's process died too often. No trial is recorded as
            failed for it; those that were running continue when the search does.
    """
    delete_stale_files(studies, context.artifacts)
    bar = SearchProgress(studies)
    callbacks: list[tune.Callback] = [] if quiet else [bar]
    # The journal records how trials end; Ray would print a traceback for each.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    services: list[tune.Callback] = []
    if loggers:
        from pkd_tune.tuning.services import service_callbacks  # imports these services

        services = service_callbacks(loggers, run_dir)
    at_ctrl_c = signal.getsignal(signal.SIGINT)
    try:
        with _log_to(run_dir / RUN_LOG, show=verbose):
            tune.Tuner(
                tune.with_resources(
                    tune.with_parameters(trainable, context=context), context.resources.trial_resources
                ),
                tune_config=tune.TuneConfig(
                    search_alg=StudySearcher(studies),
                    scheduler=StudyScheduler(studies),
                    num_samples=-1,
                    max_concurrent_trials=context.resources.count,
                    time_budget_s=None if studies.time_limit is None else max(0.1, studies.time_limit.left()),
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
                        TrialCleanup(studies, context.artifacts),
                        TensorBoardLogger(run_dir / RAY),
                        *services,
                    ],
                    verbose=0,
                ),
            ).fit()
        delete_half_written_files(context.artifacts)
    except TuneError as error:
        # Ray wraps what its callbacks raise, as when the journal or TensorBoard's events cannot be written.
        inner: BaseException | None = error
        while inner is not None:
            if reason := machine_failure(inner):
                raise MachineError(reason) from error
            inner = inner.__cause__ or inner.__context__
        raise
    finally:
        if threading.current_thread() is threading.main_thread() and at_ctrl_c is not None:
            signal.signal(signal.SIGINT, at_ctrl_c)  # Ray leaves a handler of its own, which ignores the next Ctrl-C
        bar.close()


def disk_bytes(weights: int, study_keys: int, resources: Resources) -> int:
    """Returns the most bytes that trials' files take at once.

    A running trial has a training state with its weights, its best weights and two moments of the optimiser, and writes
    the next before it deletes the last; a complete trial has its best weights.

    Args:
        weights: Bytes of the deepest student.
        study_keys: Number of studies, each of which keeps weights.
        resources: Of the search.
    """
    return weights * (2 * 4 * resources.count + (KEEP_BEST + 1) * study_keys)


def delete_stale_files(studies: Studies, artifacts: ArtifactStore) -> None:
    """Deletes files that a killed search left behind: all but those of running, best and confirming trials."""
    kept = set()
    for study_key in studies.plans:
        best = [TrialId(study_key, "search", trial.number) for trial in studies.ranking(study_key)[:KEEP_BEST]]
        kept |= {weights_name(trial_id) for trial_id in best}
        for stage in STUDY_NAMES:
            for trial in studies.trials(study_key, stage):
                trial_id = TrialId(study_key, stage, trial.number)
                if trial.state.name == "RUNNING":
                    kept.add(state_name(trial_id))
                if stage != "search":
                    kept.add(predictions_name(trial_id))
    for name in artifacts.names() - kept:
        artifacts.delete(name)


def delete_half_written_files(artifacts: ArtifactStore) -> None:
    """Deletes what processes left that were killed while they wrote a file; none may be writing any more.

    Files are written under names that begin with a dot, those of safetensors included, and then renamed.
    """
    for name in artifacts.names():
        if name.startswith("."):
            artifacts.delete(name)


class TrialCleanup(tune.Callback):
    """Stops the search where the machine failed, and deletes the files of ended trials but for the best few weights."""

    def __init__(self, studies: Studies, artifacts: ArtifactStore) -> None:
        self.studies = studies
        self.artifacts = artifacts
        self.failure: str | None = None
        self.died: Counter[TrialId] = Counter()
        """How often the process of a trial died that Ray gave up too early."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Deletes the training state of an ended trial, and the weights of trials that are no longer among the best."""
        if "machine" in trial.last_result:
            self.failure = trial.last_result["machine"]
            return
        trial_id = trial_id_of(trial.config)
        try:
            self.artifacts.delete(state_name(trial_id))
            for outdone in self.studies.ranking(trial_id.study_key)[KEEP_BEST:]:
                self.artifacts.delete(weights_name(TrialId(trial_id.study_key, "search", outdone.number)))
        except OSError as error:  # Ray would swallow it, and run the trial again, which has ended
            reason = machine_failure(error) or f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.failure = f"files of {trial_id.name} cannot be deleted: {reason}"

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Continues a trial that Ray gave up too early; notes why the process of any other died too often.

        Ray counts the death of a process twice that dies while it is made ready for its next trial, and then restarts
        the trial no more, however few deaths it has counted.
        """
        trial_id = trial_id_of(trial.config)
        if self.died[trial_id] + trial.num_failures <= RESTARTS:
            self.died[trial_id] += trial.num_failures - 1
            self.studies.interrupt(trial_id)
            return
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        lines = text.strip().splitlines() or ["killed, perhaps for memory"]
        log.error("%s: its process died too often\n%s", trial_id.name, text)
        last_line = textwrap.shorten(lines[-1], REASON_LENGTH)
        self.failure = (
            f"{trial_id.name}: its process died {RESTARTS + 1} times ({last_line}); free some memory, or run fewer "
            f"trials at once; {RUN_LOG} says more"
        )

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Ends the search after a failure of the machine.

        Raises:
            MachineError: With the reason.
        """
        if self.failure is not None:
            raise MachineError(self.failure)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Logs that a trial is restarted."""
        log.info("%s: its process died; the trial is restarted", trial_id_of(trial.config).name)

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray pickles callbacks, but the journal is the only state."""
        return {}


class TqdmHandler(logging.Handler):
    """Prints log messages above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a message."""
        tqdm.write(self.format(record), file=sys.stderr)


@contextmanager
def _log_to(path: Path, *, show: bool) -> Iterator[None]:
    """Redirects log messages of this package, and what Ray prints of dead processes, to a file."""
    logger = logging.getLogger("pkd_tune.tuning")
    with path.open("a", encoding="utf-8") as file, redirect_stdout(file):
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        logger.addHandler(handler)
        shown = TqdmHandler()
        if show:
            logger.addHandler(shown)
        logger.propagate = False
        logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            logger.propagate = True
            logger.removeHandler(handler)
            logger.removeHandler(shown)


def _trial_name(trial: Any) -> str:
    return trial_id_of(trial.config).name
