"""What the plots of a search show, against numbers worked out by hand."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.reporting.run import Run, read_run
from pkd_tune.reporting.search_figures import (
    best_by_trials,
    best_so_far,
    parallel_coordinates,
    rungs,
    search_figures,
    slices,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("run") / "MRPC" / "minilm"))


def row(trial: int, state: str, score: float | None, started: int, seconds: int, epochs: float) -> dict[str, object]:
    return {
        **{"depth": 2, "method": "pkd", "stage": "search", "trial": trial, "state": state, "score": score},
        **{"started": f"2026-01-01T00:00:{started:02}+00:00", "seconds": seconds, "epochs_trained": epochs},
    }


ROWS = [
    row(0, "complete", 70.0, 0, 30, 4),  # ends third
    row(1, "stopped early", 90.0, 0, 10, 1),  # ends first; a score that no complete trial reached does not count
    row(2, "complete", 60.0, 10, 10, 4),  # ends second
    row(3, "interrupted", 95.0, 30, 5, 2),
    row(4, "failed", None, 30, 6, 0.5),
    row(5, "complete", 65.0, 30, 20, 4),
    {**row(0, "complete", 99.0, 50, 20, 4), "stage": "confirm"},
]


def test_best_so_far_by_hand(run: Run) -> None:
    found = best_so_far(replace(run, trials=pd.DataFrame(ROWS)))
    assert found["trial"].tolist() == [1, 2, 0, 4, 5]
    assert found["trials"].tolist() == [1, 2, 3, 4, 5]
    assert found["spent"].tolist() == [1, 5, 9, 9.5, 13.5]
    assert found["best"].tolist()[1:] == [60, 70, 70, 70]
    assert pd.isna(found["best"].iloc[0])


def test_a_trial_that_was_interrupted_counts_when_it_ended(run: Run) -> None:
    """The hours before it went on are in none of its seconds."""
    ended = (59, 10, 20, None, 36, 50, 58)
    rows = [{**row, "ended": at and f"2026-01-01T00:{at:02}:00"} for row, at in zip(ROWS, ended, strict=True)]
    found = best_so_far(replace(run, trials=pd.DataFrame(rows)))
    assert found["trial"].tolist() == [1, 2, 4, 5, 0]
    assert found["best"].tolist()[1:] == [60, 60, 65, 70]


def test_the_best_line_ends_at_the_selection_score(run: Run) -> None:
    for depth, panel in zip((2, 3), best_by_trials(run).panels, strict=True):
        assert panel.title == f"{depth} layers"
        steps = {series.name: series for series in panel.series if series.kind == "step"}
        assert list(steps) == ["fine-tuned", "KD", "PKD"]
        for student in (student for student in run.students if student["layers"] == depth):
            title = {"finetuned": "fine-tuned", "kd": "KD", "pkd": "PKD"}[student["method"]]
            assert steps[title].y[-1] == student["search_score"]
            assert steps[title].x[-1] == student["trials_ended"]


def test_every_trial_has_its_curve_and_the_best_is_bold(run: Run) -> None:
    panel = rungs(run).panels[0]
    for series in (series for series in panel.series if series.name == "PKD"):
        assert series.labels is not None
        if series.width == 3:
            assert all("(best)" in label for label in series.labels)
            assert max(map(float, series.y)) == max(s["search_score"] for s in run.students if s["layers"] == 2)
        else:
            of_pkd = run.evaluations.query("depth == 2 and method == 'pkd' and stage == 'search'")
            assert len(set(series.labels)) == of_pkd["trial"].nunique() - 1


def test_trials_that_were_stopped_are_marked_at_their_last_evaluation(run: Run) -> None:
    stopped = run.trials.query("stage == 'search' and state == 'stopped early'")
    for depth, panel in zip((2, 3), rungs(run).panels, strict=True):
        marks = [series for series in panel.series if series.name == "stopped early"]
        ends = stopped.query(f"depth == {depth}")
        assert sum(len(series.x) for series in marks) == len(ends)
        if marks:
            assert list(marks[0].x) == ends["epochs_trained"].tolist()
    assert len(stopped) > 0


def test_each_hyperparameter_has_a_slice_of_the_complete_trials(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=20, depths=(3,), methods=("pkd", "kd")))
    panels = {panel.x: panel for panel in slices(run).panels}
    assert list(panels) == ["alpha", "beta", "temperature", "learning_rate", "strategy", "normalize"]
    complete = run.trials.query("method == 'pkd' and stage == 'search' and state == 'complete'")
    (series,) = panels["beta"].series
    assert (list(series.x), list(series.y)) == (complete["beta"].tolist(), complete["score"].tolist())
    assert (panels["alpha"].log_x, panels["beta"].log_x) == (False, True)
    assert panels["strategy"].x_ticks == {"last": 0.0, "skip": 1.0}
    assert panels["normalize"].x_ticks == {"no": 0.0, "yes": 1.0}
    assert list(panels["normalize"].series[0].x) == complete["normalize"].astype(float).tolist()


def test_without_evaluations_there_are_no_curves(run: Run) -> None:
    assert not rungs(replace(run, evaluations=pd.DataFrame())).panels


def test_without_trials_there_is_nothing(run: Run) -> None:
    empty = replace(run, trials=run.trials.head(0), evaluations=pd.DataFrame())
    assert [figure.name for figure in search_figures(empty) if figure.panels] == []


def test_axes_span_what_was_searched(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=20, depths=(3,)))
    (plot,) = parallel_coordinates(run)
    assert plot.title == "PKD, 3 layers"
    axes = {axis.name: axis for axis in plot.axes}
    assert list(axes) == ["alpha", "beta", "temperature", "learning_rate", "strategy", "normalize", "score"]
    assert (axes["alpha"].low, axes["alpha"].high) == (0.2, 0.9)
    assert (axes["beta"].low, axes["beta"].high) == (0.0, 3.0)
    assert list(axes["beta"].texts) == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"]
    ticks = axes["beta"].ticks or ()
    assert all(math.isclose(10**tick, float(text)) for tick, text in zip(ticks, axes["beta"].texts, strict=True))
    assert list(axes["strategy"].texts) == ["last", "skip"]
    assert list(axes["normalize"].texts) == ["no", "yes"]
    assert (axes["normalize"].low, axes["normalize"].high) == (0, 1)
    complete = run.trials.query("method == 'pkd' and stage == 'search' and state == 'complete'")
    assert list(axes["score"].values) == complete["score"].tolist()
    assert (axes["score"].low, axes["score"].high) == (complete["score"].min(), complete["score"].max())


def test_a_fixed_setting_has_no_axis_and_few_trials_no_plot(tmp_path: Path) -> None:
    few: dict[str, Any] = {"depths": (3,), "methods": ("pkd-skip",)}
    (plot,) = parallel_coordinates(read_run(write_run(tmp_path / "a" / "b", trials=10, **few)))
    assert "strategy" not in [axis.name for axis in plot.axes]
    assert parallel_coordinates(read_run(write_run(tmp_path / "a" / "c", trials=2, **few))) == []


def test_a_logarithmic_range_with_0_as_its_alternative_is_shown_on_a_linear_axis(tmp_path: Path) -> None:
    """As of beta = {..., log = true, when = {...}, otherwise = 0}, of which some trials have 0."""
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=20, depths=(3,)))
    trials = run.trials.assign(beta=run.trials["beta"].where(run.trials["strategy"] == "skip", 0.0))
    run = replace(run, trials=trials)
    (plot,) = parallel_coordinates(run)
    (beta,) = [axis for axis in plot.axes if axis.name == "beta"]
    assert (beta.low, beta.high, 0.0 in beta.values) == (0.0, 1000.0, True)
    (panel,) = [panel for panel in slices(run).panels if panel.x == "beta"]
    assert not panel.log_x
