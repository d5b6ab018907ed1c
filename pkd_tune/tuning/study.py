"""One Optuna study per depth in one journal file: the only memory of what was tried.

Searcher and scheduler both speak to this module, in the driver process. Whatever happens to Ray or to this process,
the journal says which trials there were and how they ended.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.tuning.space import Choice, Parameter, suggest

STARTUP_TRIALS = 2
"""Trials of a depth that must have run to the end before any is stopped early."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """A running trial: its depth, and its number within the depth's study."""

    depth: int
    number: int

    @property
    def name(self) -> str:
        """Names the trial in files and logs."""
        return f"depth-{self.depth}-trial-{self.number:04d}"


class Studies:
    """The studies of one search, opened from its journal or begun there."""

    def __init__(
        self, journal: Path, depths: tuple[int, ...], trials: int, parameters: dict[str, Parameter], seed: int
    ) -> None:
        """Opens the journal; trials that a dead process left running are told FAIL and queued once more.

        Args:
            journal: The file; begun when missing. No other process may be using it.
            depths: Student depths, each a study.
            trials: Trials in all, shared as evenly as they go, the first depths taking the remainder.
            parameters: What each trial chooses.
            seed: Of the samplers. Continued searches mix in how many trials there are, so as not to repeat draws.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.parameters = parameters
        self.quota = {depth: trials // len(depths) + (i < trials % len(depths)) for i, depth in enumerate(depths)}
        _repair(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        self._studies: dict[int, optuna.Study] = {}
        self._running: dict[Assignment, optuna.Trial] = {}
        for depth in depths:
            study = optuna.create_study(
                storage=storage, study_name=f"depth-{depth}", load_if_exists=True, direction="maximize"
            )
            study.sampler = _sampler(seed + 1000 * depth + len(study.get_trials(deepcopy=False)))
            # Trials below the median of the complete ones at the same evaluation are stopped.
            study.pruner = optuna.pruners.PercentilePruner(50.0, n_startup_trials=STARTUP_TRIALS)
            self._studies[depth] = study
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if trial.number not in self._interrupted(depth):  # else this process died between the next two lines
                    # What was queued itself and died before it was read is in fixed_params only.
                    settings = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
                    study.enqueue_trial(settings, user_attrs={"resumes": trial.number})
                study.tell(trial.number, state=TrialState.FAIL)

    def ask(self) -> tuple[Assignment, dict[str, Any]] | None:
        """Returns the next trial and the values it tries, of the depth furthest behind its quota.

        None when every depth has its quota.
        """
        started = {depth: len(self._counted(depth)) for depth in self.quota}
        waiting = [depth for depth in self.quota if started[depth] < self.quota[depth]]
        if not waiting:
            return None
        depth = min(waiting, key=lambda depth: started[depth] / self.quota[depth])
        trial = self._studies[depth].ask()
        parameters = suggest(trial, self.parameters)
        assignment = Assignment(depth, trial.number)
        self._running[assignment] = trial
        return assignment, parameters

    def report(self, assignment: Assignment, step: int, score: float, details: dict[str, Any]) -> bool:
        """Records one evaluation of a running trial; returns whether the trial should stop.

        Args:
            assignment: The trial.
            step: Number of the evaluation, from 1.
            score: The task's score there.
            details: Kept with the trial when this is its best evaluation so far.
        """
        trial = self._running[assignment]
        if all(score > earlier for earlier in self._scores(assignment)):
            for name, value in details.items():
                trial.set_user_attr(name, value)
        trial.report(score, step)
        return trial.should_prune()

    def complete(self, assignment: Assignment) -> None:
        """Ends a trial that used its whole budget; its value is its best evaluation."""
        best = max(self._scores(assignment))
        self._studies[assignment.depth].tell(self._running.pop(assignment), best)

    def stop(self, assignment: Assignment) -> None:
        """Ends a trial that was stopped before its budget was used."""
        self._studies[assignment.depth].tell(self._running.pop(assignment), state=TrialState.PRUNED)

    def fail(self, assignment: Assignment, reason: str) -> None:
        """Ends a trial that has no result, with the reason in one line."""
        trial = self._running.pop(assignment)
        trial.set_user_attr("error", reason)
        self._studies[assignment.depth].tell(trial, state=TrialState.FAIL)

    def remaining(self) -> int:
        """Returns how many trials are still to be started."""
        return sum(max(0, quota - len(self._counted(depth))) for depth, quota in self.quota.items())

    def unfinished(self) -> int:
        """Returns how many trials have not ended: running ones, and those still to be started."""
        return self.remaining() + self.counts()["running"]

    def counts(self) -> dict[str, int]:
        """Returns how many trials are complete, stopped early, failed and running, over all depths."""
        names = {"COMPLETE": "done", "PRUNED": "stopped", "FAIL": "failed", "RUNNING": "running"}
        counts = dict.fromkeys(names.values(), 0)
        for depth in self.quota:
            for trial in self._counted(depth):
                counts[names[trial.state.name]] += 1
        return counts

    def best(self, depth: int) -> FrozenTrial | None:
        """Returns the complete trial of a depth with the highest score; None when none is complete."""
        return next(iter(self._ranking(depth)), None)

    def outdone(self, depth: int) -> list[Assignment]:
        """Returns the complete trials of a depth but the best."""
        return [Assignment(depth, trial.number) for trial in self._ranking(depth)[1:]]

    def best_score(self, depth: int) -> float | None:
        """Returns the highest score any trial of a depth has reported so far; None when there is none."""
        scores = [
            score
            for trial in self._studies[depth].get_trials(deepcopy=False)
            for score in trial.intermediate_values.values()
        ]
        return max(scores, default=None)

    def rows(self) -> list[dict[str, Any]]:
        """Returns one flat row per trial, depth by depth in the order of starting, as trials.csv has them."""
        states = {"COMPLETE": "complete", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "interrupted"}
        rows = []
        for depth in self.quota:
            interrupted = self._interrupted(depth)
            for trial in self._studies[depth].get_trials(deepcopy=False):
                if trial.state is TrialState.WAITING:
                    continue
                attributes = dict(trial.user_attrs)
                metrics = attributes.pop("metrics", {})
                scores = trial.intermediate_values
                seconds = (trial.duration.total_seconds()) if trial.duration else None
                rows.append(
                    {
                        "depth": depth,
                        "trial": trial.number,
                        "state": "interrupted" if trial.number in interrupted else states[trial.state.name],
                        "score": max(scores.values(), default=None),
                        **{name: value for name, value in metrics.items() if name != "score"},
                        "best_epoch": attributes.pop("epoch", None),
                        "evaluations": len(scores),
                        "seconds": None if seconds is None else round(seconds, 1),
                        **self.settings(trial),
                        "error": attributes.pop("error", None),
                    }
                )
        return rows

    def settings(self, trial: FrozenTrial) -> dict[str, Any]:
        """Returns the values a trial tried, fixed ones included."""
        fixed = {name: p.values[0] for name, p in self.parameters.items() if isinstance(p, Choice)}
        return {name: trial.params.get(name, fixed.get(name)) for name in self.parameters}

    def _ranking(self, depth: int) -> list[FrozenTrial]:
        """Returns the complete trials, best first; of equals, the earlier first."""
        complete = self._studies[depth].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(complete, key=lambda trial: (-(trial.value or 0.0), trial.number))

    def _counted(self, depth: int) -> list[FrozenTrial]:
        """Returns the trials that use up the quota: all that were started but the interrupted, which run again."""
        interrupted = self._interrupted(depth)
        return [
            trial
            for trial in self._studies[depth].get_trials(deepcopy=False)
            if trial.state is not TrialState.WAITING and trial.number not in interrupted
        ]

    def _interrupted(self, depth: int) -> set[int]:
        """Returns the numbers of trials that a dead process left running and another trial repeats."""
        trials = self._studies[depth].get_trials(deepcopy=False)
        return {trial.user_attrs["resumes"] for trial in trials if "resumes" in trial.user_attrs}

    def _scores(self, assignment: Assignment) -> list[float]:
        trial = self._studies[assignment.depth].get_trials(deepcopy=False)[assignment.number]
        return list(trial.intermediate_values.values())


def _repair(journal: Path) -> None:
    """Undoes what a process can leave behind that was killed while it wrote: half a line, or its lock."""
    Path(f"{journal}.lock").unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("r+b") as file:
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)


def _sampler(seed: int) -> optuna.samplers.TPESampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # `group` is, since 2021
        return optuna.samplers.TPESampler(
            n_startup_trials=5, multivariate=True, group=True, constant_liar=True, seed=seed
        )
