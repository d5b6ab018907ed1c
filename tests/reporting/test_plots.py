"""Plots for papers: real SVG files, the same every time."""

import xml.etree.ElementTree as ET
from pathlib import Path

from pkd_tune.reporting.figures import Figure, Panel, Series
from pkd_tune.reporting.methods import Look
from pkd_tune.reporting.plots import write_plots

LINE = Series(name="a", look=Look("#0077BB", "dash", "square"), x=[1.0, 2.0], y=[float("nan"), 2.0], error=[0.1, 0.2])
BARS = Series(name="b", look=Look(), x=[1.0, 2.0], y=["alpha", "beta"], kind="bars", error=[0.1, 0.2])


def figure(name: str, *panels: Panel) -> Figure:
    return Figure(name=name, title="t", caption="c", panels=panels)


def test_every_figure_of_a_report_is_an_svg_file(reported: Path) -> None:
    names = {path.stem for path in (reported / "plots").iterdir()}
    assert names == {
        *("best-by-trials", "best-by-epochs", "rungs", "importances"),
        *("score-by-cost", "losses", "agreement", "cosines"),
    }
    for path in (reported / "plots").iterdir():
        assert ET.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"


def test_the_same_figure_is_the_same_file_and_old_ones_go(tmp_path: Path) -> None:
    panel = Panel(title="p", x="x", y="y", series=[LINE], log_y=True, whole_x=True)
    bars = Panel(title="p", x="x", y="", series=[BARS])
    write_plots([figure("one", panel), figure("two", bars, bars, bars, bars), figure("none")], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.svg", "two.svg"]
    first = (tmp_path / "one.svg").read_bytes()
    write_plots([figure("one", panel)], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["one.svg"]
    assert (tmp_path / "one.svg").read_bytes() == first
