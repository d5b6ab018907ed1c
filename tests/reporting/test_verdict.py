"""Which student is chosen, how often wrongly, and what is said of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recorded_run import write_run

from pkd_tune.data.glue import TASKS
from pkd_tune.data.significance import half_width, resampled_scores
from pkd_tune.files import read_json
from pkd_tune.reporting.run import read_run
from pkd_tune.reporting.verdict import choose_student, is_at_baseline, verdict_text

TEACHER: dict[str, Any] = {
    **{"metrics": {"score": 84.2}, "parameters": 100, "latency_ms": 10.0, "examples": 400},
    **{"majority": {"score": 60.0}, "baseline": "most frequent class"},
}


def student(
    layers: int, mean: float | None, low: float | None, method: str = "pkd", score: float = 70.0, **more: Any
) -> dict[str, Any]:
    """Returns a student whose interval against the teacher begins at `low`; None: one without confirmations."""
    against = None
    if low is not None and mean is not None:
        difference = mean - TEACHER["metrics"]["score"]
        against = {"difference": difference, "low": low, "high": 2 * difference - low, "students": 2}
    return {
        "layers": layers,
        "method": method,
        "parameters": 10 * layers,
        "latency_ms": 2.0 * layers,
        "folder": f"best/{layers}-layer",
        "metrics": {"score": score},
        "confirmed": None if mean is None else {"mean": mean, "sd": 0.5, "scores": [mean] * 3},
        "against_teacher": against,
        **more,
    }


@pytest.mark.parametrize(
    ("students", "tolerance", "chosen", "within"),
    [
        # The smallest whose interval lies within the tolerance, whatever scores better.
        ([student(1, 80.0, -5.0), student(2, 83.9, -0.9), student(3, 84.5, -0.2)], 1.0, 1, True),
        # The interval counts, not the mean: the first is nearer, but not shown to be.
        ([student(1, 84.1, -1.1), student(3, 83.9, -0.9)], 1.0, 1, True),
        # A larger tolerance lets a smaller student pass.
        ([student(1, 80.0, -5.0), student(2, 83.9, -0.9)], 5.0, 0, True),
        # Of equal sizes, the better score.
        ([student(2, 83.9, -0.9), student(2, 84.0, -0.9, "kd")], 1.0, 1, True),
        # None is good enough: the best confirmed score, not the best of the search.
        ([student(1, 82.0, -4.0), student(2, 81.0, -5.0, score=99.0)], 1.0, 0, False),
        # A confirmed student before one that is not, and the best exported score without confirmations.
        ([student(1, 80.0, None), student(2, None, None, score=83.0)], 1.0, 0, False),
        ([student(1, None, None, score=80.0), student(2, None, None, score=83.0)], 99.0, 1, False),
    ],
)
def test_the_smallest_that_is_shown_to_be_within_the_tolerance(
    students: list[dict[str, Any]], tolerance: float, chosen: int, within: bool
) -> None:
    verdict = choose_student(students, TEACHER, tolerance)
    assert verdict is not None
    assert (students.index(verdict.student), verdict.within) == (chosen, within)


def test_a_student_that_has_learnt_nothing_is_not_shipped_however_large_the_tolerance() -> None:
    constant = student(1, 60.0, -25.0, score=60.0)
    verdict = choose_student([constant, student(3, 80.0, -29.0)], TEACHER, 30.0)
    assert verdict is not None
    assert (verdict.student["layers"], verdict.within) == (3, True)
    verdict = choose_student([constant], TEACHER, 30.0)
    assert verdict is not None
    assert not verdict.within
    assert verdict_text(verdict).endswith("It is no better than always predicting the most frequent class.")


def test_a_student_that_always_predicts_the_rarer_class_has_learnt_nothing() -> None:
    """By F1 it can score more than the majority's baseline."""
    constant = student(1, 62.0, -22.0, score=62.0)
    assert not is_at_baseline(constant, TEACHER)
    assert is_at_baseline(constant, {**TEACHER, "constant_score": 62.0})


def test_no_students_have_no_verdict() -> None:
    assert choose_student([], TEACHER, 1.0) is None


def test_what_is_said_of_the_student_to_ship() -> None:
    formats = [{"format": name, "latency_ms": ms} for name, ms in (("teacher", 12.0), ("onnx", 4.0), ("int8", 3.0))]
    verdict = choose_student([student(3, 83.9, -0.9, formats=formats)], TEACHER, 1.0)
    assert verdict is not None
    facts = "83.9 ± 0.5 on 3 fresh seeds, 99.6% of the teacher's 84.2, 30% of its size, 1.7× as fast "
    facts += "(3.0× as ONNX, 4.0× as ONNX int8)"
    interval = "the difference is −0.3, with a 95 % confidence interval for 2 students together from −0.9 to 0.3"
    assert verdict_text(verdict) == (
        f"**Ship** `best/3-layer`: {facts}. It is within 1 point of the teacher: {interval}."
    )
    assert verdict_text(verdict, "this student").startswith("**Ship** this student: 83.9")


def test_a_student_above_the_teacher_is_not_called_near() -> None:
    verdict = choose_student([student(3, 90.0, 2.8)], TEACHER, 1.0)
    assert verdict is not None
    interval = "the difference is 5.8, with a 95 % confidence interval for 2 students together from 2.8 to 8.8"
    assert verdict_text(verdict).endswith(f"It is better than the teacher: {interval}.")


def test_what_is_said_where_none_is_good_enough() -> None:
    verdict = choose_student([student(3, None, None)], TEACHER, 0.5)
    assert verdict is not None
    assert verdict_text(verdict) == (
        "**No student is shown to be within 0.5 points of the teacher.** `best/3-layer` comes nearest: 70.0 on dev, "
        "not confirmed on fresh seeds, 83% of the teacher's 84.2, 30% of its size, 1.7× as fast; without at least two "
        "fresh seeds there is no confidence interval of its difference to the teacher."
    )


def test_what_is_said_of_the_students_of_one_method() -> None:
    verdict = choose_student([student(3, None, None)], TEACHER, 0.5)
    assert verdict is not None
    assert verdict_text(verdict, of="KD").startswith(
        "**No KD student is shown to be within 0.5 points of the teacher.**"
    )


@pytest.mark.parametrize(("score", "whole"), [(-1.5, 84.2), (3.0, 0.0), (3.0, -2.0)])
def test_no_share_is_stated_of_scores_that_have_none(score: float, whole: float) -> None:
    verdict = choose_student([student(3, None, None, score=score)], {**TEACHER, "metrics": {"score": whole}}, 0.5)
    assert verdict is not None
    text = f"{score:.1f} on dev, not confirmed on fresh seeds, the teacher's is {whole:.1f}, 30% of its size"
    assert text in verdict_text(verdict)


def test_a_report_can_have_another_tolerance_than_its_search(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", tolerance=2.0)
    assert read_json(run / "summary.json")["tolerance"] == 2.0
    found = [read_run(run, tolerance).verdict for tolerance in (None, 20.0)]
    assert [(each.tolerance, each.within) for each in found if each] == [(2.0, False), (20.0, True)]


@pytest.mark.parametrize("between_seeds", [0.0, 0.01, 0.05])
def test_two_equal_students_are_falsely_chosen_in_at_most_5_percent_of_runs(between_seeds: float) -> None:
    """In 1,000 simulated runs, two students of which neither is within the tolerance: both fall short of the teacher by
    exactly that, two points of accuracy."""
    runs, size, seeds, tolerance = 1000, 150, 3, 2.0
    rng = np.random.default_rng(7)
    teacher = rng.random((runs, size)) < 0.85
    lost = (0.15 * 0.3 + tolerance / 100) / 0.85 + rng.normal(0, between_seeds, (runs, 2, seeds, 1))
    turned = rng.random((runs, 2, seeds, size))
    # Of what the teacher gets wrong a student gets 0.3 right; of the rest it loses so much that it is 2 points worse.
    right = np.where(teacher[:, None, None], turned >= lost, turned < 0.3)
    rows = [*right.reshape(-1, size).astype(int), *teacher.astype(int)]
    scores = resampled_scores(TASKS["RTE"], [{"dev": row} for row in rows], {"dev": np.ones(size, int)}, 200)
    of_students = scores[: right.size // size].reshape(runs, 2, seeds, -1).mean(2)
    resampled = of_students - scores[right.size // size :][:, None]
    found, reached = 100 * right.mean(-1), 100 * teacher.mean(-1)
    half = half_width(found, None, resampled, 1 - 0.05 / 2)
    low = found.mean(-1) - reached[:, None] - half
    false = 0
    for run in range(runs):
        students = [student(k, found[run, k - 1].mean(), low[run, k - 1]) for k in (1, 2)]
        verdict = choose_student(students, TEACHER, tolerance)
        false += verdict is not None and verdict.within
    assert false <= 0.05 * runs


@pytest.mark.parametrize(
    ("metrics", "points", "expected"),
    [
        ({"f1": 81.2, "accuracy": 68.4}, 0.04, True),
        ({"f1": 81.2, "accuracy": 68.4}, 0.06, False),
        ({"matthews": 0.0}, 3.0, True),  # 100 / sqrt(1000) is 3.2
        ({"matthews": 0.0}, 3.3, False),
        ({"pearson": 0.0, "spearman": 0.0}, 3.0, True),
    ],
)
def test_a_margin_separates_learning_from_chance(metrics: dict[str, float], points: float, expected: bool) -> None:
    teacher = {"examples": 1000, "majority": {**metrics, "score": 0.0}}
    assert is_at_baseline({"metrics": {**metrics, "score": points}}, teacher) == expected
