import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_trainings import CPU, PKD, TRAINING, made_up_student_data
from safetensors.torch import load_file, save_file

from pkd_tune.config import DistillConfig
from pkd_tune.distillation.checkpoint import Checkpoint, generator_states, set_generator_states, write_tensors
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import distill

GPU = torch.device("cuda", 0)


def test_the_states_of_generators_move_between_a_cpu_and_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that continues a CPU's training draws other numbers than at its start, the same at every continuation."""
    of_gpu: list[object] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: of_gpu.append(state.tolist()))
    monkeypatch.setattr(torch.cuda, "manual_seed", of_gpu.append)
    torch.manual_seed(5)
    on_cpu, on_gpu = generator_states(CPU), generator_states(GPU)
    expected = torch.rand(3)
    for states, device in ((on_cpu, CPU), (on_gpu, CPU), (on_gpu, GPU), (on_cpu, GPU), (on_cpu, GPU)):
        torch.manual_seed(6)
        set_generator_states(states, device)
        if device == CPU:
            assert torch.equal(torch.rand(3), expected)
    restored, first, second = of_gpu
    assert restored == [7]
    assert first == second != 5


def interrupted(path: Path) -> list[Evaluation]:
    """Writes a checkpoint at the end of the second epoch; returns the evaluations of the whole training."""
    seen: list[Evaluation] = []

    class Keep(Checkpoint):
        def is_due(self, size: int) -> bool:
            return len(seen) == 4

    distill(made_up_student_data(), PKD, TRAINING, seen.append, Keep(path))
    return seen


def test_a_checkpoint_of_another_model_or_version_and_a_damaged_one_are_ignored_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "state"
    whole = interrupted(path)
    good = path.read_bytes()

    def continued(config: DistillConfig = PKD) -> list[Evaluation]:
        seen: list[Evaluation] = []
        distill(made_up_student_data(), config, TRAINING, seen.append, Checkpoint(path))
        return seen

    assert continued() == whole[4:]
    assert caplog.messages == []
    assert len(continued(replace(PKD, student_layers=1))) == 6
    path.write_bytes(good[: len(good) // 2])
    assert continued() == whole
    path.write_bytes(good)
    save_file(load_file(path), path, {"facts": '{"done": 14}'})
    assert continued() == whole
    assert [message.split(" is ")[1].split(":")[0] for message in caplog.messages] == [
        "of another version or model",
        "damaged (Error while deserializing header",
        "of another version or model",
    ]


def test_the_first_checkpoint_is_written_in_proportion_to_what_it_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Later ones by how long the last took."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "state", lambda: now.__setitem__(0, now[0] + 2.0))
    size = 400_000_000  # two seconds, at most 4 % of fifty
    now[0] = 49.0
    assert not checkpoint.is_due(size)
    assert checkpoint.is_due(size // 2)
    now[0] = 50.0
    assert checkpoint.is_due(size)
    checkpoint.write({}, {})
    now[0] += 49.0
    assert not checkpoint.is_due(1)
    now[0] += 1.0
    assert checkpoint.is_due(10 * size)


def test_a_file_is_synchronised_to_disk_before_and_after_it_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal records the trial as complete right after; a power cut in between must not leave an empty file."""
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def seen_fsync(descriptor: int) -> None:
        done.append(f"flush {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def seen_replace(before: Path, after: Path) -> None:
        done.append(f"rename to {after.name}")
        replace(before, after)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "replace", seen_replace)
    write_tensors(tmp_path / "run" / "weights", {"a": torch.ones(3)})
    assert done == [f"flush .weights.{os.getpid()}.partial", "rename to weights", "flush run"]
    assert load_file(tmp_path / "run" / "weights")["a"].tolist() == [1, 1, 1]


def test_a_file_may_be_read_by_whom_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "other").touch()
    write_tensors(tmp_path / "weights", {"a": torch.ones(3)})
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "other").stat().st_mode
