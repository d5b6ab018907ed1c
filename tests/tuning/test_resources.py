import os

import pytest
import torch

from pkd_tune.config import UserError
from pkd_tune.tuning.resources import Resources, choose_resources, gpu_names, resolve_resources, share_cores


def test_cpu_has_a_concurrent_trial_per_core() -> None:
    resources = choose_resources(0)
    assert resources == Resources(cpu_trials=len(os.sched_getaffinity(0)))
    assert (resources.device, resources.count) == ("cpu", len(os.sched_getaffinity(0)))
    assert resources.trial_resources == {"cpu": 1}


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
    shared = resolve_resources(8, 16, 4, 2)
    assert shared == Resources(gpus=4, trials_per_gpu=2)
    assert (shared.device, shared.count, shared.trial_resources) == ("cuda", 8, {"cpu": 1, "gpu": 0.5})
    assert shared.record == {"device": "cuda", "count": 8, "per_gpu": 2, "threads": 1, "eager": None}
    assert resolve_resources(8, 16, None, None) == Resources(gpus=8)
    for found, gpus in ((0, None), (8, 0)):
        with pytest.raises(UserError, match="--trials-per-gpu 2: trials run on the CPU; leave it out"):
            resolve_resources(found, 16, gpus, 2)


@pytest.mark.parametrize(
    ("trials", "gigabytes", "count", "threads"), [(40, 16, 8, 1), (3, 16, 3, 2), (40, 5, 5, 1), (40, 0, 1, 8)]
)
def test_cores_are_shared_among_as_many_trials_as_there_are_and_fit(
    trials: int, gigabytes: int, count: int, threads: int
) -> None:
    shared = share_cores(Resources(cpu_trials=8), trials, trial_bytes=10**9, free_bytes=gigabytes * 10**9)
    assert (shared.count, shared.threads) == (count, threads)
    assert shared.record == {"device": "cpu", "count": count, "per_gpu": 1, "threads": threads}
