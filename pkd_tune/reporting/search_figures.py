"""Plots of a search's trials: what was found by when, how each went, and which settings mattered."""

from collections.abc import Iterator

import pandas as pd

from pkd_tune.reporting.figures import Figure, Panel, Series
from pkd_tune.reporting.formatting import plural, signed
from pkd_tune.reporting.importance import FEWEST_TRIALS, SHUFFLES, importances
from pkd_tune.reporting.methods import METHOD_INFO, in_order
from pkd_tune.reporting.run import ENDED, Run


def search_figures(run: Run) -> list[Figure]:
    """Returns the figures of the search, in the order of the report."""
    return [best_by_trials(run), best_by_epochs(run), rungs(run), parameter_importances(run)]


def score_title(run: Run) -> str:
    """Returns the title of the axis of scores during trainings, which choose settings and epochs."""
    return f"score on {run.chosen_on}, × 100"


def best_by_trials(run: Run) -> Figure:
    """Returns the best score against the number of trials that ended."""
    return Figure(
        name="best-by-trials",
        title="Best score against trials",
        caption="Best complete trial so far, trials in the order of ending. Filled points are complete trials, hollow "
        "ones were stopped early.",
        panels=_best(run, "trials", "trials of the method"),
    )


def best_by_epochs(run: Run) -> Figure:
    """Returns the best score against the epochs spent."""
    return Figure(
        name="best-by-epochs",
        title="Best score against trial-epochs",
        caption="The same against what it cost: a trial that is stopped early spends fewer epochs.",
        panels=_best(run, "spent", "epochs trained, all trials of the method"),
    )


def best_so_far(run: Run) -> pd.DataFrame:
    """Returns the search's trials that ended, in that order, with what had been found and spent by then.

    Columns beside those of trials.csv: `trials` and `spent` (trials and epochs of the same depth and method until
    then), `best` (the highest score of a complete one; NaN before the first).
    """
    trials = run.of_stage("search")
    trials = trials[trials["state"].isin(ENDED)].copy()
    started = pd.to_datetime(trials["started"], utc=True, format="ISO8601")
    trials["ended"] = started + pd.to_timedelta(trials["seconds"].astype(float), unit="s")
    trials = trials.sort_values(["ended", "trial"], kind="stable")
    keys = [trials["depth"], trials["method"]]
    complete = trials["score"].astype(float).where(trials["state"] == "complete")
    trials["best"] = complete.groupby(keys).cummax().groupby(keys).ffill()
    trials["trials"] = trials.groupby(keys).cumcount() + 1
    trials["spent"] = trials["epochs"].astype(float).groupby(keys).cumsum()
    return trials


def _best(run: Run, column: str, x: str) -> list[Panel]:
    trials = best_so_far(run)
    trials = trials[trials[column].notna()]
    panels = []
    for depth in run.search["depths"]:
        of_depth = trials[trials["depth"] == depth]
        series: list[Series] = []
        for method in in_order(run.search["methods"]):
            series += _best_of_method(of_depth[of_depth["method"] == method], METHOD_INFO[method].title, method, column)
        if series:
            title = plural(depth, "layer")
            panels.append(Panel(title=title, x=x, y=score_title(run), series=series, whole_x=column == "trials"))
    return panels


def _best_of_method(trials: pd.DataFrame, title: str, method: str, column: str) -> Iterator[Series]:
    """Yields each trial as a point, and the best so far as steps; nothing without a complete trial."""
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
            opacity=0.5,
            labels=[f"{title}, trial {number}, {state}" for number in some["trial"]],
            legend=False,
        )
    yield Series(name=title, look=look, x=list(found[column]), y=list(found["best"]), kind="step", width=2.5)


def rungs(run: Run) -> Figure:
    """Returns the score of every trial of the search over its epochs."""
    panels = []
    for depth in run.search["depths"]:
        series: list[Series] = []
        for method in in_order(run.search["methods"]):
            rows = evaluations(run, depth, method)
            best = {s["trial"] for s in run.students if (s["layers"], s["method"]) == (depth, method)}
            series += _curves(rows, METHOD_INFO[method].title, method, best)
        if series:
            panels.append(Panel(title=plural(depth, "layer"), x="epoch", y=score_title(run), series=series))
    return Figure(
        name="rungs",
        title="Score during training",
        caption="One line per trial of the search; the bold one is the best of its method. Lines that end early were "
        "stopped or failed.",
        panels=panels,
    )


def evaluations(run: Run, depth: int, method: str) -> pd.DataFrame:
    """Returns the evaluations of a depth's and method's search trials, trial by trial."""
    rows = run.evaluations
    if rows.empty:
        return rows
    rows = rows[(rows["depth"] == depth) & (rows["method"] == method) & (rows["stage"] == "search")]
    return rows.sort_values(["trial", "evaluation"])


def _curves(rows: pd.DataFrame, title: str, method: str, best: set[int]) -> Iterator[Series]:
    """Yields all trials but the best as one series with gaps, then the best."""
    if rows.empty:
        return
    gap, x, y, labels = float("nan"), [], [], []
    for number, trial in rows[~rows["trial"].isin(best)].groupby("trial"):
        x += [*trial["epoch"], gap]
        y += [*trial["score"], gap]
        labels += [f"{title}, trial {number}"] * (len(trial) + 1)
    look = METHOD_INFO[method].look
    if x:
        yield Series(name=title, look=look, x=x, y=y, width=1, opacity=0.5, labels=labels, legend=not best)
    for number, trial in rows[rows["trial"].isin(best)].groupby("trial"):
        labels = [f"{title}, trial {number}, the best"] * len(trial)
        x, y = list(trial["epoch"]), list(trial["score"])
        yield Series(name=title, look=look, x=x, y=y, width=3, markers=True, labels=labels)


def parameter_importances(run: Run) -> Figure:
    """Returns how much each setting matters, by depth and PKD method."""
    panels, fits = [], []
    for depth in run.search["depths"]:
        series = []
        for method in in_order(run.search["methods"]):
            found = importances(run, depth, method) if method.startswith("pkd") else None
            if found is None:
                continue
            title, look = METHOD_INFO[method].title, METHOD_INFO[method].look
            series.append(Series(name=title, look=look, x=found.drops, y=found.names, kind="bars", error=found.spreads))
            fits.append(
                f"{title}, {plural(depth, 'layer')}: {found.trials} trials, out-of-bag R² {signed(found.r2, 2)}"
            )
        if series:
            panels.append(Panel(title=plural(depth, "layer"), x="fall of R² when shuffled", y="", series=series))
    return Figure(
        name="importances",
        title="Which settings matter",
        caption="Permutation importance in a random forest fitted to the complete trials of a depth: how far its R² "
        f"falls when a setting's values are shuffled among them (mean and standard deviation of {SHUFFLES} shuffles; "
        f"depths with fewer than {FEWEST_TRIALS} complete trials are left out). Few trials mean little: where the "
        "out-of-bag R², which is of trials a tree has not seen, is near or below 0, the forest has learnt nothing that "
        f"holds for others. {'; '.join(fits)}.",
        panels=panels,
    )
