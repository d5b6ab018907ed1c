"""A Ray TrialScheduler whose rungs are the studies' pruner, so that they outlive Ray and this process."""

import textwrap
from pathlib import Path
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from pkd_tune.tuning.searcher import assignment_of
from pkd_tune.tuning.study import Studies

REASON_LENGTH = 200
"""Longest reason of a failed trial; a dead process fills a page of Ray's advice."""


class StudyScheduler(FIFOScheduler):
    """Records every evaluation in its study before Ray acts on it, and stops the trials the pruner gives up."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()
        self.studies = studies

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        """Reports an evaluation; returns whether Ray should go on with the trial."""
        if result.get("failure"):
            return str(TrialScheduler.CONTINUE)  # the trial ends by itself
        # Ray has flattened the nested dictionary: metrics/f1, metrics/accuracy, ...
        metrics = {name.removeprefix("metrics/"): result[name] for name in result if name.startswith("metrics/")}
        details = {"metrics": metrics, "epoch": result["epoch"]}
        should_stop = self.studies.report(assignment_of(trial.config), result["evaluation"], result["score"], details)
        last = result["evaluation"] == result["evaluations"]
        return str(TrialScheduler.STOP if should_stop and not last else TrialScheduler.CONTINUE)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Ends a trial that raised, with the last line of its error."""
        text = Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else ""
        lines = text.strip().splitlines() or ["the trial's process died"]
        self.studies.fail(assignment_of(trial.config), textwrap.shorten(lines[-1], REASON_LENGTH))

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles schedulers, and the journal is what lasts."""
        return {}
