import os

import pytest
import torch

from pkd_tune.config import UserError
from pkd_tune.tuning.slots import Slots, choose_slots, gpu_names


def test_cpu_has_a_slot_per_core() -> None:
    assert choose_slots(0) == Slots(device="cpu", count=len(os.sched_getaffinity(0)))


def test_every_gpu_has_a_name() -> None:
    names = gpu_names()
    assert len(names) == torch.cuda.device_count()
    assert all(names)


def test_more_gpus_than_there_are_is_an_error_that_counts_them() -> None:
    found = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"--gpus {found + 1}: only {found} found"):
        choose_slots(found + 1)
    with pytest.raises(UserError, match="0 or more, but got -1"):
        choose_slots(-1)
