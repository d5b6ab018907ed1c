"""report.html: a self-contained file, whatever the records hold."""

import html.parser
import json
import re
from pathlib import Path

from plotly.offline import get_plotlyjs

from pkd_tune.reporting.document import Bullets, Heading, Table, Text, literal
from pkd_tune.reporting.figures import Axis, Figure, Panel, Parallel, Series
from pkd_tune.reporting.methods import SeriesStyle
from pkd_tune.reporting.page import page, panel_figure, parallel_figure, plot_sections


class Links(html.parser.HTMLParser):
    """Collects every address a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [str(value) for name, value in attrs if name in ("src", "href", "srcset", "data")]


def test_the_page_loads_nothing(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    links = Links()
    links.feed(text)
    assert links.found == []
    assert "default-src 'none'" in text
    assert text.count(get_plotlyjs()) == 1
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_table_comes_first_and_the_making_last(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    parts = ['<div class="table"', "<h2>Plots</h2>", "<h2>Trials</h2>", "<h2>Run details</h2>", "plotly.js v"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)


def test_every_plot_has_axes_with_titles(reported: Path) -> None:
    text = (reported / "report.html").read_text(encoding="utf-8")
    plots = [json.loads(found) for found in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    # Of each depth; similarity to layers of the deeper; settings of each depth; cost; loss; parallel coordinates.
    assert len(plots) == 2 * 5 + 1 + 2 * 5 + 2 + 8 + 4
    for plot in plots:
        if plot["data"][0]["type"] != "parcoords":
            assert plot["layout"]["xaxis"]["title"]["text"]
            bars = plot["data"][0]["type"] == "bar"
            assert bars or plot["layout"]["yaxis"]["title"]["text"]


def test_words_of_the_records_cannot_become_markup() -> None:
    bad = "</script><script>alert(1)</script>"
    series = Series(name=bad, look=SeriesStyle(), x=[1.0], y=[2.0], labels=[bad])
    figure = Figure(name="a", title=bad, caption=bad, panels=[Panel(title=bad, x=bad, y=bad, series=[series])])
    axis = Axis(name=bad, values=[0.0], low=0.0, high=1.0, ticks=[0.0], texts=[bad])
    text = page(bad, [Text(literal(bad))], plot_sections([figure], [Parallel(title=bad, axes=[axis])]))
    assert "<script>alert" not in text.replace(get_plotlyjs(), "")


def test_a_page_without_plots_is_small() -> None:
    assert plot_sections([Figure(name="a", title="t", caption="c", panels=[])], []) == []
    assert len(page("title", [Text("x")])) < 10_000


SENTENCE = "The doctor praised the thief outside suddenly , quite openly , with the sailor."


def test_elements_become_html() -> None:
    text = page(
        "title",
        [
            Heading("A & B", 1),
            Text("**x** is *y*: `a*b*c <i>` & <script>"),
            Bullets(["one", "two"]),
            Table(
                ["model", "n", "words"],
                [["a|b", 1, "c, d"], ["e", 2, "`f, g`"], ["h", 3, SENTENCE]],
                left=(0, 2),
                groups=(1,),
            ),
        ],
    )
    assert "<h1>A &amp; B</h1>" in text
    assert "<p><strong>x</strong> is <em>y</em>: <code>a*b*c &lt;i&gt;</code> &amp; &lt;script&gt;</p>" in text
    assert "<li>one</li>\n<li>two</li>" in text
    assert '<th scope="row" class="words">a|b</th><td class="number">1</td>' in text
    assert '<td class="words"><span>c</span>, <span>d</span></td>' in text
    assert text.count("<tr>") == 3
    assert '<tr class="group"><th scope="row" class="words">e</th>' in text
    assert '<td class="words"><code>f, g</code></td>' in text
    assert f'<td class="words">{SENTENCE}</td>' in text  # may break anywhere


def test_gaps_and_looks_reach_plotly() -> None:
    look = SeriesStyle("#0077BB", "dash", "square")
    line = Series(name="a", look=look, x=[1.0, 2.0], y=[1.0, float("nan")], kind="step", labels=["p", "q"])
    points = Series(name="b", look=SeriesStyle(), x=[1.0], y=[1.0], kind="points", hollow=True, error=[0.5])
    figure = json.loads(panel_figure(Panel(title="t", x="x", y="y", series=[line, points], log_y=True)).to_json())
    first, second = figure["data"]
    assert first["y"] == [1.0, None]
    assert (first["line"]["shape"], first["line"]["dash"], first["line"]["color"]) == ("hv", "dash", "#0077BB")
    assert second["marker"]["symbol"] == "circle-open"
    assert "color" not in second["marker"]  # page.js fills in the colour of text
    assert second["error_y"]["array"] == [0.5]
    assert figure["layout"]["yaxis"]["type"] == "log"
    assert figure["layout"]["yaxis"]["ticktext"] == ["0.7", "0.8", "0.9", "1"]


def test_a_logarithmic_axis_has_few_round_ticks() -> None:
    values = [0.04, 0.9, float("nan"), 0.0]
    series = Series(name="a", look=SeriesStyle(), x=[1.0, 2.0, 3.0, 4.0], y=values)
    axis = panel_figure(Panel(title="t", x="x", y="y", series=[series], log_y=True)).layout.yaxis
    assert list(axis.ticktext) == ["0.05", "0.1", "0.2", "0.5", "1"]


def test_axes_reach_plotly() -> None:
    beta = Axis(name="beta", values=[1.0, 2.0], low=0.0, high=3.0, ticks=[0.0, 3.0], texts=["1", "1000"])
    score = Axis(name="score", values=[70.0, 80.0], low=70.0, high=80.0)
    (trace,) = parallel_figure(Parallel(title="t", axes=[beta, score])).data
    first, last = trace.dimensions
    assert (first.label, list(first.values), list(first.range)) == ("beta", [1, 2], [0, 3])
    assert (list(first.tickvals), list(first.ticktext)) == ([0, 3], ["1", "1000"])
    assert (last.label, last.tickvals, last.tickformat) == ("score", None, ".1f")
    assert list(trace.line.color) == [70, 80]
