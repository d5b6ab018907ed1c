"""The bridge between Ray Tune and the Optuna studies: a Searcher and a TrialScheduler without state of their own.

The searcher asks the studies for trials and tells them how trials ended; the scheduler reports every evaluation and
stops the trials that the studies' pruner stops. Both may be rebuilt from the journal at any time.
"""

import json
import logging
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.result import NODE_IP
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from pkd_tune.tuning.journal import NODE
from pkd_tune.tuning.plan import StudyKey, TrialId
from pkd_tune.tuning.studies import Studies

log = logging.getLogger(__name__)


def trial_id_of(config: dict[str, Any]) -> TrialId:
    """Returns the id of the trial that a Ray trial's config describes."""
    return TrialId(StudyKey(config["depth"], config["method"]), config["stage"], config["trial"])


class StudySearcher(Searcher):
    """Suggests each trial of the studies to Ray, until there are no more."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()  # no metric: the studies have the scores
        self.studies = studies
        self.started: dict[str, TrialId] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the config of the next trial; None when it depends on a running one; FINISHED when there is none."""
        asked = self.studies.ask()
        if asked is None:
            return str(Searcher.FINISHED) if self.studies.idle() else None
        ours, settings, seed = asked
        self.started[trial_id] = ours
        identity = {
            "depth": ours.study_key.depth,
            "method": ours.study_key.method,
            "stage": ours.stage,
            "trial": ours.number,
        }
        return {**identity, "seed": seed, "settings": settings}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends the trial in its study.

        Ray calls early-stopped trials complete too; here a trial is complete only when its last result says so. A trial
        whose process died too often is ended by the runner's callback, which has the reason.
        """
        ours, result = self.started[trial_id], result or {}
        if error or "machine" in result:
            pass  # the latter has not ended: the search stops, and continues with it
        elif "failure" in result:
            self.studies.fail(ours, result["failure"])
        elif "finished" in result:
            self.studies.complete(ours, json.loads(result["finished"]), result.get("file"))
        elif "evaluation" in result:
            self.studies.stop(ours)
        else:
            self.studies.fail(ours, "ended without a score")
        del self.started[trial_id]  # last: where the journal cannot be written, Ray asks again

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray pickles searchers, but the journal is the only state."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is the only state."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is the only state."""


class StudyScheduler(FIFOScheduler):
    """Records every evaluation in its study before Ray acts on it, and stops the trials that the pruner stops."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()
        self.studies = studies

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Reports an evaluation; returns whether Ray should continue or stop the trial."""
        trial_id = trial_id_of(trial.config)
        for kind in ("replaced", "failure", "machine"):
            if kind in result and not result.get("done"):  # Ray sends the last result twice
                log.info("%s: %s%s", trial_id.name, result[kind], "\n" + result.get("traceback", ""))
        if "details" not in result:
            return str(TrialScheduler.CONTINUE)  # the trial ends by itself
        details = {**json.loads(result["details"]), NODE: result[NODE_IP]}
        last = result["evaluation"] == result["evaluations"]
        should_stop = self.studies.report(trial_id, result["evaluation"], result["score"], details, last=last)
        return str(TrialScheduler.STOP if should_stop else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Returns no state: Ray pickles schedulers, but the journal is the only state."""
        return {}
