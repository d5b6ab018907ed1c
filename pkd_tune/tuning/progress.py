"""The progress bar of a search: stage, trials done, running, stopped early and failed, best scores, time left."""

import shutil
import sys
import time
from typing import Any, TextIO

from ray import tune
from tqdm import tqdm

from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial_tables import best_scores, counts, epochs_done


class SearchProgress(tune.Callback):
    """Redraws from the studies at every result, so that it is right after a restart too.

    On a terminal it is one line that stays; elsewhere (a pipe, nohup) it prints a line for each trial that ends.
    """

    def __init__(self, studies: Studies, stream: TextIO | None = None) -> None:
        """Prepares the bar.

        Args:
            studies: The studies of the search.
            stream: Where to draw; None: standard error.
        """
        self.studies = studies
        self.stream = stream or sys.stderr
        self.bar: Any = None
        self.began = time.monotonic()
        self.epochs_before = epochs_done(studies)

    def setup(self, **info: Any) -> None:
        """Draws the bar."""
        if self.stream.isatty():
            layout = "{desc}"  # a bar of characters would take the room that the numbers need at 80 columns
            self.bar = tqdm(total=self.studies.total(), file=self.stream, dynamic_ncols=True, bar_format=layout)
        self._draw()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Redraws."""
        self._draw()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """Redraws."""
        self._draw()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Redraws."""
        self._draw(ended=True)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Redraws."""
        self._draw(ended=True)

    def close(self) -> None:
        """Closes the bar, and leaves it on the screen."""
        if self.bar is not None:
            self._draw()
            self.bar.close()

    def text(self, columns: int = 1000) -> str:
        """Returns the text of the bar; counts of trials that do not fit into so many columns are left out."""
        found = counts(self.studies)
        ended = found["done"] + found["stopped"] + found["failed"]
        searching = any(
            len(self.studies.trials(study_key)) < self.studies.quota(study_key) for study_key in self.studies.plans
        )
        stage = "search" if searching or not self.studies.seeds else "confirm"
        scores = " ".join(
            f"{depth}L {'–' if score is None else f'{score:.1f}'}" for depth, score in best_scores(self.studies).items()
        )
        states = [f"{found[state]} {state}" for state in ("failed", "stopped", "running") if found[state]]
        while True:
            parts = [f"{stage} {ended}/{self.studies.total()}{self._pace()}", scores, ", ".join(states)]
            text = " | ".join(part for part in parts if part)
            if not states or len(text) < columns:
                return text
            states.pop()  # the least important is the last

    def _pace(self) -> str:
        """Returns epochs per second and the time left at that speed; an empty text before the first epoch.

        The time left assumes that no other trial is stopped early.
        """
        elapsed = time.monotonic() - self.began
        done = epochs_done(self.studies)
        if done <= self.epochs_before or elapsed <= 0:
            return ""
        per_second = (done - self.epochs_before) / elapsed
        return f" {per_second:.2g} epochs/s {tqdm.format_interval(self.studies.epochs_left() / per_second)} left"

    def _draw(self, *, ended: bool = False) -> None:
        if self.bar is not None:
            self.bar.set_description_str(self.text(shutil.get_terminal_size().columns))
        elif ended:
            print(self.text(), file=self.stream)

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray pickles callbacks, and a bar belongs to one process."""
        return {}
