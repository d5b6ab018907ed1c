"""Trials that go wrong, in a real Ray: each ends in the journal with its reason, and none ends the search."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pkd_tune.config import DataConfig, SearchConfig
from pkd_tune.distillation.student import open_classroom
from pkd_tune.distillation.teacher import Teacher, prepare_teacher
from pkd_tune.glue.data import load_features
from pkd_tune.glue.tasks import TASKS
from pkd_tune.tuning.engine import remove_leftovers, run_search
from pkd_tune.tuning.slots import Slots
from pkd_tune.tuning.space import Choice, Float, load_space
from pkd_tune.tuning.study import Studies

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> DataConfig:
    folder = tiny_data / "models/pretrained/tiny"
    return DataConfig(task="MRPC", data_dir=tiny_data, teacher_dir=folder, student_dir=folder, max_length=32)


@pytest.fixture
def search(data: DataConfig, tiny_space: Path) -> SearchConfig:
    space = load_space(tiny_space)
    return SearchConfig(
        data=data, teacher_trainings=space.teacher, student_training=space.training, depths=(1, 2), trials=6
    )


@pytest.fixture
def teacher(data: DataConfig, search: SearchConfig) -> Teacher:
    task = TASKS["MRPC"]
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    finetuned = data.data_dir / "models/finetuned/MRPC"
    teacher = prepare_teacher(
        task, splits, data.student_dir, finetuned, search.teacher_trainings, CPU, lambda evaluation: None
    )
    open_classroom(data, teacher, CPU, seed=search.student_training.seed)
    return teacher


def test_bad_trials_fail_with_their_reason_and_the_others_finish(
    tmp_path: Path, tiny_space: Path, search: SearchConfig, teacher: Teacher
) -> None:
    """Of three learning rates one makes the loss infinite; depth 2 cannot save its weights at all."""
    parameters = {**load_space(tiny_space).parameters, "learning_rate": Choice((1e30, 2e-3, 3e-3))}
    studies = Studies(tmp_path / "study.log", search.depths, search.trials, parameters, seed=1)
    for depth, rates in ((1, (1e30, 2e-3, 3e-3)), (2, (2e-3, 2e-3, 3e-3))):
        for rate in rates:
            studies._studies[depth].enqueue_trial({"learning_rate": rate})
    for number in range(3):  # a folder where the file should go, as a full or broken disk would refuse it
        (tmp_path / "checkpoints" / f"depth-2-trial-{number:04d}.partial" / "x").mkdir(parents=True)

    run_search(search, teacher, studies, tmp_path, Slots(device="cpu", count=2))

    rows = studies.rows()
    shallow, deep = ([row for row in rows if row["depth"] == depth] for depth in (1, 2))
    assert [row["state"] for row in shallow] == ["failed", "complete", "complete"]
    assert "not finite" in shallow[0]["error"]
    assert all(row["state"] in ("failed", "stopped early") for row in deep)
    failed = [row for row in deep if row["state"] == "failed"]
    assert failed
    assert all("directory" in row["error"] and "\n" not in row["error"] for row in failed)
    best = studies.best(1)
    assert best is not None
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.safetensors")] == [
        f"depth-1-trial-{best.number:04d}.safetensors"
    ]
    assert studies.best(2) is None
    assert studies.ask() is None


def test_weights_of_a_killed_search_do_not_pile_up(tmp_path: Path) -> None:
    studies = Studies(tmp_path / "study.log", (2,), 3, {"alpha": Float(0.2, 0.9, log=False)}, seed=0)
    for score in (70.0, 80.0):
        asked = studies.ask()
        assert asked is not None
        studies.report(asked[0], 1, score, {})
        studies.complete(asked[0])
    names = ["depth-2-trial-0000.safetensors", "depth-2-trial-0001.safetensors", "depth-2-trial-0002.partial"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(studies, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("depth-*")) == ["depth-2-trial-0001.safetensors"]


def test_a_trial_reports_what_it_saw(tmp_path: Path, tiny_space: Path, search: SearchConfig, teacher: Teacher) -> None:
    """The journal's scores are those of the same training outside Ray."""
    from pkd_tune.config import DistillConfig
    from pkd_tune.distillation.loop import Evaluation
    from pkd_tune.distillation.student import distill

    torch.set_num_threads(1)  # as a trial on one core has
    space = load_space(tiny_space)
    one = replace(search, depths=(2,), trials=1)
    parameters = {**space.parameters, "learning_rate": Float(1e-3, 2e-3, log=False)}
    studies = Studies(tmp_path / "study.log", one.depths, one.trials, parameters, seed=1)
    run_search(one, teacher, studies, tmp_path, Slots(device="cpu", count=1))
    best = studies.best(2)
    assert best is not None

    settings = studies.settings(best)
    training = replace(one.student_training, learning_rate=settings.pop("learning_rate"))
    seen: list[Evaluation] = []
    classroom = open_classroom(one.data, teacher, CPU, seed=training.seed)
    distill(classroom, DistillConfig(student_layers=2, **settings), training, seen.append)
    assert best.intermediate_values == {e.number: e.metrics["score"] for e in seen}
    assert best.value == max(best.intermediate_values.values())
