"""report.html: the report as a single self-contained file with interactive plots.

The page embeds plotly.js once, its own style and script, and the plots as JSON; its content security policy keeps the
browser from loading anything else. The colours of text and lines follow the reader's light or dark theme, so plots
leave them unset.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup, escape
from plotly.offline import get_plotlyjs

from pkd_tune.reporting.document import Element, spans
from pkd_tune.reporting.figures import SCORE_COLOURS, Axis, Figure, Panel, Parallel, Series
from pkd_tune.reporting.formatting import number_text

TEMPLATES = Path(__file__).parent / "templates"

_TAGS = {"code": "code", "strong": "strong", "emphasis": "em"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A plot with its title."""

    title: str
    figure: dict[str, Any]
    """A Plotly figure as JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """Plots that share a heading and a caption."""

    title: str
    caption: str
    plots: Sequence[Plot]
    wide: bool = False
    """Whether each plot takes the full width, instead of a cell of a grid."""


def page(title: str, before: Sequence[Element], sections: Sequence[Section] = (), after: Sequence[Element] = ()) -> str:
    """Returns a whole HTML page.

    Args:
        title: Title of the browser tab.
        before: Elements above the plots.
        sections: The plots, from `plot_sections`; plotly.js is embedded only where there are any.
        after: Elements below the plots.
    """
    scripts = [get_plotlyjs(), _source("page.js")] if sections else []
    return _template().render(
        title=title,
        before=before,
        sections=sections,
        after=after,
        style=Markup(_source("page.css")),
        scripts=[Markup(script) for script in scripts],
    )


def plot_sections(figures: Sequence[Figure], parallels: Sequence[Parallel]) -> list[Section]:
    """Returns the sections of a report's plots.

    Args:
        figures: Each becomes a section with a plot per panel; a figure without panels is left out.
        parallels: Parallel coordinates; their section precedes the figure of importances.
    """
    sections = []
    for figure in figures:
        if figure.name == "importances" and parallels:
            plots = [Plot(title=each.title, figure=_json(parallel_figure(each))) for each in parallels]
            caption = (
                "One line per complete trial, coloured by its score. Drag along an axis to select a range; drag the "
                "name of an axis to move it."
            )
            sections.append(Section(title="Hyperparameters and scores", caption=caption, plots=plots, wide=True))
        if figure.panels:
            plots = [Plot(title=panel.title, figure=_json(panel_figure(panel))) for panel in figure.panels]
            sections.append(Section(title=figure.title, caption=figure.caption, plots=plots))
    return sections


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
    if panel.log_x:
        values = [value for series in panel.series for value in series.x]
        ticks = [tick for tick in _log_ticks(values) if f"{tick:e}"[0] in "125"]
        texts = [number_text(tick) for tick in ticks]
        figure.update_xaxes(type="log", tickvals=ticks, ticktext=texts, tickangle=0)
    if panel.x_ticks:
        figure.update_xaxes(
            tickvals=list(panel.x_ticks.values()), ticktext=list(panel.x_ticks), range=[-0.5, len(panel.x_ticks) - 0.5]
        )
    if panel.integer_x and max((max(series.x, default=0) for series in panel.series), default=0) <= 12:
        figure.update_xaxes(dtick=1)
    if panel.log_y:
        ticks = _log_ticks([value for series in panel.series for value in series.y if isinstance(value, float)])
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[number_text(tick) for tick in ticks])
    return figure


def _log_ticks(values: Sequence[float]) -> list[float]:
    """Returns 1, 2 and 5 times the powers of ten within the positive values; every digit where the range is narrow."""
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
    marker: dict[str, Any] = {**colour, "symbol": look.symbol + "-open" * series.hollow}
    if series.hollow:
        marker["line"] = {"width": 2}
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
    # The ends of the range are ticks; Plotly would repeat them beside the axis.
    hidden = {"color": "rgba(0,0,0,0)", "size": 1}
    dimensions = [*map(_dimension, parallel.axes[:-1]), {**_dimension(score), "tickformat": ".1f"}]
    figure = go.Figure(go.Parcoords(dimensions=dimensions, line=line, rangefont=hidden))
    figure.update_layout(height=360, margin={"l": 60, "r": 44, "t": 36, "b": 12})
    return figure


def _dimension(axis: Axis) -> dict[str, Any]:
    ticks = {"tickformat": "~g"} if axis.ticks is None else {"tickvals": list(axis.ticks), "ticktext": list(axis.texts)}
    return {"label": axis.name, "values": list(axis.values), "range": [axis.low, axis.high], **ticks}


def inline_html(text: object) -> Markup:
    """Returns a text of a document as HTML; its literal parts and its code are escaped."""
    written = Markup()
    for kind, content in spans(str(text)):
        tag = _TAGS.get(kind)
        written += Markup(f"<{tag}>{{}}</{tag}>").format(content) if tag else escape(content)
    return written


LONGEST_PART = 30
"""Characters of an enumeration's part within which no line breaks."""


def enumeration_html(text: object) -> Markup:
    """Returns an enumeration as HTML in which lines break only between its parts: `α 0.5, T 10`.

    What has a long part, as sentences do, breaks anywhere.
    """
    parts = str(text).split(", ")
    if any(kind != "literal" for kind, _ in spans(str(text))) or max(map(len, parts)) > LONGEST_PART:
        return inline_html(text)
    return Markup(", ").join(Markup("<span>{}</span>").format(inline_html(part)) for part in parts)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"inline": inline_html, "enumeration": enumeration_html}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    return environment.get_template("page.html.j2")


def _json(figure: go.Figure) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(figure.to_json())
    data["layout"].pop("template", None)  # page.js sets one that follows the light or dark theme
    return data


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")
