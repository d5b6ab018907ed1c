from typing import Any, cast, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pkd_tune.config import Init, Strategy
from pkd_tune.distillation.layer_map import start_layers, teacher_layers


@pytest.mark.parametrize(
    ("strategy", "student", "teacher", "expected"),
    [
        # The published maps: FACTS of the paper (12 to 6) and of the released code (12 to 3, 24 to 6).
        ("skip", 6, 12, (2, 4, 6, 8, 10)),
        ("last", 6, 12, (7, 8, 9, 10, 11)),
        ("skip", 3, 12, (4, 8)),
        ("last", 3, 12, (10, 11)),
        ("skip", 6, 24, (4, 8, 12, 16, 20)),
        ("skip", 4, 6, (1, 3, 4)),
        ("skip", 1, 12, ()),
        ("last", 1, 12, ()),
    ],
)
def test_known_maps(strategy: Strategy, student: int, teacher: int, expected: tuple[int, ...]) -> None:
    assert teacher_layers(strategy, student, teacher) == expected


@given(st.data(), st.sampled_from(get_args(Strategy)))
def test_every_map_rises_strictly_and_stays_under_the_top(data: st.DataObject, strategy: Strategy) -> None:
    teacher = data.draw(st.integers(2, 48))
    student = data.draw(st.integers(1, teacher - 1))
    layers = teacher_layers(strategy, student, teacher)
    assert len(layers) == student - 1
    assert list(layers) == sorted(set(layers))
    assert all(1 <= layer < teacher for layer in layers)


@pytest.mark.parametrize(("student", "teacher"), [(0, 12), (12, 12), (13, 12)])
def test_impossible_depths_are_refused(student: int, teacher: int) -> None:
    with pytest.raises(ValueError, match=f"1 to {teacher - 1} layers"):
        teacher_layers("skip", student, teacher)


def test_unknown_strategy_is_refused() -> None:
    with pytest.raises(ValueError, match="'first'"):
        teacher_layers(cast(Any, "first"), 3, 12)


@pytest.mark.parametrize(
    ("init", "student", "model", "expected"),
    [
        ("pretrained", 3, 12, (1, 2, 3)),
        ("teacher", 3, 12, (1, 2, 3)),
        ("teacher-skip", 3, 12, (4, 8, 12)),
        ("teacher-skip", 4, 6, (1, 3, 4, 6)),
        ("teacher-skip", 1, 12, (12,)),
    ],
)
def test_layers_a_student_starts_from(init: Init, student: int, model: int, expected: tuple[int, ...]) -> None:
    assert start_layers(init, student, model) == expected


def test_a_student_deeper_than_its_start_is_refused() -> None:
    with pytest.raises(ValueError, match="4-layer model to 5"):
        start_layers("pretrained", 5, 4)
