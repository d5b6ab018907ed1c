import os

import pytest
import torch

from pkd_tune.config import UserError
from pkd_tune.tuning.resources import Resources, choose_resources, gpu_names, resources_among


def test_cpu_has_a_slot_per_core() -> None:
    assert choose_resources(0) == Resources(device="cpu", count=len(os.sched_getaffinity(0)))


def test_every_gpu_has_a_name() -> None:
    names = gpu_names()
    assert len(names) == torch.cuda.device_count()
    assert all(names)


def test_more_gpus_than_there_are_is_an_error_that_counts_them() -> None:
    found = torch.cuda.device_count()
    with pytest.raises(UserError, match=f"--gpus {found + 1}: only {found} found"):
        choose_resources(found + 1)
    with pytest.raises(UserError, match="0 or more, but got -1"):
        choose_resources(-1)


def test_trials_share_gpus_where_there_are_some() -> None:
    assert resources_among(8, 16, 4, 2) == Resources(device="cuda", count=8, per_gpu=2)
    assert resources_among(8, 16, None, None) == Resources(device="cuda", count=8, per_gpu=1)
    for found, gpus in ((0, None), (8, 0)):
        with pytest.raises(UserError, match="--trials-per-gpu 2: trials run on the CPU; leave it out"):
            resources_among(found, 16, gpus, 2)
