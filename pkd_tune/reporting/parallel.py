"""Parallel coordinates of a search's trials: which settings went with which score."""

import math
from typing import Any

import pandas as pd

from pkd_tune.reporting.figures import Axis, Parallel
from pkd_tune.reporting.formatting import plural, setting_text
from pkd_tune.reporting.importance import tried, varied
from pkd_tune.reporting.methods import METHOD_INFO, in_order
from pkd_tune.reporting.run import Run

FEWEST_TRIALS = 5
"""Complete trials below which lines between axes show nothing."""


def parallel_coordinates(run: Run) -> list[Parallel]:
    """Returns the plot of each depth and PKD method that has trials enough and settings that vary."""
    space = (run.record or {}).get("space", {})
    plots = []
    for depth in run.search["depths"]:
        for method in in_order(run.search["methods"]):
            trials = tried(run, depth, method)
            names = varied(trials)
            if method.startswith("pkd") and len(trials) >= FEWEST_TRIALS and names:
                axes = [_axis(name, trials[name], space.get(name, {})) for name in names]
                title = f"{METHOD_INFO[method].title}, {plural(depth, 'layer')}"
                plots.append(Parallel(title=title, axes=[*axes, _axis("score", trials["score"], {})]))
    return plots


def _axis(name: str, values: pd.Series, spec: dict[str, Any]) -> Axis:
    """Returns a column's axis: over the whole range that was searched, or with one tick for each word.

    Args:
        name: Of the setting, or `score`.
        values: That were tried.
        spec: What run.json says of it; empty in runs without, and for the score.
    """
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        words = sorted(values.unique())
        places = {word: float(place) for place, word in enumerate(words)}
        return Axis(
            name=name,
            values=[places[value] for value in values],
            low=0.0,
            high=float(len(words) - 1),
            ticks=list(places.values()),
            texts=[setting_text(bool(word)) if pd.api.types.is_bool_dtype(values) else str(word) for word in words],
        )
    low, high = float(spec.get("low", values.min())), float(spec.get("high", values.max()))
    if not spec.get("log"):
        return Axis(name=name, values=[float(value) for value in values], low=low, high=high)
    rounds = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
    ticks = [low, *(tick for tick in rounds if 1.3 * low < tick < high / 1.3), high]
    return Axis(
        name=name,
        values=[math.log10(value) for value in values],
        low=math.log10(low),
        high=math.log10(high),
        ticks=[math.log10(tick) for tick in ticks],
        texts=[f"{tick:g}" for tick in ticks],
    )
