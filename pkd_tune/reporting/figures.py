"""Plots as data: series of numbers with names, axes and captions, independent of the drawing library.

`search_figures.py` and `student_figures.py` compute them; `page.py` draws them interactively with Plotly and
`plots.py` as SVG and PDF files with matplotlib, so that both show the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pkd_tune.reporting.methods import SeriesStyle

Kind = Literal["line", "step", "points", "bars"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """A data series; NaN in it is a gap."""

    name: str
    look: SeriesStyle
    x: Sequence[float]
    """Of horizontal bars: their lengths."""
    y: Sequence[float] | Sequence[str]
    """Of horizontal bars: their names."""
    kind: Kind = "line"
    width: float = 2.0
    opacity: float = 1.0
    markers: bool = False
    """Whether a line has markers."""
    hollow: bool = False
    error: Sequence[float] | None = None
    """Standard deviations: along x for bars, along y otherwise."""
    labels: Sequence[str] | None = None
    """Hover text of each point."""
    legend: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    integer_x: bool = False
    """Whether x is a count, with ticks at integers only."""
    x_ticks: Mapping[str, float] | None = None
    """Positions of categories along x by name, for an axis that is no number."""
    low_y: float | None = None
    """Where the y axis begins in the files for papers; None: at the lowest value."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Panels with a common caption; a figure without panels is not drawn."""

    name: str
    """Name of its files in plots/, without the ending."""
    title: str
    caption: str
    panels: Sequence[Panel]


SCORE_COLOURS = ("#EE7733", "#AA5599", "#0077BB")
"""Of low, middle and high scores in parallel coordinates; readable on white and on black."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """A vertical axis of parallel coordinates."""

    name: str
    values: Sequence[float]
    """One for each line."""
    low: float
    high: float
    ticks: Sequence[float] | None = None
    """Positions of the ticks; None for round numbers."""
    texts: Sequence[str] = ()
    """Labels of the ticks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parallel:
    """Parallel coordinates: a line for each trial across vertical axes."""

    title: str
    axes: Sequence[Axis]
    """The last is the score, which determines the colour of a line."""
