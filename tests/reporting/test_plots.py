"""Plots for papers: real SVG files, the same every time."""

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from pkd_tune.reporting.figures import SCORE_COLOURS, Axis, Figure, Panel, Parallel, Series
from pkd_tune.reporting.methods import SeriesStyle
from pkd_tune.reporting.plots import draw, draw_parallels, write_plots

LINE = Series(
    name="a", look=SeriesStyle("#0077BB", "dash", "square"), x=[1.0, 2.0], y=[float("nan"), 2.0], error=[0.1, 0.2]
)
BARS = Series(name="b", look=SeriesStyle(), x=[1.0, 2.0], y=["alpha", "beta"], kind="bars", error=[0.1, 0.2])


def figure(name: str, *panels: Panel) -> Figure:
    return Figure(name=name, title="t", caption="c", panels=panels)


def test_every_figure_of_a_report_is_an_svg_and_a_pdf_file_with_real_text(reported: Path) -> None:
    names = {path.stem for path in (reported / "plots").iterdir()}
    assert names == {
        *("best-by-trials", "best-by-epochs", "rungs", "slices", "importances"),
        *("score-by-cost", "losses", "agreement", "cosines", "parallel-coordinates"),
    }
    svg = "{http://www.w3.org/2000/svg}"
    for path in (reported / "plots").glob("*.svg"):
        root = ET.parse(path).getroot()
        assert root.tag == f"{svg}svg"
        assert list(root.iter(f"{svg}text"))
        assert b"/FontFile2" in path.with_suffix(".pdf").read_bytes()  # TrueType


def test_the_same_figure_is_the_same_file_and_old_ones_go(tmp_path: Path) -> None:
    panel = Panel(title="p", x="x", y="y", series=[LINE], log_y=True, integer_x=True)
    bars = Panel(title="p", x="x", y="", series=[BARS])
    write_plots([figure("one", panel), figure("two", bars, bars, bars, bars), figure("none")], [], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*("one.pdf", "one.svg", "two.pdf", "two.svg")]
    first = (tmp_path / "one.svg").read_bytes()
    write_plots([figure("one", panel)], [], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.pdf", "one.svg"]
    assert (tmp_path / "one.svg").read_bytes() == first


def test_bars_of_several_series_stand_at_their_own_names(tmp_path: Path) -> None:
    """Each series has the names in an order of its own, and one has fewer."""
    other = replace(BARS, name="c", x=[3.0], y=["beta"], error=[0.3])
    last = replace(BARS, name="d", x=[4.0, 5.0], y=["gamma", "alpha"])
    canvas = draw(figure("one", Panel(title="p", x="x", y="", series=[BARS, other, last])))
    (ax,) = canvas.axes
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["alpha", "beta", "gamma"]
    lengths: dict[str, list[float]] = {name: [] for name in names}
    for bar in ax.patches:
        assert isinstance(bar, Rectangle)
        lengths[names[round(bar.get_y() + bar.get_height() / 2)]].append(bar.get_width())
    assert lengths == {"alpha": [1.0, 5.0], "beta": [2.0, 3.0], "gamma": [4.0]}


def test_parallel_coordinates_are_drawn_from_axis_to_axis(tmp_path: Path) -> None:
    beta = Axis(name="beta", values=[0.0, 3.0, 1.5], low=0.0, high=3.0, ticks=[0.0, 3.0], texts=["1", "1000"])
    alpha = Axis(name="alpha", values=[0.2, 0.2, 0.2], low=0.2, high=0.2)
    score = Axis(name="score", values=[80.0, 70.0, 75.0], low=70.0, high=80.0)
    parallel = Parallel(title="PKD, 3 layers", axes=[beta, alpha, score])
    ax, second = draw_parallels([parallel, parallel]).axes
    assert ax.get_position().y0 > second.get_position().y1
    trials = [line for line in ax.lines if np.size(line.get_xdata()) == 3]
    heights = [np.asarray(line.get_ydata()).tolist() for line in trials]
    assert heights == [[1, 0.5, 0], [0.5, 0.5, 0.5], [0, 0.5, 1]]  # best on top
    assert [to_hex(line.get_color()).upper() for line in (trials[0], trials[2])] == [SCORE_COLOURS[0], SCORE_COLOURS[2]]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["beta", "alpha", "score"]
    assert [text.get_text() for text in ax.texts] == ["1", "1000", "0.2", "70", "72", "74", "76", "78", "80"]
    write_plots([], [parallel], tmp_path)
    first = (tmp_path / "parallel-coordinates.svg").read_bytes()
    write_plots([], [parallel], tmp_path)
    assert (tmp_path / "parallel-coordinates.svg").read_bytes() == first
    write_plots([], [], tmp_path)
    assert list(tmp_path.iterdir()) == []
