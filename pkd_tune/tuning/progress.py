"""The one progress bar of a search: trials done, running, stopped early and failed, and the best score per depth."""

import sys
from typing import Any, TextIO

from ray import tune
from tqdm import tqdm

from pkd_tune.tuning.study import Studies


class SearchBar(tune.Callback):
    """Redraws from the studies at every result, so that it is right after a restart too.

    On a terminal it is one line that stays; elsewhere (a pipe, nohup) it prints a line for each trial that ends.
    """

    def __init__(self, studies: Studies, stream: TextIO | None = None) -> None:
        self.studies = studies
        self.stream = stream or sys.stderr
        self.bar: Any = None

    def setup(self, **info: Any) -> None:
        """Draws the bar."""
        if self.stream.isatty():
            total = sum(self.studies.quota.values())
            layout = "search {n_fmt}/{total_fmt} {elapsed} {bar} {desc}"  # the bar takes what room is left
            self.bar = tqdm(total=total, file=self.stream, dynamic_ncols=True, bar_format=layout, smoothing=0)
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
        """Leaves the bar on the screen as it is."""
        if self.bar is not None:
            self._draw()
            self.bar.close()

    def text(self) -> str:
        """Returns what the bar says, without the bar."""
        counts = self.studies.counts()
        best = {depth: self.studies.best_score(depth) for depth in self.studies.quota}
        scores = ", ".join(f"{depth}L {'–' if score is None else f'{score:.1f}'}" for depth, score in best.items())
        ended = f"{counts['stopped']} stopped early, {counts['failed']} failed"
        return f"{scores} | {counts['running']} running, {ended}"

    def _draw(self, *, ended: bool = False) -> None:
        counts = self.studies.counts()
        finished = counts["done"] + counts["stopped"] + counts["failed"]
        if self.bar is not None:
            self.bar.n = finished
            self.bar.set_description_str(self.text())
        elif ended:
            print(f"search {finished}/{sum(self.studies.quota.values())} trials, {self.text()}", file=self.stream)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles callbacks, and a bar belongs to one process."""
        return {}
