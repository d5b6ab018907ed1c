"""Parallel coordinates of a search's trials: which settings went with which score."""

import math
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from pkd_tune.reporting.importance import tried, varied
from pkd_tune.reporting.methods import METHODS, in_order
from pkd_tune.reporting.run import Run
from pkd_tune.reporting.words import plural, setting_text

_COLOURS = [[0, "#EE7733"], [0.5, "#AA5599"], [1, "#0077BB"]]
"""Low, middle and high scores, readable on white and on black."""

FEWEST_TRIALS = 5
"""Complete trials below which lines between axes show nothing."""


def parallel_coordinates(run: Run) -> list[tuple[str, go.Figure]]:
    """Returns title and plot for each depth and PKD method that has trials enough and settings that vary."""
    plots = []
    for depth in run.search["depths"]:
        for method in in_order(run.search["methods"]):
            trials = tried(run, depth, method)
            names = varied(trials)
            if method.startswith("pkd") and len(trials) >= FEWEST_TRIALS and names:
                plots.append((f"{METHODS[method].title}, {plural(depth, 'layer')}", _plot(run, trials, names)))
    return plots


def _plot(run: Run, trials: pd.DataFrame, names: list[str]) -> go.Figure:
    space = (run.record or {}).get("space", {})
    axes = [_axis(name, trials[name], space.get(name, {})) for name in names]
    score = {"label": "score", "values": list(trials["score"]), "tickformat": ".1f"}
    line = {"color": list(trials["score"]), "colorscale": _COLOURS}
    # The ends of a range are ticks already; Plotly would write them again beside the axis.
    hidden = {"color": "rgba(0,0,0,0)", "size": 1}
    figure = go.Figure(go.Parcoords(dimensions=[*axes, score], line=line, rangefont=hidden))
    figure.update_layout(height=360, margin={"l": 60, "r": 44, "t": 36, "b": 12})
    return figure


def _axis(name: str, values: pd.Series, spec: dict[str, Any]) -> dict[str, Any]:
    """Returns a setting's axis: over the whole range that was searched, or with one tick for each word.

    Args:
        name: Of the setting.
        values: That were tried.
        spec: What run.json says of it; empty in runs without.
    """
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        words = sorted(values.unique())
        texts = [setting_text(bool(word)) if pd.api.types.is_bool_dtype(values) else str(word) for word in words]
        places = {word: float(place) for place, word in enumerate(words)}
        return {
            "label": name,
            "values": [places[v] for v in values],
            "tickvals": list(places.values()),
            "ticktext": texts,
        }
    low, high = float(spec.get("low", values.min())), float(spec.get("high", values.max()))
    if not spec.get("log"):
        return {"label": name, "values": list(values), "range": [low, high], "tickformat": "~g"}
    rounds = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
    ticks = [low, *(tick for tick in rounds if 1.3 * low < tick < high / 1.3), high]
    return {
        "label": name,
        "values": [math.log10(value) for value in values],
        "range": [math.log10(low), math.log10(high)],
        "tickvals": [math.log10(tick) for tick in ticks],
        "ticktext": [f"{tick:g}" for tick in ticks],
    }
