"""A Ray TrialScheduler whose rungs are the studies' pruner, so that they outlive Ray and this process."""

import json
import logging
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pkd_tune.tuning.searcher import assignment_of
from pkd_tune.tuning.study import Studies

log = logging.getLogger(__name__)


class StudyScheduler(FIFOScheduler):
    """Records every evaluation in its study before Ray acts on it, and stops the trials the pruner gives up."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()
        self.studies = studies

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Reports an evaluation; returns whether Ray should go on with the trial."""
        assignment = assignment_of(trial.config)
        for kind in ("replaced", "failure"):
            if kind in result and not result.get("done"):  # Ray sends the last result twice
                log.info("%s: %s%s", assignment.name, result[kind], "\n" + result.get("traceback", ""))
        if "details" not in result:
            return str(TrialScheduler.CONTINUE)  # the trial ends by itself
        details = json.loads(result["details"])
        last = result["evaluation"] == result["evaluations"]
        should_stop = self.studies.report(assignment, result["evaluation"], result["score"], details, last=last)
        return str(TrialScheduler.STOP if should_stop else TrialScheduler.CONTINUE)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles schedulers, and the journal is what lasts."""
        return {}
