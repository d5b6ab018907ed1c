"""The progress of one training: a bar on a terminal or in a notebook, a line per evaluation elsewhere."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from pkd_tune.distillation.loop import Evaluation

log = logging.getLogger(__name__)

_LAYOUT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} evaluations, {remaining} left{postfix}"


@contextmanager
def training_progress(
    name: str, scored_on: str = "dev", *, quiet: bool = False
) -> Iterator[Callable[["Evaluation"], None]]:
    """Shows the evaluations of a training.

    Args:
        name: What is trained.
        scored_on: The examples that choose its epoch.
        quiet: Whether nothing is shown.

    Yields:
        A function to call with every evaluation.
    """
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    hidden = quiet or not interactive
    with tqdm(desc=name, bar_format=_LAYOUT, leave=False, disable=hidden, dynamic_ncols=True, file=sys.stderr) as bar:

        def show(evaluation: "Evaluation") -> None:
            text = f"{scored_on} score {evaluation.metrics['score']:.1f}"
            if hidden:
                log.info("%s: epoch %.1f of %d, %s", name, evaluation.epoch, evaluation.epochs, text)
            bar.total = evaluation.of
            if evaluation.number == 1:
                bar.reset()
            bar.set_postfix_str(text)
            bar.update(evaluation.number - bar.n)  # a training that goes on elsewhere may repeat some

        yield show
