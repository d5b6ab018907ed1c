"""Whether two models score differently on the same examples, beyond what chance explains.

Shape suffixes: N examples of a split.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pkd_tune.data.metrics import score
from pkd_tune.data.task import Task

RESAMPLES = 1000

Predicted = Mapping[str, npt.NDArray[np.generic]]
"""What one training predicts: for each dev split by name, (N,) class ids or values."""


class Difference(NamedTuple):
    """How much better one model scores than another, times 100."""

    mean: float
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(
    task: Task,
    ours: Sequence[Predicted],
    theirs: Sequence[Predicted],
    labels: Mapping[str, npt.NDArray[np.generic]],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compares the mean scores of two models, each trained on one or several seeds.

    Every resample draws examples, the same for all trainings of both models (Koehn, EMNLP 2004), and trainings of each
    model with replacement, so that the interval covers both what dev examples happen to be there and what seeds
    happened to be used.

    Args:
        task: Says how to score.
        ours: Predictions of each training of the first model.
        theirs: Of the second.
        labels: The true ones, of every dev split.
        resamples: Draws for the interval.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)

    def mean_score(models: Sequence[Predicted], rows: Mapping[str, npt.NDArray[np.int64]] | None) -> float:
        scores = []
        for model in models:
            predicted = model if rows is None else {name: model[name][rows[name]] for name in labels}
            truth = labels if rows is None else {name: labels[name][rows[name]] for name in labels}
            scores.append(score(task, predicted, truth)["score"])
        return sum(scores) / len(scores)

    differences = []
    for _ in range(resamples):
        rows = {name: rng.integers(len(values), size=len(values)) for name, values in labels.items()}
        drawn = [[models[i] for i in rng.integers(len(models), size=len(models))] for models in (ours, theirs)]
        differences.append(mean_score(drawn[0], rows) - mean_score(drawn[1], rows))
    low, high = np.percentile(differences, [2.5, 97.5]).tolist()
    return Difference(mean_score(ours, None) - mean_score(theirs, None), low, high)
