"""What TensorBoard shows of a search: a curve for each number that a trial reports, and a row with its settings.

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
GROUPS = ("loss", "teacher")
"""Parts of a result that hold numbers by name: the loss's terms, and likeness to the teacher."""

METRICS = ("best_score", "score")
"""What the HParams tab has beside the settings: what the search goes by, and the last evaluation."""

NO_SETTINGS = ("trial", "seed")
"""Parts of a trial's config that its name says already, or that are not searched."""


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
        """Adds an evaluation to the trial's curves, with the number of the evaluation for a step."""
        if "evaluation" not in result:
            return
        step, name = result["evaluation"], trial_id_of(trial.config).name
        if name not in self.writers:
            # A trial that is started again repeats the evaluations since its last epoch: the earlier ones are hidden.
            # Files are named after the second, in which two may begin.
            writer = SummaryWriter(str(self.folder / name), purge_step=step, filename_suffix=f".{step:04}")
            self.writers[name] = writer
            for summary in _settings(trial.config)[:2]:
                self.writers[name].file_writer.add_summary(summary)
        for tag, value in scalars(result):
            self.writers[name].add_scalar(tag, value, step)
        self.writers[name].flush()

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Closes the trial's file; says that the trial succeeded where it did."""
        if (writer := self.writers.pop(trial_id_of(trial.config).name, None)) is None:
            return
        if not failed and "failure" not in trial.last_result:
            writer.file_writer.add_summary(_settings(trial.config)[2])
        writer.close()

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles callbacks, and open files belong to one process."""
        return {}


def scalars(result: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields what is drawn of a result: tag and value."""
    for name in SCALARS:
        if name in result:
            yield name, result[name]
    for group in GROUPS:
        for name, value in result.get(group, {}).items():
            yield f"{group}/{name}", value


def _settings(config: dict[str, Any]) -> tuple[Any, Any, Any]:
    """Returns what tells the HParams tab which columns there are, a trial's settings, and that it succeeded."""
    settings = {name: value for name, value in config.items() if name not in NO_SETTINGS}
    experiment, start, end = hparams(settings, dict.fromkeys(METRICS, 0.0))
    return experiment, start, end
