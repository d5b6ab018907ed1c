"""Measures how long a trial waits for the report of an evaluation: Ray, the scheduler and the journal together."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from ray import tune

from pkd_tune.files import JOURNAL, RAY, RAY_LOG
from pkd_tune.tuning.cluster import local_cluster
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.ray_bridge import StudyScheduler, StudySearcher
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies


def report_seconds(reports: int, folder: Path) -> list[float]:
    """Returns the seconds that each report of a trial took that does nothing else.

    Args:
        reports: How many reports the trial makes.
        folder: Receives Ray's records and a journal.
    """
    resources = Resources()
    studies = Studies(folder / JOURNAL, [StudyPlan(study_key=StudyKey(1, "finetuned"), quota=1, parameters={})])
    answer = folder / "seconds.json"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with local_cluster(resources, folder / RAY_LOG):
        tune.Tuner(
            tune.with_resources(
                tune.with_parameters(_report, reports=reports, answer=answer), resources.trial_resources
            ),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(studies), scheduler=StudyScheduler(studies), num_samples=-1
            ),
            run_config=tune.RunConfig(name=RAY, storage_path=str(folder), verbose=0),
        ).fit()
    seconds: list[float] = json.loads(answer.read_text(encoding="utf-8"))
    return seconds


def _report(config: dict[str, Any], *, reports: int, answer: Path) -> None:
    seconds = []
    for number in range(1, reports + 1):
        details = json.dumps({"metrics": {"score": 0.0}, "epoch": float(number)})
        started = time.perf_counter()
        tune.report({"evaluation": number, "evaluations": reports, "score": 0.0, "details": details})
        seconds.append(time.perf_counter() - started)
    answer.write_text(json.dumps(seconds), encoding="utf-8")
    tune.report({"finished": "null"})
