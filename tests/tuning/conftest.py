import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from runner_runs import CPU, ONE

from pkd_tune.config import DataConfig, SearchConfig, SearchStage
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.student import open_student_data
from pkd_tune.distillation.teacher import prepare_teacher
from pkd_tune.tuning.artifacts import ArtifactStore
from pkd_tune.tuning.space_file import load_space
from pkd_tune.tuning.trial import TrialContext


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> DataConfig:
    folder = tiny_data / "models/pretrained/tiny"
    return DataConfig(task=TASKS["MRPC"], data_dir=tiny_data, teacher_dir=folder, student_dir=folder, max_length=32)


@pytest.fixture
def context(data: DataConfig, tiny_space: Path, tmp_path: Path) -> TrialContext:
    space = load_space(tiny_space)
    search = SearchConfig(
        data=data,
        teacher_trainings=space.teacher,
        student_training=space.training,
        depths=(1, 2),
        stages=(SearchStage(method="pkd"),),
        trials=6,
    )
    task = TASKS["MRPC"]
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    finetuned = data.data_dir / "models/finetuned/MRPC"
    teacher = prepare_teacher(task, splits, data.student_dir, finetuned, space.teacher, CPU, lambda evaluation: None)
    open_student_data(data, teacher, CPU)
    (tmp_path / "checkpoints").mkdir()
    return TrialContext(
        search=search, teacher=teacher, resources=ONE, artifacts=ArtifactStore(tmp_path / "checkpoints")
    )


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """Yields a folder whose path leaves room for sockets below it, as pytest's own may not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)
