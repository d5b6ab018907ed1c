"""TensorBoard events of a search: scalars of every evaluation, and the settings of each trial for the HParams tab.

Ray's own logger for TensorBoard writes everything that a result holds, process ids and clocks included, and copies it
to the run's folder only now and then; this one writes there at once.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray.tune.logger import LoggerCallback
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from pkd_tune.tuning.ray_bridge import trial_id_of

SCALARS = ("score", "best_score", "gradient_norm", "learning_rate")
GROUPS = ("metrics", "loss", "teacher")
"""Parts of a result that hold numbers by name: the task's metrics, the terms of the loss, and the similarity to the
teacher."""

METRICS = ("best_score", "score")
"""Metrics in the HParams tab: the score that the search maximises, and that of the last evaluation."""


class TensorBoardLogger(LoggerCallback):
    """Writes a folder of events for every trial, named like the trial."""

    def __init__(self, folder: Path) -> None:
        """Prepares to write.

        Args:
            folder: Of all trials; what TensorBoard is given as --logdir.
        """
        super().__init__()
        self.folder = folder
        self.writers: dict[str, SummaryWriter] = {}

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:
        """Adds the scalars of an evaluation; its number is the step."""
        if "evaluation" not in result:
            return
        step, name = result["evaluation"], trial_id_of(trial.config).name
        if name not in self.writers:
            # A restarted trial repeats the evaluations since its last epoch: purge_step hides the earlier ones.
            # Files are named after the second, in which two may begin.
            writer = SummaryWriter(str(self.folder / name), purge_step=step, filename_suffix=f".{step:04}")
            self.writers[name] = writer
            for summary in _hparams(trial.config)[:2]:
                self.writers[name].file_writer.add_summary(summary)
        for tag, value in scalars(result):
            self.writers[name].add_scalar(tag, value, step)
        self.writers[name].flush()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Closes the trial's file; marks the trial as successful where it was."""
        if (writer := self.writers.pop(trial_id_of(trial.config).name, None)) is None:
            return
        if not failed and "failure" not in trial.last_result:
            writer.file_writer.add_summary(_hparams(trial.config)[2])
        writer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray pickles callbacks, and open files belong to one process."""
        return {}


def scalars(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields the scalars of a result: tag and value."""
    for name in SCALARS:
        if name in result:
            yield name, result[name]
    for group in GROUPS:
        for name, value in result.get(group, {}).items():
            yield f"{group}/{name}", value


def _hparams(config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Returns the summaries that give the HParams tab its columns, a trial's settings, and the trial's success."""
    settings = {name: config[name] for name in ("depth", "method", "stage")} | config["settings"]
    experiment, start, end = hparams(settings, dict.fromkeys(METRICS, 0.0))
    return experiment, start, end
