"""report.html opened as a reader opens it: from a file, in a real browser, with the network off."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import launched
from playwright.sync_api import Browser, Page
from recorded_run import write_run

from pkd_tune.reporting.glue_table import elements, scores
from pkd_tune.reporting.page import page as page_of
from pkd_tune.reporting.run import read_run

pytestmark = pytest.mark.browser

WIDTHS = (390, 1280)
A4_WIDTH = 703
"""Pixels of CSS, 96 to the inch, between margins of 12 mm."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as chromium:
        yield chromium


def opened(browser: Browser, path: Path, width: int) -> tuple[Page, list[str]]:
    """Returns a page from a file in a window of this width, and what goes wrong while it is shown."""
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if request.url == path.as_uri() else wrong.append(request.url))
    page.goto(path.as_uri())
    return page, wrong


@pytest.fixture(scope="module", params=WIDTHS)
def report(request: pytest.FixtureRequest, browser: Browser, reported: Path) -> Iterator[Page]:
    """Yields the report with all its plots drawn, at either width; nothing may go wrong until all tests have ended."""
    page, wrong = opened(browser, reported / "report.html", request.param)
    page.wait_for_selector("html[data-drawn]", timeout=120_000)
    yield page
    assert [message for message in wrong if not message.startswith(("blob:", "data:"))] == []
    page.context.close()


def test_every_plot_is_drawn(report: Page) -> None:
    plots = report.evaluate(
        """() => [...document.querySelectorAll("figure")].map((figure) => {
            const plot = figure.querySelector(".plot");
            const given = JSON.parse(figure.querySelector("script").textContent).data;
            const marks = plot.querySelectorAll(
                "svg .scatterlayer .trace path, svg .barlayer .point path, svg.main-svg .parcoords .y-axis");
            const box = plot.querySelector("svg").getBoundingClientRect();
            const text = plot.querySelector("svg text");
            return { given: given.length, drawn: plot._fullData.length, marks: marks.length, text: text !== null,
                     width: box.width, height: box.height, space: plot.getBoundingClientRect().width };
        })"""
    )
    assert len(plots) == 35
    for plot in plots:
        assert plot["drawn"] == plot["given"]
        assert plot["marks"] >= plot["given"]
        assert plot["text"]
        assert plot["height"] >= 150
        assert 280 <= plot["width"] <= plot["space"] + 1


def test_the_page_never_scrolls_sideways_but_its_tables_do(report: Page) -> None:
    assert report.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    boxes = report.evaluate(
        """() => [...document.querySelectorAll(".table, .wide .scroll")].map((box) => {
            const { left, right } = box.getBoundingClientRect();
            const overflow = getComputedStyle(box).overflowX;
            return { left, right, hidden: box.scrollWidth - box.clientWidth, overflow };
        })"""
    )
    # results, confirmations, agreement, confusions, examples, trials, students; parallel coordinates
    assert len(boxes) == 7 + 4
    width = report.viewport_size["width"] if report.viewport_size else 0
    for box in boxes:
        assert 0 <= box["left"] < box["right"] <= width
        assert box["overflow"] == "auto"
    assert (boxes[0]["hidden"] > 0) == (width == 390)


def test_the_names_of_a_table_stay_in_sight(report: Page) -> None:
    places = report.evaluate(
        """() => {
            const box = document.querySelector(".table");
            box.scrollLeft = 10000;
            const name = box.querySelector("tbody tr:nth-child(2) th").getBoundingClientRect();
            const last = box.querySelector("tbody tr:nth-child(2) td:last-child").getBoundingClientRect();
            const { left, right } = box.getBoundingClientRect();
            return { name: name.left - left, names: name.width, last: last.right - right,
                     size: parseFloat(getComputedStyle(box.querySelector("td")).fontSize) };
        }"""
    )
    assert places["name"] == 0
    assert places["names"] < 240
    assert places["last"] <= 1
    assert places["size"] >= 13


def test_plots_follow_light_and_dark(report: Page) -> None:
    colour = 'getComputedStyle(document.querySelector(".plot svg .xtick text")).fill'
    report.emulate_media(color_scheme="light")
    report.wait_for_function(f"{colour} === 'rgb(28, 31, 35)'")
    report.emulate_media(color_scheme="dark")
    report.wait_for_function(f"{colour} === 'rgb(228, 231, 235)'")


def test_nothing_is_cut_on_a4_paper(browser: Browser, reported: Path) -> None:
    page, _ = opened(browser, reported / "report.html", 1280)
    page.wait_for_selector("html[data-drawn]", timeout=120_000)
    page.emulate_media(media="print")
    page.set_viewport_size({"width": A4_WIDTH, "height": 1000})
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.wait_for_function(
        "[...document.querySelectorAll('.js-plotly-plot')].every((plot) => plot._fullLayout.width <= 700)"
    )
    cut = page.evaluate(
        """() => [...document.querySelectorAll("table, td, th, p, li, pre, figure, .plot svg.main-svg")]
            .filter((each) => each.getBoundingClientRect().right > innerWidth + 1
                || (each.matches("td, th, p, li") && each.scrollWidth > each.clientWidth + 1))
            .map((each) => `${each.tagName} ${each.textContent.slice(0, 60)}`)"""
    )
    assert cut == []
    sheets = page.pdf(prefer_css_page_size=True)
    assert sheets.startswith(b"%PDF")
    page.context.close()


def test_the_table_of_all_tasks_fits(browser: Browser, tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    path = tmp_path / "glue.html"
    path.write_text(page_of("GLUE", elements(scores([read_run(run)]), [])), encoding="utf-8")
    for width in WIDTHS:
        page, wrong = opened(browser, path, width)
        assert page.locator("h1").inner_text() == "GLUE, dev split, × 100"
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert wrong == []
        page.context.close()
