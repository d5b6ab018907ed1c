"""Time that is kept for scoring students and writing the report."""

from pathlib import Path

import pytest

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw
from pkd_tune.workflows.report_time import FIXED_SECONDS, report_seconds, time_comparison


def seconds(students: list[float], *, examples: int = 1000, comparison: float = 0.0, onnx: bool = False) -> float:
    """Returns the seconds beside those of every search."""
    whole = report_seconds(students, examples=examples, per_example=0.01, per_comparison=comparison, onnx=onnx)
    return whole - FIXED_SECONDS


def test_every_model_scores_dev_and_every_depth_is_timed_on_single_examples() -> None:
    assert seconds([0.5]) == pytest.approx((1000 + 400) * 1.5 * 0.01)
    assert seconds([0.5, 0.5, 0.25]) == pytest.approx((1000 * 2.25 + 400 * 1.75) * 0.01)
    assert seconds([0.5], examples=100_000) == pytest.approx((100_000 + 400) * 1.5 * 0.01)


def test_formats_and_comparisons_take_time_too() -> None:
    assert seconds([0.25, 0.5], onnx=True) - seconds([0.25, 0.5]) == pytest.approx((1 + 3 * 0.5) * 1400 * 0.01)
    assert seconds([0.5, 0.5], comparison=2.0) - seconds([0.5, 0.5]) == pytest.approx(20.0)


def test_a_comparison_is_timed_on_the_splits_of_the_task(tiny_data: Path) -> None:
    dev = load_raw(TASKS["MRPC"], tiny_data)
    assert time_comparison(TASKS["MRPC"], {"dev": dev["dev"]}, seeds=3) > 0
