"""Which trial sees which GPU, on a machine with eight that Ray is told of."""

import collections
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import trainables
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy
from runner_runs import ALPHA, search

from pkd_tune.tuning import cluster
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.resources import Resources, share_gpus
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext

GPUS = 8


def gpus_of_actors(kind: Any, resources: Resources, count: int) -> list[list[int]]:
    """Returns the GPUs that each of so many actors sees, while all of them run."""
    of_trial = resources.trial_resources
    groups = [placement_group([{"CPU": of_trial["cpu"], "GPU": of_trial["gpu"]}]) for _ in range(count)]
    ray.get([group.ready() for group in groups])
    started = [
        kind.options(
            num_cpus=of_trial["cpu"],
            num_gpus=of_trial["gpu"],
            scheduling_strategy=PlacementGroupSchedulingStrategy(placement_group=group),
        ).remote()
        for group in groups
    ]
    seen: list[list[int]] = ray.get([actor.gpus.remote() for actor in started])
    for actor, group in zip(started, groups, strict=True):
        ray.kill(actor)
        remove_placement_group(group)
    return seen


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
        for trials, on_each, afterwards in ((8, 1, 0), (16, 2, 0), (40, 4, 1)):
            resources = share_gpus(Resources(gpus=GPUS), trials, room=4)
            waiting, gpus_of_trial = list(range(trials)), dict[int, list[int]]()
            waves = []
            while waiting:
                wave, waiting = waiting[: resources.count], waiting[resources.count :]
                gpus_of_trial |= dict(zip(wave, gpus_of_actors(Trial, resources, len(wave)), strict=True))
                waves.append(collections.Counter(gpu for trial in wave for gpu in gpus_of_trial[trial]))
            print(f"GPUs of {trials} trials:", gpus_of_trial)
            assert all(len(gpus) == 1 for gpus in gpus_of_trial.values())
            assert waves[0] == dict.fromkeys(range(GPUS), on_each)
            assert sum(sum(wave.values()) for wave in waves[1:]) == 8 * afterwards
    finally:
        ray.shutdown()


class WatchedStudies(Studies):
    """Notes of every trial of a search how many others of its study had a score when it began."""

    scored_before: list[int]

    def ask(self) -> tuple[TrialId, dict[str, Any], int | None] | None:
        before = {
            study_key: sum(bool(trial.intermediate_values) for trial in self.trials(study_key))
            for study_key in self.plans
        }
        if (asked := super().ask()) is not None:
            self.scored_before.append(before[asked[0].study_key])
        return asked


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("max_pending", "blind"), [(0, range(32, 201)), (4, range(16, 17))], ids=["no limit", "4"])
def test_few_trials_of_a_wide_search_start_without_a_result_of_their_study(
    max_pending: int, blind: range, context: TrialContext, tmp_path: Path
) -> None:
    """Two hundred instant trials of four studies in 32 slots of eight GPUs."""
    resources = Resources(gpus=GPUS, trials_per_gpu=4)
    plans = [StudyPlan(study_key=StudyKey(depth, "pkd"), quota=50, parameters=ALPHA) for depth in (1, 2, 3, 4)]
    studies = WatchedStudies(tmp_path / "study.log", plans, max_pending=max_pending)
    studies.scored_before = []
    with cluster.local_cluster(resources, tmp_path / "ray.log"):
        rows = search(replace(context, resources=resources), studies, trainables.instant)
    assert len(rows) == 200
    without = studies.scored_before.count(0)
    print(f"{without} of 200 trials began before any of their study had a score")
    assert without in blind
