import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pkd_tune.distillation.checkpoint import write_tensors


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
