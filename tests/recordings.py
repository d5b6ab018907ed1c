"""Made-up recorded tables."""

from typing import Any

from pkd_tune.benchmark.recorded import Recording, Table, Training


def training(*scores: float, per_epoch: int = 2, degenerate: bool = False) -> Training:
    return Training(
        epochs=tuple(i / per_epoch for i in range(1, len(scores) + 1)),
        scores=scores,
        degenerate=(degenerate,) * len(scores),
    )


def recording(*scores: float, other: float | None = None, method: str = "pkd", **settings: Any) -> Recording:
    """Returns a recording whose second seed ends with another score."""
    second = training(*scores[:-1], scores[-1] if other is None else other)
    return Recording(method=method, settings=settings, trainings=(training(*scores), second))


def table(*recordings: Recording) -> Table:
    return Table(name="made-up-2", recordings=recordings)
