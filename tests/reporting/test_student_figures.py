"""What the plots of the students show, against numbers worked out by hand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.config import SelectOn
from pkd_tune.reporting.run import Run, read_run
from pkd_tune.reporting.search_figures import best_by_epochs, best_by_trials, rungs
from pkd_tune.reporting.student_figures import agreement, cosines, front, losses, score_by_cost, student_figures


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return read_run(write_run(tmp_path_factory.mktemp("run") / "MRPC" / "minilm"))


def test_the_front_by_hand() -> None:
    points = [(1.0, 70.0), (1.0, 71.0), (2.0, 71.0), (3.0, 80.0), (4.0, 79.0), (1.0, 71.0)]
    assert front(points) == [(1.0, 71.0), (3.0, 80.0)]


def test_scores_stand_with_their_deviation_where_they_are_confirmed(run: Run) -> None:
    size, latency = score_by_cost(run).panels
    (pkd,) = [series for series in size.series if series.name == "PKD"]
    students = [student for student in run.students if student["method"] == "pkd"]
    assert pkd.x == [student["size_mb"] for student in students]
    assert pkd.y == [student["confirmed"]["mean"] for student in students]
    assert pkd.error == [student["confirmed"]["sd"] for student in students]
    assert latency.series[-1].x == [9.6]  # the teacher
    unconfirmed = replace(run, students=[{**student, "confirmed": None} for student in run.students])
    (pkd,) = [series for series in score_by_cost(unconfirmed).panels[0].series if series.name == "PKD"]
    assert pkd.y == [student["metrics"]["score"] for student in students]


def test_the_terms_of_a_loss_add_up_to_it(run: Run) -> None:
    for panel in losses(run).panels:
        total, *terms = (pd.Series(list(series.y), dtype=float) for series in panel.series)
        assert sum(terms[1:], terms[0]).to_numpy() == pytest.approx(total.to_numpy())
    assert [len(panel.series) for panel in losses(run).panels] == [2, 3, 4, 2, 3, 4]  # L and the terms in use


def test_cosines_are_those_of_the_best_evaluation(run: Run) -> None:
    (three,) = cosines(run).panels  # a student of two layers has one intermediate layer, which is no line
    assert three.title == "3 layers"
    (student,) = [s for s in run.students if (s["layers"], s["method"]) == (3, "pkd")]
    rows = run.evaluations.query("depth == 3 and method == 'pkd' and stage == 'search' and trial == @student['trial']")
    best = rows[rows["epoch"] == student["epoch"]].iloc[0]
    (pkd,) = [series for series in three.series if series.name == "PKD"]
    assert pkd.y == pytest.approx([best["cosine_1"], best["cosine_2"]])
    assert pkd.labels == [f"layer {i} → teacher {layer}" for i, layer in enumerate(student["imitated_layers"], 1)]


@pytest.mark.parametrize(("select_on", "chosen_on"), [("dev", "dev"), ("holdout", "held-out slice")])
def test_axes_say_which_examples_were_scored(tmp_path: Path, select_on: SelectOn, chosen_on: str) -> None:
    """Costs are set against dev scores either way; what is seen during training runs is of the examples that choose."""
    run = read_run(write_run(tmp_path / "MRPC" / "minilm", trials=4, select_on=select_on))
    assert {panel.y for panel in score_by_cost(run).panels} == {"score on dev, × 100"}
    assert ("selected on dev too" in score_by_cost(run).caption) == (select_on == "dev")
    assert ("not on dev" in score_by_cost(run).caption) == (select_on == "holdout")
    during = [panel.y for figure in (best_by_trials(run), best_by_epochs(run), rungs(run)) for panel in figure.panels]
    assert set(during) == {f"score on {chosen_on}, × 100"}
    assert {panel.y for panel in agreement(run).panels} == {f"agreement on {chosen_on}, %"}
    assert all(("held out" in figure(run).caption) == (select_on == "holdout") for figure in (agreement, cosines))


def test_a_regression_has_no_agreement(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "STS-B" / "minilm", task="STS-B", trials=4))
    assert not agreement(run).panels
    assert losses(run).panels


def test_without_students_there_is_nothing(run: Run) -> None:
    assert [figure.name for figure in student_figures(replace(run, students=[])) if figure.panels] == []
