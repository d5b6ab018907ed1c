import os
from pathlib import Path

import pytest
from requests_of import search_request

from pkd_tune.config import DataConfig, SearchConfig, SearchStage, TrainingConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.workflows.dry_run import expected_evaluations, plan, plan_text
from pkd_tune.workflows.timing import Cost


def test_halving_lets_the_first_few_and_half_of_the_others_go_on() -> None:
    assert expected_evaluations(10, 8, early_stopping=False) == 80
    # 10 reach evaluation 1; 4 + 3 go on to 2; 4 + 1.5 to 4; 4 + 0.75 to 8
    assert expected_evaluations(10, 8, early_stopping=True) == 10 + 7 + 2 * 5.5 + 4 * 4.75
    assert expected_evaluations(3, 8, early_stopping=True) == 24


def test_the_plan_of_a_real_search_is_printed_and_nothing_is_left(
    tiny_data: Path, tiny_space: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--task", "MRPC", "--gpus", "0", "--data-dir", str(tiny_data), "--teacher", "tiny"]
    flags += ["--space", str(tiny_space), "--depths", "1", "3", "--control-trials", "2", "--seeds", "2"]
    text = plan(search_request(*flags))
    for line in ("| 1 layer | pkd | 2 | 2 | 8 of 8 |", "| 3 layers | kd | 1 | 2 | 6 of 6 |", "core-hours"):
        assert line in text
    assert "Rungs at evaluations 1, 2 of 4." in text
    cores = len(os.sched_getaffinity(0))
    assert f"{plural(min(cores, 8), 'trial')} at once on cpu" in text
    assert not (tmp_path / "results").exists()


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


def test_hours_are_those_of_gpus_that_trials_share() -> None:
    plans = [StudyPlan(study_key=StudyKey(3, "pkd"), quota=2, parameters={})]
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
    text = plan_text(config, plans, Resources(gpus=2, trials_per_gpu=2), costs, 0.0, 0, timed_on="cuda")
    assert "That is 1.00 GPU-hours, at most 1.00." in text
    assert "about 30.0 min" in text
    text = plan_text(config, plans, Resources(gpus=2, trials_per_gpu=2), costs, 0.0, 0, timed_on="cpu")
    assert "That is 2.00 hours of this machine's CPU, at most 2.00." in text
    assert "steps a depth on this machine's CPU, for it has no GPU: on GPUs all times are shorter;" in text
    text = plan_text(config, plans, Resources(cpu_trials=2, threads=4), costs, 0.0, 0, timed_on="cpu")
    assert "2 trials at once on cpu, 4 cores each." in text
    assert "That is 8.00 core-hours, at most 8.00." in text
