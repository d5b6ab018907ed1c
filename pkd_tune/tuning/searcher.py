"""A Ray Searcher that asks the studies and tells them how trials ended. It has no memory of its own."""

import json
from typing import Any

from ray.tune.search import Searcher

from pkd_tune.tuning.arms import Arm, Assignment
from pkd_tune.tuning.study import Studies


def assignment_of(config: dict[str, Any]) -> Assignment:
    """Returns which trial of which study a Ray trial's config belongs to."""
    return Assignment(Arm(config["depth"], config["method"]), config["stage"], config["trial"])


class StudySearcher(Searcher):
    """Hands each trial of the studies to Ray, until there are no more."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()  # no metric: what a score is, the studies know
        self.studies = studies
        self.assignments: dict[str, Assignment] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """Returns the config of the next trial, None when it must wait for a running one, or that there is none."""
        asked = self.studies.ask()
        if asked is None:
            return str(Searcher.FINISHED) if self.studies.idle() else None
        assignment, settings, seed = asked
        self.assignments[trial_id] = assignment
        arm = assignment.arm
        identity = {"depth": arm.depth, "method": arm.method, "stage": assignment.stage, "trial": assignment.number}
        return {**identity, "seed": seed, **settings}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends the trial in its study.

        Ray calls early-stopped trials complete too; here a trial is complete only when it said so itself, after its
        last evaluation. A trial whose process died too often is ended by the engine, which knows the reason.
        """
        assignment = self.assignments.pop(trial_id)
        if error:
            return
        result = result or {}
        if "failure" in result:
            self.studies.fail(assignment, result["failure"])
        elif "finished" in result:
            self.studies.complete(assignment, json.loads(result["finished"]))
        elif "evaluation" in result:
            self.studies.stop(assignment)
        else:
            self.studies.fail(assignment, "ended without a score")

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles searchers, and the journal is what lasts."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is what lasts."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is what lasts."""
