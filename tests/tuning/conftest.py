from pathlib import Path

import pytest
from engine_runs import CPU, ONE

from pkd_tune.config import DataConfig, SearchConfig, Stage
from pkd_tune.distillation.student import open_classroom
from pkd_tune.distillation.teacher import prepare_teacher
from pkd_tune.glue.data import load_features
from pkd_tune.glue.tasks import TASKS
from pkd_tune.tuning.space_file import load_space
from pkd_tune.tuning.store import Store
from pkd_tune.tuning.trial import Workplace


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> DataConfig:
    folder = tiny_data / "models/pretrained/tiny"
    return DataConfig(task="MRPC", data_dir=tiny_data, teacher_dir=folder, student_dir=folder, max_length=32)


@pytest.fixture
def workplace(data: DataConfig, tiny_space: Path, tmp_path: Path) -> Workplace:
    space = load_space(tiny_space)
    search = SearchConfig(
        data=data,
        teacher_trainings=space.teacher,
        student_training=space.training,
        depths=(1, 2),
        stages=(Stage(method="pkd"),),
        trials=6,
    )
    task = TASKS["MRPC"]
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    finetuned = data.data_dir / "models/finetuned/MRPC"
    teacher = prepare_teacher(task, splits, data.student_dir, finetuned, space.teacher, CPU, lambda evaluation: None)
    open_classroom(data, teacher, CPU, seed=search.student_training.seed)
    (tmp_path / "checkpoints").mkdir()
    return Workplace(search=search, teacher=teacher, slots=ONE, store=Store(tmp_path / "checkpoints"))
