import shutil
from pathlib import Path

import pytest

from pkd_tune.benchmark.settings import MRPC_LENGTHS, BenchConfig, resolve
from pkd_tune.config import UserError


def test_example_lengths_are_those_of_mrpc_by_default() -> None:
    settings = resolve(BenchConfig(gpus=0, steps=4))
    lengths = settings.base.lengths
    assert len(lengths) == 4 * 32
    assert sorted(lengths)[len(lengths) // 2] == MRPC_LENGTHS[10] == 53
    assert 53 < sum(lengths) / len(lengths) < 54  # MRPC's mean is 53.2
    assert len(settings.base.dev_lengths) == 408
    assert settings.depths == (3, 6)


def test_example_lengths_of_a_task_and_the_shape_of_a_model(tiny_data: Path, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    shutil.copytree(tiny_data, data_dir)
    settings = resolve(BenchConfig(gpus=0, task="mrpc", data_dir=data_dir, teacher="tiny", max_length=32, steps=2))
    assert 8 < max(settings.base.lengths) < 20
    assert len(settings.base.dev_lengths) == 40
    assert (settings.base.model["hidden_size"], settings.depths) == (32, (2, 4))


def test_problems_of_device_and_model_are_raised_together() -> None:
    with pytest.raises(UserError) as raised:
        resolve(BenchConfig(gpus=0, depths=(3, 7), max_length=513, concurrent=(1, 1000)))
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "--depths 7",
        "--max-length 513",
        "--slots 1000",
    ]
