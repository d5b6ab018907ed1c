"""Axes of parallel coordinates."""

import math
from pathlib import Path

from recorded_run import write_run

from pkd_tune.reporting.parallel import parallel_coordinates
from pkd_tune.reporting.run import read_run


def test_axes_span_what_was_searched(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=20, depths=(3,)))
    ((title, figure),) = parallel_coordinates(run)
    assert title == "PKD, 3 layers"
    axes = {axis.label: axis for axis in figure.data[0].dimensions}
    assert list(axes) == ["alpha", "beta", "temperature", "learning_rate", "strategy", "normalize", "score"]
    assert list(axes["alpha"].range) == [0.2, 0.9]
    assert list(axes["beta"].range) == [0.0, 3.0]
    assert list(axes["beta"].ticktext) == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000"]
    assert [math.isclose(10**v, float(t)) for v, t in zip(axes["beta"].tickvals, axes["beta"].ticktext, strict=True)]
    assert list(axes["strategy"].ticktext) == ["last", "skip"]
    assert list(axes["normalize"].ticktext) == ["no", "yes"]
    complete = run.trials.query("method == 'pkd' and stage == 'search' and state == 'complete'")
    assert list(axes["score"].values) == complete["score"].tolist()


def test_a_fixed_setting_has_no_axis_and_few_trials_no_plot(tmp_path: Path) -> None:
    few = {"depths": (3,), "methods": ("pkd-skip",)}
    ((_, figure),) = parallel_coordinates(read_run(write_run(tmp_path / "a" / "b", trials=10, **few)))
    assert "strategy" not in [axis.label for axis in figure.data[0].dimensions]
    assert parallel_coordinates(read_run(write_run(tmp_path / "a" / "c", trials=2, **few))) == []
