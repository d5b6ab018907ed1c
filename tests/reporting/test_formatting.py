"""Formats of numbers and names."""

from pkd_tune.data.glue import TASKS
from pkd_tune.reporting.formatting import (
    METRIC_TITLES,
    listed,
    metric_titles,
    metrics_text,
    millions,
    number_text,
    setting_text,
    share_text,
    signed,
    spread_text,
)


def test_one_metric_needs_no_mean() -> None:
    assert metric_titles({"f1": 1.0, "accuracy": 2.0, "score": 1.5}, "mean") == {
        "f1": "F1",
        "accuracy": "accuracy",
        "score": "mean",
    }
    assert metric_titles({"matthews": 1.0, "score": 1.0}, "mean") == {"matthews": "Matthews correlation"}
    assert metrics_text({"accuracy": 1.0, "accuracy_mm": 2.0, "score": 1.5}, "mean") == (
        "accuracy 1.0, accuracy (mm) 2.0, mean 1.5"
    )


def test_every_metric_of_every_task_has_a_title() -> None:
    scored = {
        name + task.split(dev).suffix for task in TASKS.values() for dev in task.dev_splits for name in task.metrics
    }
    assert scored >= {"pearson", "spearman", "accuracy_mm"}
    assert scored <= METRIC_TITLES.keys()


def test_numbers_in_words() -> None:
    assert [signed(number) for number in (1.26, -1.26, -0.01, 0.0)] == ["1.3", "−1.3", "0.0", "0.0"]
    assert [spread_text(83.14, None), spread_text(83.14, 0.06)] == ["83.1", "83.1 ± 0.1"]
    assert [number_text(value) for value in (0.7551, 8.2, 10.0, 123.4, 999.7, 1000.0, 4321.0, 2e6)] == [
        *("0.755", "8.2", "10", "123", "1000", "1000", "4321", "2e6"),
    ]
    assert [number_text(value) for value in (0, 5e-5, 3.549e-5, 1e-4, 0.001)] == [
        "0",
        "5e-5",
        "3.55e-5",
        "1e-4",
        "1e-3",
    ]
    assert [setting_text(value) for value in (1000.0, 1000, True, "skip")] == ["1000", "1000", "yes", "skip"]
    assert [millions(22_713_986), millions(1_234_567)] == ["22.7 M", "1.23 M"]
    assert [listed(["a"]), listed([2, 3]), listed(["a", "b", "c"], "or")] == ["a", "2 and 3", "a, b or c"]


def test_less_than_the_whole_is_never_all_of_it() -> None:
    assert [share_text(share) for share in (0.5, 0.9949, 0.995, 0.9969, 0.99999, 1.0, 1.004)] == [
        "50%",
        "99%",
        "99.5%",
        "99.7%",
        "99.9%",
        "100%",
        "100%",
    ]
