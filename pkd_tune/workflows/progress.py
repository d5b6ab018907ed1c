"""Progress bars of a training and of predictions on a terminal or in a notebook; lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from pkd_tune.distillation.loop import Evaluation

log = logging.getLogger(__name__)

_LAYOUT = "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} evaluations, {remaining} left{postfix}"


_LINE_SECONDS = 30.0
"""Time between two lines where there is no bar."""


@contextmanager
def prediction_progress(name: str, examples: int) -> Iterator[Callable[[int], None]]:
    """Shows how many examples have been predicted.

    Args:
        name: What is predicted.
        examples: How many there are.

    Yields:
        A function to call with the number of examples of every batch.
    """
    interactive = sys.stderr.isatty() or "ipykernel" in sys.modules
    seen, said = 0, time.monotonic()
    with tqdm(
        desc=name, total=examples, leave=False, disable=not interactive, unit=" examples", file=sys.stderr
    ) as bar:

        def show(batch: int) -> None:
            nonlocal seen, said
            seen += batch
            bar.update(batch)
            if not interactive and time.monotonic() - said > _LINE_SECONDS and seen < examples:
                log.info("%s: %s of %s examples", name, f"{seen:,}", f"{examples:,}")
                said = time.monotonic()

        yield show


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
