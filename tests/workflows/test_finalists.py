"""Confirmed scores and comparisons, from studies and predictions on disk; the whole way is in test_methods.py."""

from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from pkd_tune.config import DataConfig, Method, SearchConfig, SearchStage, TrainingConfig
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.glue import TASKS
from pkd_tune.distillation.checkpoint import write_tensors
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.space import Choice, Value, for_method
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext, predictions_name
from pkd_tune.workflows.finalists import check_reproduced, compare, confirmed, predictions_csv

PKD, KD, ALONE = StudyKey(3, "pkd"), StudyKey(3, "kd"), StudyKey(3, "finetuned")
TRUTH = np.random.default_rng(0).integers(2, size=100)


@pytest.fixture
def context(tmp_path: Path) -> TrialContext:
    data = DataConfig(task=TASKS["RTE"], data_dir=tmp_path, teacher_dir=tmp_path, student_dir=tmp_path)
    search = SearchConfig(
        data=data,
        teacher_trainings=(),
        student_training=TrainingConfig(),
        depths=(3,),
        stages=(SearchStage(method="pkd"), SearchStage(method="kd"), SearchStage(method="finetuned")),
        trials=1,
    )
    teacher = Teacher(folder=tmp_path, key="k", layers=6, metrics={}, majority={}, finetuned_here=True)
    return TrialContext(search=search, teacher=teacher, resources=Resources(), artifacts=ArtifactStore(tmp_path))


def searched(
    context: TrialContext,
    errors: dict[StudyKey, int],
    seeds: tuple[int, ...],
    ablated: dict[Method, tuple[int, ...]] | None = None,
) -> Studies:
    """Returns studies whose confirmations err on that many examples, and on one more for each later seed.

    Ablations of PKD err on so many for each seed.
    """
    values: dict[str, Value] = {"alpha": 0.5, "beta": 10, "temperature": 5, "strategy": "last", "normalize": True}
    plans = [
        StudyPlan(
            study_key=study_key,
            quota=1,
            parameters=for_method(
                {
                    **{name: Choice((value,)) for name, value in values.items()},
                    "learning_rate": Choice((1e-4 * number,)),
                },
                study_key.method,
            ),
            ablations=tuple(ablated or ()) if study_key == PKD else (),
        )
        for number, study_key in enumerate(errors, start=1)
    ]
    studies = Studies(context.artifacts.path("study.log"), plans, seeds=seeds)
    while (asked := studies.ask()) is not None:
        trial_id, settings, seed = asked
        details: dict[str, Any] = {"epoch": 1.0, "metrics": {"accuracy": 60.0, "score": 60.0}}
        studies.report(trial_id, 1, 60.0, details)
        if seed is None:
            studies.complete(trial_id)
            continue
        wrong = errors[trial_id.study_key] + seeds.index(seed)
        if trial_id.stage == "ablation":
            wrong = (ablated or {})["kd" if settings["alpha"] else "finetuned"][seeds.index(seed)]
        predicted = np.where(np.arange(100) < wrong, 1 - TRUTH, TRUTH)
        write_tensors(context.artifacts.path(predictions_name(trial_id)), {"dev": torch.from_numpy(predicted)})
        studies.complete(trial_id, {"accuracy": 100.0 - wrong, "score": 100.0 - wrong})
    return studies


def test_confirmed_scores_are_means_over_fresh_seeds(context: TrialContext) -> None:
    studies = searched(context, {PKD: 10, KD: 40}, seeds=(7, 8, 9))
    found = confirmed(studies, PKD)
    assert found is not None
    assert (found["seeds"], found["scores"]) == ([7, 8, 9], [90.0, 89.0, 88.0])
    assert (found["mean"], found["sd"]) == (89.0, 1.0)  # the sample standard deviation
    assert found["metrics"] == {"accuracy": {"mean": 89.0, "sd": 1.0}}


def test_one_seed_has_no_spread_and_none_no_confirmation(context: TrialContext) -> None:
    found = confirmed(searched(context, {PKD: 10}, seeds=(7,)), PKD)
    assert found is not None
    assert found["sd"] is None


def test_without_seeds_nothing_is_confirmed(context: TrialContext) -> None:
    assert confirmed(searched(context, {PKD: 10}, seeds=()), PKD) is None


def compared(
    context: TrialContext,
    errors: dict[StudyKey, int],
    seeds: tuple[int, ...],
    ablated: dict[Method, tuple[int, ...]] | None = None,
) -> dict[StudyKey, dict[str, Any]]:
    """Returns students with their comparisons; the teacher errs on ten examples."""
    studies = searched(context, errors, seeds, ablated)
    students = {study_key: {"layers": study_key.depth, "method": study_key.method} for study_key in errors}
    teacher = {"dev": np.where(np.arange(100) < 10, 1 - TRUTH, TRUTH)}
    compare(context, studies, [*students.values()], teacher, {"dev": TRUTH})
    return students


def test_a_method_is_held_against_both_controls_and_kd_against_fine_tuning(context: TrialContext) -> None:
    found = compared(context, {PKD: 10, KD: 40, ALONE: 11}, seeds=(7, 8, 9))
    of_pkd = found[PKD]["against"]
    assert [(each["method"], each["distinguishable"]) for each in of_pkd] == [("kd", True), ("finetuned", False)]
    assert of_pkd[0]["difference"] == pytest.approx(30.0)
    assert [each["method"] for each in found[KD]["against"]] == ["finetuned"]
    assert found[ALONE]["against"] == []


def test_an_ablation_is_compared_seed_by_seed(context: TrialContext) -> None:
    """Without the patience term each seed errs on 5 examples more; without distillation it is 3, 5 and 7 more."""
    found = compared(
        context, {PKD: 10, ALONE: 40}, seeds=(7, 8, 9), ablated={"kd": (15, 16, 17), "finetuned": (13, 16, 19)}
    )
    without_patience, alone = found[PKD]["ablations"]
    assert found[ALONE]["ablations"] == []
    assert (without_patience["method"], without_patience["seeds"]) == ("kd", [7, 8, 9])
    assert (without_patience["scores"], without_patience["mean"]) == ([85.0, 84.0, 83.0], 84.0)
    assert without_patience["settings"]["beta"] == 0
    assert without_patience["settings"]["learning_rate"] == pytest.approx(1e-4)  # PKD's own, not fine-tuning's
    assert without_patience["difference"] == alone["difference"] == pytest.approx(5.0)
    # The differences over seeds have variances 0 and 4. That which does not vary says nothing of the other: the pooled
    # variance is 4, and t with two degrees of freedom 4.303.
    for each in (without_patience, alone):
        assert 4.303 * (4 / 3) ** 0.5 < each["difference"] - each["low"] < (4.303**2 * 4 / 3 + 4.5**2) ** 0.5


def test_one_fresh_seed_tells_no_difference(context: TrialContext) -> None:
    """Whether PKD's 30 points more are due to the method or to the seed cannot be said."""
    found = compared(
        context, {StudyKey(2, "pkd"): 60, PKD: 10, KD: 40}, seeds=(7,), ablated={"kd": (40,), "finetuned": (40,)}
    )
    assert all(student["against"] == student["ablations"] == [] for student in found.values())
    assert found[PKD]["against_shallower"] is None
    assert found[PKD]["against_teacher"] is None


def test_a_student_is_held_against_the_next_shallower_one_of_its_method(context: TrialContext) -> None:
    found = compared(context, {StudyKey(1, "pkd"): 60, StudyKey(2, "pkd"): 40, PKD: 10, KD: 10}, seeds=(7, 8, 9))
    assert found[StudyKey(1, "pkd")]["against_shallower"] is None
    assert found[KD]["against_shallower"] is None
    against = found[PKD]["against_shallower"]
    assert (against["layers"], against["distinguishable"]) == (2, True)
    assert against["difference"] == pytest.approx(30.0)


def test_intervals_against_the_teacher_hold_for_all_students_together(context: TrialContext) -> None:
    alone = compared(context, {PKD: 10}, seeds=(7, 8, 9))[PKD]["against_teacher"]
    assert alone["difference"] == pytest.approx(-1.0)  # 10, 11 and 12 errors, and the teacher 10
    assert alone["students"] == 1


def test_more_students_make_the_intervals_against_the_teacher_wider(context: TrialContext, tmp_path: Path) -> None:
    found = compared(context, {PKD: 10, KD: 10}, seeds=(7, 8, 9))
    one, other = (found[study_key]["against_teacher"] for study_key in (PKD, KD))
    assert one["students"] == other["students"] == 2
    # Seeds: t with four degrees of freedom at 1 − 0.05 / 4, which is 3.495, times 1 / √3; examples add to it.
    assert one["difference"] - one["low"] > 3.49 / 3**0.5
    assert (one["low"], one["high"]) == (other["low"], other["high"])


def test_one_seed_has_no_interval_against_the_teacher(context: TrialContext) -> None:
    assert compared(context, {PKD: 10}, seeds=(7,))[PKD]["against_teacher"] is None


def test_an_export_that_is_not_what_was_searched_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    student = {"folder": "best/3-layer", "search_score": 80.0, "metrics": {"score": 79.2}}
    check_reproduced(student, {"dev": 1000}, exactly=True)
    check_reproduced({**student, "search_score": 75.0}, {"dev": 60}, exactly=True)
    with pytest.raises(RuntimeError, match=r"best/3-layer scores 79\.20, but its trial scored 81\.00"):
        check_reproduced({**student, "search_score": 81.0}, {"dev": 1000}, exactly=True)
    assert caplog.text == ""
    check_reproduced({**student, "search_score": 81.0}, {"dev": 1000}, exactly=False)
    assert caplog.messages == ["best/3-layer scores 79.2 in fp32, but 81.0 in its trial's bf16"]


def test_predictions_are_kept_with_the_texts_that_a_report_lists() -> None:
    task = TASKS["RTE"]
    dev = {"dev": RawSplit(["NA", "x " * 400, 'a "quoted"\nline'], ["", "y", "z"], [0, 1, 1])}
    csv = predictions_csv(task, dev, {"dev": np.array([0, 1, 1])}, {"best/3-layer": {"dev": np.array([0, 0, 0])}})
    table = pd.read_csv(StringIO(csv), keep_default_na=False)
    assert list(table) == ["split", "example_id", "label", "teacher", "best/3-layer", "text_1", "text_2"]
    assert list(table["best/3-layer"]) == ["entailment"] * 3
    assert list(table["label"]) == ["entailment", "not_entailment", "not_entailment"]
    assert list(table["text_1"]) == ["", "x " * 150 + "…", 'a "quoted" line']  # the first is not listed
    assert list(table["text_2"]) == ["", "y", "z"]


def test_predictions_of_all_dev_splits_are_in_one_table() -> None:
    dev = {name: RawSplit(["a", "b"], ["c", "d"], [0, 1]) for name in ("dev", "dev_mm")}
    of_teacher = {"dev": np.array([0, 1]), "dev_mm": np.array([2, 1])}
    csv = predictions_csv(TASKS["MNLI"], dev, of_teacher, {})
    rows = [line.split(",") for line in csv.splitlines()]
    assert [row[:2] for row in rows[1:]] == [["dev", "0"], ["dev", "1"], ["dev_mm", "0"], ["dev_mm", "1"]]


def test_predictions_of_a_regression_are_numbers() -> None:
    dev = {"dev": RawSplit(["a"], ["b"], [2.5])}
    of_student = {"dev": np.array([1 / 3], dtype=np.float32)}
    csv = predictions_csv(TASKS["STS-B"], dev, {"dev": np.array([2.4], dtype=np.float32)}, {"best/1-layer": of_student})
    assert csv.splitlines()[1] == "dev,0,2.5,2.4,0.3333,a,b"
