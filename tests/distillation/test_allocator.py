"""Memory of processes with many examples, each measured separately."""

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pkd_tune.distillation.allocator import trim_heap, tune_allocator


def measured(what: str, examples: int, folder: Path) -> dict[str, Any]:
    """Returns the memory of a process that does this, in bytes."""
    script = Path(__file__).parents[1] / "many_examples.py"
    done = subprocess.run([sys.executable, script, what, str(examples), folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_training_does_not_grow_with_tokens_and_teacher_outputs(tmp_path: Path) -> None:
    """Only with some bytes per example: its length and its place in the epoch."""
    small, large = (measured("train", examples, tmp_path)["own"] for examples in (2_000, 400_000))
    measured_text = f"{large / 1e6:.0f} MB with 400,000 examples, {small / 1e6:.0f} MB with 2,000"
    assert large - small < 400_000 * 150, measured_text


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_student_of_22_million_parameters_trains_in_less_than_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    held = measured("train-real", 400_000, tmp_path)["own"]
    assert held < 1.5e9, f"{held / 1e6:.0f} MB"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_over_the_epochs_of_a_training(tmp_path: Path) -> None:
    """A student of three layers, 384 wide; in the first epoch every length is met for the first time."""
    held = measured("train-long", 3_200, tmp_path)["own_by_evaluation"]
    print("MB up to each evaluation:", *(round(each / 1e6) for each in held))
    an_epoch = len(held) // 4
    assert max(held[-an_epoch:]) < 1.05 * max(held[an_epoch : 2 * an_epoch])
    assert max(held) < 2e9


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_teacher_outputs_are_written_batch_by_batch(tmp_path: Path) -> None:
    peak = measured("build", 400_000, tmp_path)["peak"]
    assert peak < 2e9, f"{peak / 1e6:.0f} MB"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_free_memory_between_blocks_in_use_is_returned() -> None:
    tune_allocator()
    blocks = [torch.ones(2**18) for _ in range(400)]  # 1 MiB each
    kept = blocks[::8]
    del blocks[:]
    before = psutil.Process().memory_info().rss
    trim_heap()
    assert before - psutil.Process().memory_info().rss > 300 * 2**20
    assert all(block.sum() == 2**18 for block in kept)
