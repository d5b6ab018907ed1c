"""Axes of parallel coordinates."""

import math
from pathlib import Path

from recorded_run import write_run

from pkd_tune.reporting.parallel import parallel_coordinates
from pkd_tune.reporting.run import read_run


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
    few = {"depths": (3,), "methods": ("pkd-skip",)}
    (plot,) = parallel_coordinates(read_run(write_run(tmp_path / "a" / "b", trials=10, **few)))
    assert "strategy" not in [axis.name for axis in plot.axes]
    assert parallel_coordinates(read_run(write_run(tmp_path / "a" / "c", trials=2, **few))) == []
