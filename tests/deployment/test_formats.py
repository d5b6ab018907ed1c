"""By how much the score of a format may differ."""

from typing import Any

import pytest

from pkd_tune.deployment.formats import FORMATS, refusals


def measured(**scores: float) -> list[dict[str, Any]]:
    return [{"format": format_name, "metrics": {"score": score}} for format_name, score in scores.items()]


def test_one_example_of_a_small_split_may_be_worth_more_than_the_points() -> None:
    assert FORMATS["onnx"].tolerance({"dev": 10_000}) == 0.3
    assert FORMATS["onnx"].tolerance({"dev": 50}) == 2.0
    assert FORMATS["int8"].tolerance({"dev": 10_000, "dev_mm": 200}) == 2.5


@pytest.mark.parametrize(
    ("scores", "refused"),
    [
        ({"pytorch": 80.2, "onnx": 80.4, "int8": 79.3}, []),
        ({"pytorch": 79.5, "onnx": 79.5}, ["pytorch"]),
        ({"pytorch": 80.0, "onnx": 79.5, "int8": 79.5}, ["onnx"]),
        ({"pytorch": 80.0, "int8": 78.9}, ["int8"]),
        ({"pytorch": 80.0, "int8": 81.1}, ["int8"]),  # luck is not sameness
        ({"pytorch": 80.3, "onnx": 80.5}, []),  # each is held to PyTorch's score, not to the recorded one
    ],
)
def test_a_format_that_scores_differently_is_refused(scores: dict[str, float], refused: list[str]) -> None:
    found = refusals(measured(**scores), 80.0, {"dev": 10_000})
    assert list(found) == refused


def test_a_refusal_names_the_format_and_the_difference() -> None:
    assert refusals(measured(pytorch=80.0, int8=70.0), 80.0, {"dev": 10_000}) == {
        "int8": "ONNX, int8 scores 70.00 instead of 80.00; at most 1.00 points off are allowed"
    }
