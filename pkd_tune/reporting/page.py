"""report.html: the report as one file that needs no network, with plots that answer to the pointer.

The page holds plotly.js once, its own style and script, and the plots as JSON; a content policy forbids the browser to
load anything else. Colours of text and lines follow the reader's light or dark setting, so plots leave them open.
"""

import html
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from pkd_tune.reporting.document import Block, Heading, page_body
from pkd_tune.reporting.figures import SCORE_COLOURS, Axis, Figure, Panel, Parallel, Series

FOLDER = Path(__file__).parent

# 'unsafe-eval' is for parallel coordinates alone, whose lines plotly.js draws with compiled WebGL programs.
_POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"


def page(title: str, before: Sequence[Block], plots: str, after: Sequence[Block]) -> str:
    """Returns a whole page.

    Args:
        title: Shown by the browser.
        before: What comes first.
        plots: HTML between the two, as `plots_html` returns it; may be empty, and plotly.js is then left out.
        after: What comes last.
    """
    script = f"<script>{get_plotlyjs()}</script>\n<script>{_file('page.js')}</script>" if plots else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{html.escape(title)}</title>
<style>
{_file("page.css")}</style>
</head>
<body>
<main>
{page_body(before)}
{plots}
{page_body(after)}
</main>
{script}
</body>
</html>
"""


def plots_html(figures: Sequence[Figure], parallels: Sequence[Parallel]) -> str:
    """Returns the plots as HTML that page.js brings to life.

    Args:
        figures: Each becomes a section with a plot per panel.
        parallels: Parallel coordinates; they come before the figure of importances, or last.
    """
    sections = []
    for figure in figures:
        if figure.name == "importances":
            sections.append(_parallel_section(parallels))
        if figure.panels:
            plots = "\n".join(_plot(panel.title, panel_figure(panel), figure.title) for panel in figure.panels)
            sections.append(_section(figure.title, figure.caption, f'<div class="panels">\n{plots}\n</div>'))
    text = "\n".join(section for section in sections if section)
    return text and f"{page_body([Heading('Plots')])}\n{text}"


def panel_figure(panel: Panel) -> go.Figure:
    """Returns a panel as a Plotly figure."""
    figure = go.Figure([_trace(series) for series in panel.series])
    bars = any(series.kind == "bars" for series in panel.series)
    figure.update_layout(
        height=120 + 34 * len({name for series in panel.series for name in series.y}) if bars else 360,
        margin={"l": 108 if bars else 56, "r": 12, "t": 8, "b": 44},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        hovermode="closest",
        showlegend=len({series.name for series in panel.series}) > 1,
    )
    figure.update_xaxes(title={"text": panel.x, "standoff": 8, "font": {"size": 13}})
    figure.update_yaxes(title={"text": panel.y, "standoff": 10, "font": {"size": 13}})
    if panel.whole_x and max((max(series.x, default=0) for series in panel.series), default=0) <= 12:
        figure.update_xaxes(dtick=1)
    if panel.log_y:
        ticks = _log_ticks([value for series in panel.series for value in series.y if isinstance(value, float)])
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten among positive values; all digits where these span little."""
    positive = [value for value in values if value > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    digits = (1, 2, 5) if high > 5 * low else range(1, 10)
    rounds = [digit * 10.0**power for power in range(-9, 9) for digit in digits]
    return [tick for tick in rounds if low / 1.5 < tick < high * 1.5]


def _trace(series: Series) -> go.Bar | go.Scatter:
    look = series.look
    colour = {} if look.colour is None else {"color": look.colour}
    error = None
    if series.error and any(series.error):
        error = {"type": "data", "array": list(series.error), "thickness": 1.5, "width": 4}
    if series.kind == "bars":
        hover = "%{y}: %{x:.3f}<extra></extra>"
        bar = {"x": list(series.x), "y": list(series.y), "orientation": "h", "hovertemplate": hover}
        return go.Bar(
            name=series.name,
            **bar,
            marker={**colour, "line": {"width": 0}},
            error_x=error and {**error, "color": "#999999"},
        )
    mode = {"points": "markers", "step": "lines", "line": "lines"}[series.kind] + "+markers" * series.markers
    marker = {**colour, "symbol": look.symbol + "-open" * series.hollow}
    label = "%{text}<br>" if series.labels else ""
    return go.Scatter(
        name=series.name,
        legendgroup=series.name,
        showlegend=series.legend,
        mode=mode,
        x=list(series.x),
        y=[None if value != value else value for value in series.y],
        text=series.labels,
        hovertemplate=f"{label}%{{x:.4g}}, %{{y:.4g}}<extra>{series.name}</extra>",
        opacity=series.opacity,
        line={**colour, "dash": look.dash, "width": series.width, "shape": "hv" if series.kind == "step" else "linear"},
        marker={**marker, "size": 13 if look.symbol == "star" else 9 if series.kind == "points" else 7},
        error_y=error,
    )


def parallel_figure(parallel: Parallel) -> go.Figure:
    """Returns parallel coordinates as a Plotly figure."""
    score = parallel.axes[-1]
    colours = [[place / (len(SCORE_COLOURS) - 1), colour] for place, colour in enumerate(SCORE_COLOURS)]
    line = {"color": list(score.values), "colorscale": colours}
    # The ends of a range are ticks already; Plotly would write them again beside the axis.
    hidden = {"color": "rgba(0,0,0,0)", "size": 1}
    dimensions = [*map(_dimension, parallel.axes[:-1]), {**_dimension(score), "tickformat": ".1f"}]
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, rangefont=hidden))
    figure.update_layout(height=360, margin={"l": 60, "r": 44, "t": 36, "b": 12})
    return figure


def _dimension(axis: Axis) -> dict[str, Any]:
    ticks = {"tickformat": "~g"} if axis.ticks is None else {"tickvals": list(axis.ticks), "ticktext": list(axis.texts)}
    return {"label": axis.name, "values": list(axis.values), "range": [axis.low, axis.high], **ticks}


def _parallel_section(parallels: Sequence[Parallel]) -> str:
    if not parallels:
        return ""
    plots = "\n".join(_plot(each.title, parallel_figure(each), "Settings of the trials", "wide") for each in parallels)
    caption = (
        "One line per complete trial, coloured by its score; drag along an axis to keep the trials of a range, drag an "
        "axis' name to move it."
    )
    return _section("Settings of the trials", caption, plots)


def _section(title: str, caption: str, content: str) -> str:
    return f"<section>\n<h3>{html.escape(title)}</h3>\n<p>{html.escape(caption)}</p>\n{content}\n</section>"


def _plot(title: str, figure: go.Figure, of: str, kind: str = "") -> str:
    label = html.escape(f"{of}: {title}" if title else of, quote=True)
    data: dict[str, Any] = json.loads(figure.to_json())
    data["layout"].pop("template", None)  # page.js gives one that follows the reader's light or dark setting
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    heading = f"<h4>{html.escape(title)}</h4>\n" if title else ""
    return (
        f'<figure class="{kind or "panel"}">\n{heading}<div class="scroll"><div class="plot" role="img" '
        f'aria-label="{label}"></div></div>\n<script type="application/json">{text}</script>\n</figure>'
    )


def _file(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
