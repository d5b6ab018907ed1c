import os
from pathlib import Path

import pytest
import torch
from requests_of import search_request
from tiny import TINY_SEARCH

from pkd_tune.config import DataConfig, SearchConfig, SearchStage, TrainingConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.space import Choice, Parameters
from pkd_tune.workflows.dry_run import Done, TeacherPlan, expected_epochs, plan, plan_teacher, plan_text, trials_done
from pkd_tune.workflows.search import plan_search
from pkd_tune.workflows.timing import Cost


def test_at_a_rung_the_first_few_and_a_third_of_the_others_go_on() -> None:
    assert expected_epochs(10, {4: 1.0}, 0.5, early_stopping=False) == 40
    # 10 reach half an epoch; 4 + 2 go on to one and a half; 4 + 2/3 to the fourth
    assert expected_epochs(10, {4: 1.0}, 0.5, early_stopping=True) == pytest.approx(10 / 2 + 6 + 2.5 * (4 + 2 / 3))
    assert expected_epochs(3, {4: 1.0}, 0.5, early_stopping=True) == 12


def test_trials_of_every_budget_share_the_rungs_before_their_ends() -> None:
    assert expected_epochs(8, {2: 0.5, 6: 0.5}, 1.0, early_stopping=False) == 4 * 2 + 4 * 6
    # 8 reach the first epoch; 8/3 of each budget go on; half end at the second, the others are too few to be stopped
    assert expected_epochs(8, {2: 0.5, 6: 0.5}, 1.0, early_stopping=True) == pytest.approx(8 + 8 / 3 + 5 * 8 / 3)


def test_the_plan_of_a_real_search_is_printed_and_nothing_is_left(
    tiny_data: Path, tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny"]
    flags += ["--space", str(tiny_space), "--depths", "1", "3", "--control-trials", "2", "--seeds", "2"]
    text = plan(search_request(*flags))
    for line in (
        "| student | method | trials | seeds | ablations | epochs expected |",
        "| 1 layer | pkd | 2 | 2 | 2 | 12 of 12 |",
        "| 3 layers | pkd | 2 | 2 | 4 | 16 of 16 |",
        "| 3 layers | kd | 1 | 2 | 0 | 6 of 6 |",
        "core-hours",
    ):
        assert line in text
    assert "Rungs at epochs 0.5, 1.5 of 2." in text
    assert "Teacher: " in text
    cores = len(os.sched_getaffinity(0))
    assert f"{plural(min(cores, 8), 'trial')} at once on cpu" in text
    assert not (tmp_path / "results").exists()


def test_a_plan_says_where_the_teacher_is(
    tiny_search: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tiny_search)
    caplog.set_level("INFO")
    (finetuned,) = tiny_search.glob("data/models/finetuned/MRPC/tiny-*-layer-*/")

    def teacher(*flags: str) -> str:
        config = search_request(*TINY_SEARCH, *flags).config
        return plan_teacher(config, torch.device("cpu"), captured=False).text

    assert teacher() == f"Teacher: fine-tuned already, in {finetuned}."
    given = teacher("--teacher", str(finetuned))
    assert given == f"Teacher: {finetuned.name}, which is given fine-tuned."
    assert "timing" not in caplog.text
    assert teacher("--seed", "7").startswith("Teacher: to be fine-tuned, about ")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_plan_of_a_search_on_a_cluster_counts_its_slots(
    tiny_data: Path, tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.cluster_utils import Cluster

    monkeypatch.chdir(tmp_path)
    machine = {"num_cpus": 3, "num_gpus": 5, "include_dashboard": False, "object_store_memory": 2**27}
    machines = Cluster(initialize_head=True, head_node_args=machine)
    flags = ["--task", "MRPC", "--data-dir", str(tiny_data), "--teacher", "tiny", "--space", str(tiny_space)]
    flags += ["--depths", "1", "--control-trials", "0", "--address", machines.address]
    try:
        on_gpus = ["--gpus", "4", "--trials-per-gpu", "1", "--no-cuda-graphs"]  # so that nothing is measured on them
        for more, resources in ((["--gpus", "0"], "3 trials at once on cpu"), (on_gpus, "4 trials at once on cuda")):
            assert resources in plan(search_request(*flags, *more))
        with pytest.raises(UserError, match="--gpus 6: only 5 found"):
            plan(search_request(*flags, "--gpus", "6"))
    finally:
        machines.shutdown()
    assert not (tmp_path / "results").exists()


def test_the_plan_of_a_continued_run_is_of_what_is_left(tiny_search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny_search)
    request = search_request(*TINY_SEARCH, "--trials", "7", "--seeds", "1")
    plans = plan_search(request)
    done = trials_done(request, tiny_search / "results/MRPC/tiny", plans)
    assert done == {StudyKey(1, "pkd"): Done(trials=2), StudyKey(3, "pkd"): Done(trials=2)}
    assert trials_done(request, tiny_search / "results/MRPC/tiny-2", plans) == {}
    costs = {depth: Cost(epoch=60.0, evaluation=0.0) for depth in (1, 3)}
    resources = Resources(cpu_trials=1)
    text = plan_text(
        request.config, plans, resources, costs, TeacherPlan("", 600.0), 0, timed_on="cpu", done=done, time_limit=1200.0
    )
    assert "Of the run that is continued, 4 trials are done. What is left:" in text
    for line in ("| 1 layer | pkd | 2 | 1 | 1 | 24 of 24 |", "| 3 layers | pkd | 1 | 1 | 2 | 24 of 24 |"):
        assert line in text
    # 48 epochs of a minute are left, and half of the 20 minutes is the teacher's
    assert "The time limit of 20.0 min, the teacher included, is enough for about 21% of search" in text
    left = {StudyKey(1, "pkd"): Done(trials=4, confirmed=1), StudyKey(3, "pkd"): Done(trials=3, confirmed=1, ablated=2)}
    text = plan_text(request.config, plans, resources, costs, TeacherPlan(""), 0, timed_on="cpu", done=left)
    for line in ("| 1 layer | pkd | 0 | 0 | 1 | 6 of 6 |", "| 3 layers | pkd | 0 | 0 | 0 | 0 of 0 |"):
        assert line in text
    other = search_request(*TINY_SEARCH, "--seed", "7")
    with pytest.raises(UserError, match="--seed was 42 in this run and is now 7"):
        trials_done(other, tiny_search / "results/MRPC/tiny", plans)


def test_fine_tuning_costs_its_share_where_only_distillation_has_texts_without_labels() -> None:
    space: Parameters = {"epochs": Choice((1,))}
    plans = [
        StudyPlan(study_key=StudyKey(3, "pkd"), quota=2, parameters=space, ablations=("kd", "finetuned")),
        StudyPlan(study_key=StudyKey(3, "finetuned"), quota=1, parameters=space),
    ]
    config = SearchConfig(
        data=DataConfig(task=TASKS["MRPC"], data_dir=Path("d"), teacher_dir=Path("t"), student_dir=Path("t")),
        teacher_trainings=(),
        student_training=TrainingConfig(),
        depths=(3,),
        stages=(SearchStage(method="pkd"), SearchStage(method="finetuned")),
        trials=2,
        seeds=1,
        early_stopping=False,
    )
    costs = {3: Cost(epoch=600.0, evaluation=0.0)}
    text = plan_text(config, plans, Resources(cpu_trials=1), costs, TeacherPlan(""), 0, timed_on="cpu", labelled=0.2)
    # 2 trials, a confirmation and an ablation of 10 minutes, and an ablation of 2
    assert "| 3 layers | pkd | 2 | 1 | 2 | 5 of 5 | 600.0 s | 42.0 min |" in text
    assert "| 3 layers | finetuned | 1 | 1 | 0 | 2 of 2 | 120.0 s | 4.0 min |" in text
    assert "about 46.0 min, at most 46.0 min" in text


def test_hours_are_those_of_gpus_that_trials_share() -> None:
    plans = [StudyPlan(study_key=StudyKey(3, "pkd"), quota=2, parameters={"epochs": Choice((4,))})]
    config = SearchConfig(  # 2 trials of 4 epochs of 2 evaluations
        data=DataConfig(task=TASKS["MRPC"], data_dir=Path("d"), teacher_dir=Path("t"), student_dir=Path("t")),
        teacher_trainings=(),
        student_training=TrainingConfig(),
        depths=(3,),
        stages=(SearchStage(method="pkd"),),
        trials=2,
        early_stopping=False,
    )
    costs = {3: Cost(epoch=880.0, evaluation=10.0)}  # 8 x (440 + 10) s = an hour a trial
    text = plan_text(config, plans, Resources(gpus=2, trials_per_gpu=2), costs, TeacherPlan(""), 0, timed_on="cuda")
    assert "That is 1.00 GPU-hours, at most 1.00." in text
    assert "about 30.0 min" in text
    text = plan_text(config, plans, Resources(gpus=2, trials_per_gpu=2), costs, TeacherPlan(""), 0, timed_on="cpu")
    assert "That is 2.00 hours of this machine's CPU, at most 2.00." in text
    assert "steps a depth on this machine's CPU, for it has no GPU: on GPUs all times are shorter;" in text
    text = plan_text(config, plans, Resources(cpu_trials=2, threads=4), costs, TeacherPlan(""), 0, timed_on="cpu")
    assert "2 trials at once on cpu, 4 cores each." in text
    assert "That is 8.00 core-hours, at most 8.00." in text
