import shutil
from pathlib import Path

import pytest
import torch

from pkd_tune.benchmark import settings as bench_settings
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


@pytest.mark.parametrize(
    ("gpus", "cores", "measured"),
    [(1, 16, (1, 2, 4)), (1, 2, (1, 2)), (2, 16, (1, 2, 4, 8)), (8, 128, (1, 2, 4, 8, 16)), (8, 4, (1, 2, 4, 8))],
)
def test_trials_share_gpus_as_far_as_there_are_cores(
    gpus: int, cores: int, measured: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(bench_settings, "usable_cores", lambda: cores)
    settings = resolve(BenchConfig(precision="fp32", steps=1))
    assert (settings.gpus, settings.concurrent) == (gpus, measured)
    assert resolve(BenchConfig(precision="fp32", steps=1, concurrent=(2,))).concurrent == (2,)
    with pytest.raises(UserError, match=f"--slots 1000: at most {max(gpus, cores)} here"):
        resolve(BenchConfig(precision="fp32", steps=1, concurrent=(1000,)))


def test_problems_of_device_and_model_are_raised_together() -> None:
    with pytest.raises(UserError) as raised:
        resolve(BenchConfig(gpus=0, depths=(3, 7), max_length=513, concurrent=(1, 1000)))
    assert [problem.split(":")[0] for problem in raised.value.problems] == [
        "--depths 7",
        "--max-length 513",
        "--slots 1000",
    ]
