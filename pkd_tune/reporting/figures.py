"""What a plot is before anybody draws it: series of numbers with their names, axes and a caption.

`figures_of_search.py`, `figures_of_students.py` and `parallel.py` make them; `page.py` draws them for a screen and
`plots.py` for paper, so both show the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pkd_tune.reporting.methods import Look

Kind = Literal["line", "step", "points", "bars"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Numbers drawn in one way; NaN among them is a gap."""

    name: str
    look: Look
    x: Sequence[float]
    """Of bars, which lie: their lengths."""
    y: Sequence[float] | Sequence[str]
    """Of bars: what they are of."""
    kind: Kind = "line"
    width: float = 2.0
    opacity: float = 1.0
    markers: bool = False
    """Whether a line has markers too."""
    hollow: bool = False
    error: Sequence[float] | None = None
    """Standard deviations: of bars along x, else along y."""
    labels: Sequence[str] | None = None
    """What each point is; shown when it is pointed at."""
    legend: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_y: bool = False
    whole_x: bool = False
    """Whether x counts things, and has whole ticks only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Panels that belong together; without any, there is nothing to draw."""

    name: str
    """Of its file."""
    title: str
    caption: str
    panels: Sequence[Panel]


SCORE_COLOURS = ("#EE7733", "#AA5599", "#0077BB")
"""Of low, middle and high scores in parallel coordinates, readable on white and on black."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """One of the upright axes of parallel coordinates."""

    name: str
    values: Sequence[float]
    """One for each line."""
    low: float
    high: float
    ticks: Sequence[float] | None = None
    """Where they are; None: where numbers are round."""
    texts: Sequence[str] = ()
    """What is written at the ticks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """Parallel coordinates: a line for each trial across upright axes."""

    title: str
    axes: Sequence[Axis]
    """The last is the score, which colours the lines."""
