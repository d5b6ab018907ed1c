"""How long a trial is held up by reporting an evaluation: Ray, the scheduler and the journal together."""

import json
import time
from pathlib import Path
from typing import Any

from ray import tune

from pkd_tune.tuning.engine import ray_of
from pkd_tune.tuning.scheduler import StudyScheduler
from pkd_tune.tuning.searcher import StudySearcher
from pkd_tune.tuning.slots import Slots
from pkd_tune.tuning.study import Studies


def report_seconds(reports: int, folder: Path) -> list[float]:
    """Returns how long each report of a trial took that does nothing else.

    Args:
        reports: How many.
        folder: For Ray's records and a journal; nothing in it is kept in use.
    """
    studies = Studies(folder / "study.log", depths=(1,), trials=1, parameters={}, seed=0)
    answer = folder / "seconds.json"
    with ray_of(Slots(device="cpu", count=1), folder / "ray-start.log"):
        tune.Tuner(
            tune.with_parameters(_report, reports=reports, answer=answer),
            tune_config=tune.TuneConfig(
                search_alg=StudySearcher(studies), scheduler=StudyScheduler(studies), num_samples=-1, reuse_actors=True
            ),
            run_config=tune.RunConfig(name="ray", storage_path=str(folder), verbose=0),
        ).fit()
    seconds: list[float] = json.loads(answer.read_text(encoding="utf-8"))
    return seconds


def _report(config: dict[str, Any], *, reports: int, answer: Path) -> None:
    seconds = []
    for number in range(1, reports + 1):
        started = time.perf_counter()
        tune.report(
            {
                "evaluation": number,
                "evaluations": reports,
                "epoch": float(number),
                "score": float(number),
                "metrics": {"score": float(number)},
            }
        )
        seconds.append(time.perf_counter() - started)
    answer.write_text(json.dumps(seconds), encoding="utf-8")
