"""A tiny fine-tuned teacher that the tests of a module share."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from pkd_tune.config import DataConfig, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.teacher import Teacher, prepare_teacher

TASK = TASKS["MRPC"]
TEACHING = TrainingConfig(epochs=6, batch_size=16, learning_rate=3e-3, seed=0)
CPU = torch.device("cpu")
Prepare = Callable[[list[TrainingConfig], Path], Teacher]


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> DataConfig:
    folder = tiny_data / "models/pretrained/tiny"
    return DataConfig(task=TASK, data_dir=tiny_data, teacher_dir=folder, student_dir=folder, max_length=32)


@pytest.fixture(scope="module")
def prepare(data: DataConfig) -> Prepare:
    splits = load_features(TASK, data.data_dir, data.student_dir, data.max_length)
    folder = data.data_dir / "models/finetuned/MRPC"

    def prepare(configs: list[TrainingConfig], start: Path) -> Teacher:
        return prepare_teacher(TASK, splits, start, folder, configs, CPU, lambda evaluation: None)

    return prepare


@pytest.fixture(scope="module")
def teacher(data: DataConfig, prepare: Prepare) -> Teacher:
    return prepare([TEACHING], data.student_dir)
