"""Which trial sees which GPU, on a machine with eight that Ray is told of."""

import collections

import pytest
import ray
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from pkd_tune.tuning.resources import Resources, share_gpus

GPUS = 8


@pytest.mark.slow
def test_eight_gpus_are_all_used_however_many_trials_there_are() -> None:
    """With a placement group for each trial, as Ray Tune has."""
    ray.init(
        address="local",
        num_cpus=64,
        num_gpus=GPUS,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=2**27,
        logging_level="ERROR",
    )

    @ray.remote
    class Trial:
        def gpus(self) -> list[int]:
            return list(ray.get_gpu_ids())

    try:
        for trials, on_each in ((8, 1), (16, 2), (40, 4)):
            resources = share_gpus(Resources(gpus=GPUS), trials, room=4)
            of_trial = resources.trial_resources
            groups = [
                placement_group([{"CPU": of_trial["cpu"], "GPU": of_trial["gpu"]}])
                for _ in range(min(trials, resources.count))
            ]
            ray.get([group.ready() for group in groups])
            started = [
                Trial.options(  # type: ignore[attr-defined]
                    num_cpus=of_trial["cpu"],
                    num_gpus=of_trial["gpu"],
                    scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
                ).remote()
                for group in groups
            ]
            seen = collections.Counter(
                gpu for gpus in ray.get([trial.gpus.remote() for trial in started]) for gpu in gpus
            )
            assert dict(seen) == dict.fromkeys(range(GPUS), on_each)
            for trial, group in zip(started, groups, strict=True):
                ray.kill(trial)
                remove_placement_group(group)
    finally:
        ray.shutdown()
