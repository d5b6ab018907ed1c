"""How long a trial is held up by reporting an evaluation: Ray, the scheduler and the journal together."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from pkd_tune.tuning.cluster import own_cluster  # isort: skip - first: it sets what Ray reads when it is imported

from ray import tune  # isort: skip

from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.ray_bridge import StudyScheduler, StudySearcher
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies


def report_seconds(reports: int, folder: Path) -> list[float]:
    """Returns how long each report took of a trial that does nothing else.

    Args:
        reports: How many.
        folder: Gets Ray's records and a journal.
    """
    resources = Resources()
    studies = Studies(folder / "study.log", [StudyPlan(study_key=StudyKey(1, "finetuned"), quota=1, parameters={})])
    answer = folder / "seconds.json"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with own_cluster(resources, folder / "ray-start.log"):
        tune.Tuner(
            tune.with_resources(tune.with_parameters(_report, reports=reports, answer=answer), resources.trial_resources),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(studies), scheduler=StudyScheduler(studies), num_samples=-1
            ),
            run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=0),
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
