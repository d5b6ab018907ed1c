"""Plots of the trials of a search: progress, learning curves, hyperparameter importances, parallel coordinates."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from pkd_tune.reporting.figures import Axis, Figure, Panel, Parallel, Series
from pkd_tune.reporting.formatting import number_text, plural, setting_text, signed
from pkd_tune.reporting.importance import MIN_TRIALS, SHUFFLES, importances, tried, varied
from pkd_tune.reporting.methods import METHOD_INFO, SeriesStyle
from pkd_tune.reporting.run import ENDED, Run

MIN_LINES = 5
"""Number of complete trials below which parallel coordinates are not drawn."""


def search_figures(run: Run) -> list[Figure]:
    """Returns the figures of the search, in the order of the report; parallel coordinates are separate."""
    return [best_by_trials(run), best_by_epochs(run), rungs(run), slices(run), parameter_importances(run)]


def score_title(run: Run) -> str:
    """Returns the title of an axis of scores during training runs, on the examples that select."""
    return f"score on {run.selected_on}, × 100"


def best_by_trials(run: Run) -> Figure:
    """Returns the best score over the number of trials that ended."""
    return Figure(
        name="best-by-trials",
        title="Best score by number of trials",
        caption="Best score of the complete trials so far, in the order in which trials ended. Filled points are "
        "complete trials, hollow points are trials that were stopped early.",
        panels=_best(run, "trials", "number of trials of the method"),
    )


def best_by_epochs(run: Run) -> Figure:
    """Returns the best score over the number of epochs trained."""
    return Figure(
        name="best-by-epochs",
        title="Best score by epochs trained",
        caption="The same over the epochs trained: a trial that is stopped early trains for fewer epochs.",
        panels=_best(run, "spent", "epochs trained in all trials of the method"),
    )


def best_so_far(run: Run) -> pd.DataFrame:
    """Returns the trials of the search that ended, in the order of ending, with cumulative columns.

    Columns added to those of trials.csv: `trials` and `spent` (number of trials and of epochs of the same depth and
    method so far), `best` (highest score of a complete trial so far; NaN before the first).
    """
    trials = run.of_stage("search")
    trials = trials[trials["state"].isin(ENDED)].copy()
    if "ended" not in trials:  # of a run before there was this column; an interruption is not in the seconds
        started = pd.to_datetime(trials["started"], utc=True, format="ISO8601")
        trials["ended"] = started + pd.to_timedelta(trials["seconds"].astype(float), unit="s")
    trials["ended"] = pd.to_datetime(trials["ended"], utc=True, format="ISO8601")
    trials = trials.sort_values(["ended", "trial"], kind="stable")
    keys = [trials["depth"], trials["method"]]
    complete = trials["score"].astype(float).where(trials["state"] == "complete")
    trials["best"] = complete.groupby(keys).cummax().groupby(keys).ffill()
    trials["trials"] = trials.groupby(keys).cumcount() + 1
    trials["spent"] = trials["epochs_trained"].astype(float).groupby(keys).cumsum()
    return trials


def _best(run: Run, column: str, x: str) -> list[Panel]:
    trials = best_so_far(run)
    trials = trials[trials[column].notna()]
    panels = []
    for depth in run.search["depths"]:
        of_depth = trials[trials["depth"] == depth]
        series: list[Series] = []
        for method in run.methods:
            series += _best_of_method(of_depth[of_depth["method"] == method], METHOD_INFO[method].title, method, column)
        if series:
            title = plural(depth, "layer")
            panels.append(Panel(title=title, x=x, y=score_title(run), series=series, integer_x=column == "trials"))
    return panels


def _best_of_method(trials: pd.DataFrame, title: str, method: str, column: str) -> Iterator[Series]:
    """Yields the trials as points, and the best score so far as steps; nothing without a complete trial."""
    found = trials[trials["best"].notna()]
    if found.empty:
        return
    look = METHOD_INFO[method].look
    for state in ("complete", "stopped early"):
        some = trials[(trials["state"] == state) & trials["score"].notna()]
        yield Series(
            name=title,
            look=look,
            x=list(some[column]),
            y=list(some["score"]),
            kind="points",
            hollow=state == "stopped early",
            opacity=0.75,
            labels=[f"{title}, trial {number}, {state}" for number in some["trial"]],
            legend=False,
        )
    yield Series(name=title, look=look, x=list(found[column]), y=list(found["best"]), kind="step", width=2.5)


def rungs(run: Run) -> Figure:
    """Returns the learning curve of every trial of the search."""
    panels = []
    for depth in run.search["depths"]:
        series: list[Series] = []
        for method in run.methods:
            rows = evaluations(run, depth, method)
            best = {s["trial"] for s in run.students if (s["layers"], s["method"]) == (depth, method)}
            series += _curves(rows, METHOD_INFO[method].title, method, best)
        if series and (stopped := _stopped(run, depth)):
            series.append(stopped)
        if series:
            panels.append(Panel(title=plural(depth, "layer"), x="epoch", y=score_title(run), series=series))
    return Figure(
        name="rungs",
        title="Score during training",
        caption="One line per trial of the search; the bold line is the best trial of its method. Crosses mark "
        "where trials were stopped early; other lines that end early are of trials that failed.",
        panels=panels,
    )


def evaluations(run: Run, depth: int, method: str) -> pd.DataFrame:
    """Returns the evaluations of the search trials of a depth and method, ordered by trial."""
    rows = run.evaluations
    if rows.empty:
        return rows
    rows = rows[(rows["depth"] == depth) & (rows["method"] == method) & (rows["stage"] == "search")]
    return rows.sort_values(["trial", "evaluation"])


def _curves(rows: pd.DataFrame, title: str, method: str, best: set[int]) -> Iterator[Series]:
    """Yields all trials but the best as one series with gaps, then the best trial."""
    if rows.empty:
        return
    gap, x, y, labels = float("nan"), [], [], []
    for number, trial in rows[~rows["trial"].isin(best)].groupby("trial"):
        x += [*trial["epoch"], gap]
        y += [*trial["score"], gap]
        labels += [f"{title}, trial {number}"] * (len(trial) + 1)
    look = METHOD_INFO[method].look
    if x:
        yield Series(name=title, look=look, x=x, y=y, width=1.2, opacity=0.7, labels=labels, legend=not best)
    for number, trial in rows[rows["trial"].isin(best)].groupby("trial"):
        labels = [f"{title}, trial {number} (best)"] * len(trial)
        x, y = list(trial["epoch"]), list(trial["score"])
        yield Series(name=title, look=look, x=x, y=y, width=3, markers=True, labels=labels)


def _stopped(run: Run, depth: int) -> Series | None:
    """Returns the last evaluations of the trials of a depth that were stopped early; None without any."""
    trials = run.of_stage("search")
    trials = trials[(trials["depth"] == depth) & (trials["state"] == "stopped early")]
    x: list[float] = []
    y: list[float] = []
    labels = []
    for method, number in zip(trials["method"], trials["trial"], strict=True):
        rows = evaluations(run, depth, method)
        last = rows[rows["trial"] == number].tail(1)
        x += list(last["epoch"])
        y += list(last["score"])
        labels += [f"{METHOD_INFO[method].title}, trial {number}, stopped early"] * len(last)
    if not x:
        return None
    return Series(name="stopped early", look=SeriesStyle(symbol="x"), x=x, y=y, kind="points", labels=labels)


def slices(run: Run) -> Figure:
    """Returns the score of each complete trial over the value of each hyperparameter, by depth."""
    panels = []
    for depth in run.search["depths"]:
        found = {
            method: trials
            for method in run.methods
            if method.startswith("pkd") and len(trials := tried(run, depth, method)) >= MIN_LINES
        }
        for name in dict.fromkeys(name for trials in found.values() for name in varied(trials)):
            with_it = {method: trials for method, trials in found.items() if name in trials}
            panels.append(_slice(run, name, f"{name}, {plural(depth, 'layer')}", with_it))
    return Figure(
        name="slices",
        title="Score against each hyperparameter",
        caption="One point per complete trial. The other hyperparameters vary too, so a trend can be theirs. Depths "
        f"with fewer than {MIN_LINES} complete trials are left out.",
        panels=panels,
    )


def _slice(run: Run, name: str, title: str, found: dict[Any, pd.DataFrame]) -> Panel:
    values = pd.concat([trials[name] for trials in found.values()])
    ticks = None
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        ticks = {value: float(position) for position, value in enumerate(sorted(values.unique()))}
    series = [
        Series(
            name=METHOD_INFO[method].title,
            look=METHOD_INFO[method].look,
            x=[ticks[value] if ticks else float(value) for value in trials[name]],
            y=list(trials["score"]),
            kind="points",
            opacity=0.75,
            labels=[f"{METHOD_INFO[method].title}, trial {number}" for number in trials["trial"]],
        )
        for method, trials in found.items()
    ]
    return Panel(
        title=title,
        x=name,
        y=score_title(run),
        series=series,
        log_x=_is_logarithmic(run.record["space"][name], values),
        x_ticks={setting_text(bool(v) if isinstance(v, np.bool_) else v): at for v, at in ticks.items()}
        if ticks
        else None,
    )


def parameter_importances(run: Run) -> Figure:
    """Returns the importance of each hyperparameter, by depth and PKD method."""
    panels, fits = [], []
    for depth in run.search["depths"]:
        series = []
        for method in run.methods:
            found = importances(run, depth, method) if method.startswith("pkd") else None
            if found is None:
                continue
            title, look = METHOD_INFO[method].title, METHOD_INFO[method].look
            series.append(Series(name=title, look=look, x=found.drops, y=found.names, kind="bars", error=found.spreads))
            fits.append(
                f"{title}, {plural(depth, 'layer')}: {found.trials} trials, out-of-bag R² {signed(found.r2, 2)}"
            )
        if series:
            panels.append(Panel(title=plural(depth, "layer"), x="decrease of R² when shuffled", y="", series=series))
    return Figure(
        name="importances",
        title="Hyperparameter importances",
        caption="Permutation importance in a random forest fitted to the complete trials of a depth: the decrease of "
        f"its R² when the values of one hyperparameter are shuffled among the trials (mean and standard deviation of "
        f"{SHUFFLES} shuffles; depths with fewer than {MIN_TRIALS} complete trials are left out). The out-of-bag R² "
        "is that of trials a tree has not seen; where it is near or below 0, as with few trials, the forest does not "
        f"generalise and the importances are not reliable. {'; '.join(fits)}.",
        panels=panels,
    )


def parallel_coordinates(run: Run) -> list[Parallel]:
    """Returns parallel coordinates for each depth and PKD method with enough trials and varying hyperparameters."""
    plots = []
    for depth in run.search["depths"]:
        for method in run.methods:
            trials = tried(run, depth, method)
            names = varied(trials)
            if method.startswith("pkd") and len(trials) >= MIN_LINES and names:
                axes = [_axis(name, trials[name], run.record["space"][name]) for name in names]
                title = f"{METHOD_INFO[method].title}, {plural(depth, 'layer')}"
                plots.append(Parallel(title=title, axes=[*axes, _axis("score", trials["score"], {})]))
    return plots


def _is_logarithmic(spec: dict[str, Any], values: pd.Series) -> bool:
    """Returns whether values are shown on a logarithmic axis: not where one is 0 as the alternative to a condition."""
    return bool(spec.get("log")) and bool((values > 0).all())


def _axis(name: str, values: pd.Series, spec: dict[str, Any]) -> Axis:
    """Returns the axis of a column: over the whole search range, or with a tick for each category.

    Args:
        name: Name of the hyperparameter, or `score`.
        values: The values of the trials.
        spec: Description of the hyperparameter in run.json; empty for the score.
    """
    if pd.api.types.is_bool_dtype(values) or not pd.api.types.is_numeric_dtype(values):
        categories = sorted(values.unique())
        positions = {category: float(position) for position, category in enumerate(categories)}
        boolean = pd.api.types.is_bool_dtype(values)
        return Axis(
            name=name,
            values=[positions[value] for value in values],
            low=0.0,
            high=float(len(categories) - 1),
            ticks=list(positions.values()),
            texts=[setting_text(bool(category)) if boolean else str(category) for category in categories],
        )
    low = float(min(spec.get("low", math.inf), values.min()))
    high = float(max(spec.get("high", -math.inf), values.max()))
    if not _is_logarithmic(spec, values):
        return Axis(name=name, values=[float(value) for value in values], low=low, high=high)
    rounds = [digit * 10.0**power for power in range(-9, 9) for digit in (1, 2, 5)]
    ticks = [low, *(tick for tick in rounds if 1.3 * low < tick < high / 1.3), high]
    return Axis(
        name=name,
        values=[math.log10(value) for value in values],
        low=math.log10(low),
        high=math.log10(high),
        ticks=[math.log10(tick) for tick in ticks],
        texts=[number_text(tick) for tick in ticks],
    )
