"""A Ray Searcher that asks the studies and tells them how trials ended. It has no memory of its own."""

from typing import Any

from ray.tune.search import Searcher

from pkd_tune.tuning.study import Assignment, Studies


def assignment_of(config: dict[str, Any]) -> Assignment:
    """Returns which trial of which study a Ray trial's config belongs to."""
    return Assignment(config["depth"], config["trial"])


class StudySearcher(Searcher):
    """Hands each trial of the studies to Ray, until every depth has its quota."""

    def __init__(self, studies: Studies) -> None:
        super().__init__()  # no metric: what a score is, the studies know
        self.studies = studies
        self.assignments: dict[str, Assignment] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Returns the config of the next trial, or that there is none."""
        asked = self.studies.ask()
        if asked is None:
            return str(Searcher.FINISHED)
        assignment, parameters = asked
        self.assignments[trial_id] = assignment
        return {"depth": assignment.depth, "trial": assignment.number, **parameters}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Ends the trial in its study.

        Ray calls early-stopped trials complete too; here a trial is complete only when its last evaluation was the
        last of its schedule. A trial that raised has been ended by the scheduler, which knows the reason.
        """
        assignment = self.assignments.pop(trial_id)
        if error:
            return
        if result is None or "evaluation" not in result:
            self.studies.fail(assignment, "ended without a score")
        elif result.get("failure"):
            self.studies.fail(assignment, result["failure"])
        elif result["evaluation"] == result["evaluations"]:
            self.studies.complete(assignment)
        else:
            self.studies.stop(assignment)

    def __getstate__(self) -> dict[str, Any]:
        """Keeps nothing: Ray pickles searchers, and the journal is what lasts."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is what lasts."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is what lasts."""
