"""plots/*.svg and plots/*.pdf: the figures of the report for papers.

report.html draws the same `Figure`s and `Parallel`s interactively with Plotly, which can write image files only with
the help of a browser; matplotlib needs none.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from pkd_tune.files import write_file
from pkd_tune.reporting.figures import SCORE_COLOURS, Axis, Figure, Panel, Parallel, Series
from pkd_tune.reporting.formatting import number_text

_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "font.family": "sans-serif",
    "font.sans-serif": ["Segoe UI", "Roboto", "Helvetica Neue", "Arial", "Liberation Sans", "DejaVu Sans"],
    "svg.fonttype": "none",  # text stays text, in SVG and, as TrueType, in PDF
    "pdf.fonttype": 42,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "svg.hashsalt": "pkd_tune",  # makes the files reproducible
}
_DASHES = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle-up": "^",
    "triangle-down": "v",
    "star": "*",
    "x": "x",
}
_TEXT = "#222222"
_DATES = {"svg": "Date", "pdf": "CreationDate"}
"""The formats, and the metadata that would make each file differ from the last."""


def write_plots(figures: Sequence[Figure], parallels: Sequence[Parallel], folder: Path) -> None:
    """Writes the plots as SVG and PDF, and removes files of an earlier report that this one does not have.

    Args:
        figures: Each becomes two files named after it.
        parallels: Parallel coordinates, together in parallel-coordinates.
        folder: The folder of the files.
    """
    drawn = {figure.name: partial(draw, figure) for figure in figures if figure.panels}
    if parallels:
        drawn["parallel-coordinates"] = partial(draw_parallels, parallels)
    for old in folder.glob("*.*"):
        if old.suffix.removeprefix(".") in _DATES and old.stem not in drawn:
            old.unlink()
    with mpl.rc_context(_STYLE), _quiet_fonts():
        for name, drawing in drawn.items():
            canvas = drawing()
            for ending, date in _DATES.items():
                save = partial(canvas.savefig, format=ending, metadata={date: None})
                write_file(folder / f"{name}.{ending}", save)


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Keeps matplotlib from warning of each font that this machine lacks; the last of the list comes with it."""
    logger = logging.getLogger("matplotlib.font_manager")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def draw(figure: Figure) -> Canvas:
    """Returns a matplotlib figure of up to three panels per row, 7 inches wide; a single panel has 3.5 inches."""
    columns = min(2 if len(figure.panels) == 4 else 3, len(figure.panels))
    rows = -(-len(figure.panels) // columns)
    legend = 0.3 if any(len({series.name for series in panel.series}) > 1 for panel in figure.panels) else 0.0
    width, height = 7.0 if columns > 1 else 3.5, 2.6 * rows + legend
    canvas = Canvas(figsize=(width, height))
    left, bottom, top = (
        0.95 if _has_bars(figure.panels[0]) else 0.55,
        0.45,
        0.3,
    )  # inches; a layout engine would double the time
    for number, panel in enumerate(figure.panels):
        row, column = divmod(number, columns)
        corner = (column / columns + left / width, 1 - (2.6 * (row + 1) - bottom) / height)
        size = (1 / columns - (left + 0.1) / width, (2.6 - bottom - top) / height)
        _draw_panel(canvas.add_axes((*corner, *size)), panel)
    if legend:  # below the panels, where it covers no data
        marks: dict[str, Any] = {}
        for ax in canvas.axes:
            handles, texts = ax.get_legend_handles_labels()
            marks |= dict(zip(texts, handles, strict=True))
        columns_of_legend = min(len(marks), 5 if width > 4 else 3)
        canvas.legend(
            handles=[*marks.values()], labels=[*marks], loc="lower center", ncols=columns_of_legend, fontsize=7
        )
    return canvas


def draw_parallels(parallels: Sequence[Parallel]) -> Canvas:
    """Returns a matplotlib figure of parallel coordinates, one below the other, 7 inches wide."""
    width, height = 7.0, 2.2 * len(parallels)
    canvas = Canvas(figsize=(width, height))
    left, right, bottom, top = 0.55, 0.35, 0.3, 0.35  # inches
    for number, parallel in enumerate(parallels):
        corner = (left / width, 1 - (number + 1) / len(parallels) + bottom / height)
        size = (1 - (left + right) / width, 1 / len(parallels) - (bottom + top) / height)
        _draw_parallel(canvas.add_axes((*corner, *size)), parallel)
    return canvas


def _draw_parallel(ax: Axes, parallel: Parallel) -> None:
    """Draws a line for each trial, the highest scores on top, across axes that are scaled to 0..1."""
    scores = parallel.axes[-1].values
    colours = LinearSegmentedColormap.from_list("scores", SCORE_COLOURS)
    places = [_places(axis, axis.values) for axis in parallel.axes]
    for trial in sorted(range(len(scores)), key=scores.__getitem__):
        heights = [of_axis[trial] for of_axis in places]
        ax.plot(heights, color=colours(heights[-1]), linewidth=1, alpha=0.8)
    for number, axis in enumerate(parallel.axes):
        outside, side = (0.03, "left") if axis is parallel.axes[-1] else (-0.03, "right")
        ax.axvline(number, color=_TEXT, linewidth=0.8, clip_on=False)
        ticks = _round_ticks(axis) if axis.ticks is None else axis.ticks
        texts = [number_text(tick) for tick in ticks] if axis.ticks is None else axis.texts
        for height, text in zip(_places(axis, ticks), texts, strict=True):
            box = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.5}
            ax.text(number + outside, height, text, ha=side, va="center", fontsize=6, color=_TEXT, bbox=box)
    ax.set(title=parallel.title, xlim=(0, len(parallel.axes) - 1), ylim=(-0.03, 1.03), yticks=[])
    ax.set_xticks(range(len(parallel.axes)), [axis.name for axis in parallel.axes])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)


def _places(axis: Axis, values: Sequence[float]) -> list[float]:
    """Returns values as positions on an axis, from 0 to 1; 0.5 where the axis has a single value."""
    span = axis.high - axis.low
    return [(value - axis.low) / span if span else 0.5 for value in values]


def _round_ticks(axis: Axis) -> list[float]:
    """Returns round numbers within an axis."""
    ticks = MaxNLocator(6, steps=[1, 2, 5, 10]).tick_values(axis.low, axis.high)
    return [round(float(tick), 9) for tick in ticks if axis.low <= tick <= axis.high]


def _has_bars(panel: Panel) -> bool:
    """Returns whether a panel has horizontal bars."""
    return any(series.kind == "bars" for series in panel.series)


def _draw_panel(ax: Axes, panel: Panel) -> None:
    bars = list(dict.fromkeys(str(name) for series in panel.series if series.kind == "bars" for name in series.y))
    for number, series in enumerate(panel.series):
        _draw_series(ax, series, number, len(panel.series), bars)
    if bars:
        ax.set_yticks(range(len(bars)), bars)
    ax.set(title=panel.title, xlabel=panel.x, ylabel=panel.y)
    if panel.integer_x:
        values = sorted({x for series in panel.series for x in series.x})
        ax.xaxis.set_major_locator(FixedLocator(values) if len(values) <= 12 else MaxNLocator(integer=True))
    if panel.log_y:
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        ax.yaxis.set_minor_formatter(NullFormatter())
    if panel.low_y is not None:
        ax.set_ylim(bottom=panel.low_y)
    if panel.log_x:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number_text(value)))
        ax.xaxis.set_minor_formatter(NullFormatter())
    if panel.x_ticks:
        ax.set_xticks(list(panel.x_ticks.values()), list(panel.x_ticks))
        ax.set_xlim(-0.5, len(panel.x_ticks) - 0.5)


def _draw_series(ax: Axes, series: Series, number: int, of: int, bars: Sequence[str]) -> None:
    look = series.look
    colour = look.colour or _TEXT
    label = series.name if series.legend else None
    if series.kind == "bars":
        height = 0.8 / of
        places = [bars.index(str(name)) + (number - (of - 1) / 2) * height for name in series.y]
        ax.barh(places, list(series.x), height, xerr=series.error, color=colour, label=label, error_kw={"lw": 0.8})
        return
    points = series.kind == "points"
    ax.errorbar(
        list(series.x),
        list(series.y),  # type: ignore[arg-type]
        yerr=series.error if series.error and any(series.error) else None,
        label=label,
        color=colour,
        linestyle="none" if points else _DASHES[look.dash],
        linewidth=series.width * 0.6,
        drawstyle="steps-post" if series.kind == "step" else "default",
        marker=_MARKERS[look.symbol] if points or series.markers else "none",
        markersize=8 if look.symbol == "star" else 4,
        markerfacecolor="none" if series.hollow else colour,
        alpha=series.opacity,
        elinewidth=0.8,
        capsize=2,
    )
