"""Optuna studies in one journal file, the only memory of what was tried: one per depth and method, and one that
confirms its winner.

Searcher and scheduler both speak to this module, in the driver process. Whatever happens to Ray or to this process,
the journal says which trials there were, how far they got and how they ended.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import Sampler
from pkd_tune.tuning.arms import Arm, Assignment, Plan, Stage
from pkd_tune.tuning.journal import open_journal
from pkd_tune.tuning.notes import ENDED, FROM, KEPT, REPEATS, evaluation_key, has, was_started
from pkd_tune.tuning.sampling import Halving, ask_new, is_hopeless, make_sampler
from pkd_tune.tuning.space import Parameters, Settings, fix, settings_of, suggest, suggested_part


class Studies:
    """The studies of one search, opened from its journal or begun there.

    Attributes:
        plans: By arm, in the order of the search.
        seeds: Of the trainings that confirm each winner.
    """

    def __init__(
        self,
        journal: Path,
        plans: Sequence[Plan],
        *,
        sampler: Sampler = "tpe",
        seed: int = 0,
        seeds: Sequence[int] = (),
        early_stopping: bool = True,
    ) -> None:
        """Opens the journal; trials that a dead process left running are handed out again first.

        Args:
            journal: The file; begun when missing. No other process may be using it.
            plans: What is to be done.
            sampler: What chooses the settings.
            seed: Of the samplers. Continued searches mix in how many trials there are, so as not to repeat draws.
            seeds: Trainings that confirm each arm's best setting; none of them: no confirmation.
            early_stopping: Whether weak trials are stopped at rungs.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plans = {plan.arm: plan for plan in plans}
        self.seeds = tuple(seeds)
        self._kind, self._seed = sampler, seed
        storage = open_journal(journal)
        self._studies: dict[tuple[Arm, Stage], optuna.Study] = {}
        self._running: dict[Assignment, optuna.Trial] = {}
        self._handed_out: dict[Assignment, tuple[float, float]] = {}
        self._left: list[Assignment] = []
        for number, plan in enumerate(plans):
            for stage in ("search", "confirm"):
                name = plan.arm.name if stage == "search" else f"{plan.arm.name} confirmed"
                study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="maximize")
                trials = study.get_trials(deepcopy=False)
                study.sampler = make_sampler(sampler, seed + 1000 * number + len(trials))
                confirming = stage == "confirm" or not early_stopping
                study.pruner = optuna.pruners.NopPruner() if confirming else Halving()
                self._studies[plan.arm, stage] = study
                for trial in trials:
                    if trial.state is TrialState.RUNNING and ENDED in trial.user_attrs:
                        study.tell(trial.number, state=TrialState[trial.user_attrs[ENDED]["state"]])
                    elif trial.state is TrialState.RUNNING:
                        self._left.append(Assignment(plan.arm, stage, trial.number))
                if stage == "search":
                    for settings in plan.first:
                        study.enqueue_trial(suggested_part(plan.parameters, settings), skip_if_exists=True)

    def ask(self) -> tuple[Assignment, Settings, int | None] | None:
        """Returns the next trial, the values it tries, and its seed where it has one of its own.

        Trials of a dead process come first; then searches, the one furthest behind its quota; then confirmations of
        arms whose search has ended. None when there is none now: more may come when running ones end.
        """
        if self._left:
            assignment = self._left.pop(0)
            study = self._studies[assignment.arm, assignment.stage]
            trial = optuna.Trial(study, study.get_trials(deepcopy=False)[assignment.number]._trial_id)
            settings = suggest(trial, self._parameters(assignment.arm, self._frozen(assignment)))
        elif (arm := self._next_search()) is not None:
            study, parameters = self._studies[arm, "search"], self._parameters(arm)
            had = [self.settings(arm, trial) for trial in self._started(arm, "search")]
            trial, settings = ask_new(study, parameters, had, self._kind, self._seed)
            assignment = Assignment(arm, "search", trial.number)
        elif (wanted := self._next_confirmation()) is not None:
            arm, seed = wanted
            trial, settings = self._ask_confirmation(arm, seed)
            assignment = Assignment(arm, "confirm", trial.number)
        else:
            return None
        if keep := self.plans[assignment.arm].keep:
            trial.set_user_attr(KEPT, {name: settings[name] for name in keep})
        self._running[assignment] = trial
        self._handed_out[assignment] = time.time(), self._seconds(assignment)
        return assignment, settings, trial.user_attrs.get("seed")

    def report(
        self, assignment: Assignment, step: int, score: float, details: dict[str, Any], *, last: bool = False
    ) -> bool:
        """Records one evaluation of a running trial; returns whether the trial should stop.

        An evaluation that is repeated, because its process died after it, changes nothing.

        Args:
            assignment: The trial.
            step: Number of the evaluation, from 1.
            score: The task's score there.
            details: Kept with the evaluation; `epoch` and `degenerate` decide as well.
            last: Whether the trial ends with it anyway.
        """
        trial = self._running[assignment]
        if step in self._frozen(assignment).intermediate_values:
            return False
        started, before = self._handed_out[assignment]
        trial.set_user_attr(evaluation_key(step), {**details, "seconds": round(before + time.time() - started, 2)})
        trial.report(score, step)
        study = self._studies[assignment.arm, assignment.stage]
        if last:
            return False
        if trial.should_prune():
            reason = f"not in the better half at evaluation {step}"
        elif details.get("degenerate") and is_hopeless(study, self.trials(assignment.arm), step, details["epoch"]):
            reason = f"predicts the same for every example at epoch {details['epoch']:g}"
        else:
            return False
        trial.set_user_attr(ENDED, {"state": TrialState.PRUNED.name, "reason": reason})
        return True

    def complete(self, assignment: Assignment, official: dict[str, float] | None = None) -> None:
        """Ends a trial that used its whole budget; its value is its best evaluation.

        Args:
            assignment: The trial.
            official: Metrics of its best weights on the official dev splits, where they are not what was evaluated.
        """
        trial = self._running.pop(assignment)
        if official is not None:
            trial.set_user_attr("official", official)
        best = max(self._frozen(assignment).intermediate_values.values())
        self._studies[assignment.arm, assignment.stage].tell(trial, best)

    def stop(self, assignment: Assignment) -> None:
        """Ends a trial that was stopped before its budget was used."""
        trial = self._running.pop(assignment)
        self._studies[assignment.arm, assignment.stage].tell(trial, state=TrialState.PRUNED)

    def fail(self, assignment: Assignment, reason: str) -> None:
        """Ends a trial that has no result, with the reason in one line."""
        trial = self._running.pop(assignment)
        trial.set_user_attr(ENDED, {"state": TrialState.FAIL.name, "reason": reason})
        self._studies[assignment.arm, assignment.stage].tell(trial, state=TrialState.FAIL)

    def warm_start(self, arm: Arm, source: str, trials: Sequence[FrozenTrial]) -> int:
        """Shows an arm's sampler trials of another run; returns how many it was not shown before.

        They keep their settings and final scores alone: they count for no quota, stop no trial, win nothing, and their
        settings may be tried here too.
        """
        study = self._studies[arm, "search"]
        shown = sum(trial.user_attrs.get(FROM) == source for trial in study.get_trials(deepcopy=False))
        for trial in trials[shown:]:
            copy = optuna.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=trial.value,
                user_attrs={FROM: source},
            )
            study.add_trial(copy)
        return len(trials[shown:])

    def remaining(self) -> int:
        """Returns how many trials are still to be started, confirmations included."""
        searches = sum(max(0, self.quota(arm) - len(self.trials(arm))) for arm in self.plans)
        return len(self._left) + searches + sum(len(self._unconfirmed(arm)) for arm in self.plans)

    def total(self) -> int:
        """Returns how many trials there will have been in all."""
        started = sum(len(self.trials(arm, stage)) for arm in self.plans for stage in ("search", "confirm"))
        return started + self.remaining() - len(self._left)

    def unfinished(self) -> int:
        """Returns how many trials have not ended: running ones, and those still to be started."""
        return self.remaining() + len(self._running)

    def idle(self) -> bool:
        """Tells whether no trial has been handed out that has not ended."""
        return not self._running

    def quota(self, arm: Arm) -> int:
        """Returns how many trials an arm's search has; none when what it waits for has brought nothing to keep."""
        plan = self.plans[arm]
        lost = plan.after is not None and not self._open(plan.after) and self.best(plan.after) is None
        return 0 if lost else plan.quota

    def trials(self, arm: Arm, stage: Stage = "search") -> list[FrozenTrial]:
        """Returns the trials of an arm that were started here, in their order; confirmations of its winner only."""
        started = self._started(arm, stage)
        if stage == "search":
            return started
        winner = self.best(arm)
        return [trial for trial in started if winner is not None and trial.user_attrs["winner"] == winner.number]

    def best(self, arm: Arm) -> FrozenTrial | None:
        """Returns the complete trial of an arm's search with the highest score; None when none is complete."""
        return next(iter(self.ranking(arm)), None)

    def ranking(self, arm: Arm) -> list[FrozenTrial]:
        """Returns the complete trials of an arm's search, best first; of equals, the earlier first."""
        complete = self._studies[arm, "search"].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(filter(was_started, complete), key=lambda trial: (-(trial.value or 0.0), trial.number))

    def settings(self, arm: Arm, trial: FrozenTrial) -> Settings:
        """Returns the values a trial tried, fixed ones included."""
        return settings_of(self._parameters(arm, trial), trial.params)

    def _started(self, arm: Arm, stage: Stage) -> list[FrozenTrial]:
        """Returns all trials that were started here."""
        return [trial for trial in self._studies[arm, stage].get_trials(deepcopy=False) if was_started(trial)]

    def _ask_confirmation(self, arm: Arm, seed: int) -> tuple[optuna.Trial, Settings]:
        """Returns the trial that trains an arm's winner with a seed.

        A dead process may have left a trial queued: this one, or one for a winner of that time.
        """
        study, winner = self._studies[arm, "confirm"], self.best(arm)
        assert winner is not None
        parameters = self._parameters(arm, winner)
        wanted = {"winner": winner.number, "seed": seed}
        if not any(has(trial, wanted) for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))):
            study.enqueue_trial(suggested_part(parameters, self.settings(arm, winner)), user_attrs=wanted)
        while not has(trial := study.ask(), wanted):
            trial.set_user_attr(REPEATS, True)
            study.tell(trial, state=TrialState.FAIL)
        return trial, suggest(trial, parameters)

    def _parameters(self, arm: Arm, trial: FrozenTrial | None = None) -> Parameters:
        """Returns what the trials of an arm choose, with what is kept of another arm's winner fixed.

        Args:
            arm: The arm.
            trial: One that was started keeps what it kept then; a new one, left out, keeps the best values of today.
        """
        plan = self.plans[arm]
        if plan.after is None:
            return plan.parameters
        if trial is not None and KEPT in trial.user_attrs:
            return fix(plan.parameters, trial.user_attrs[KEPT])
        winner = self.best(plan.after)
        assert winner is not None
        kept = self.settings(plan.after, winner)
        return fix(plan.parameters, {name: kept[name] for name in plan.keep})

    def _next_search(self) -> Arm | None:
        """Returns the arm whose search is furthest behind its quota; None when all have theirs or must wait."""
        started = {
            arm: len(self.trials(arm)) / self.quota(arm)
            for arm, plan in self.plans.items()
            if self.quota(arm) and (plan.after is None or not self._open(plan.after))
        }
        behind = [arm for arm, share in started.items() if share < 1]
        return min(behind, key=lambda arm: started[arm]) if behind else None

    def _next_confirmation(self) -> tuple[Arm, int] | None:
        """Returns an arm whose search has ended, and a seed its winner was not yet trained with."""
        ready = [arm for arm in self.plans if not self._open(arm)]
        return next(((arm, seed) for arm in ready for seed in self._unconfirmed(arm)), None)

    def _unconfirmed(self, arm: Arm) -> list[int]:
        """Returns the seeds an arm's winner is still to be trained with; all of them while its search goes on."""
        if not self._open(arm) and self.best(arm) is None:
            return []
        done = set() if self._open(arm) else {t.user_attrs["seed"] for t in self.trials(arm, "confirm")}
        return [seed for seed in self.seeds if seed not in done]

    def _open(self, arm: Arm) -> bool:
        """Tells whether an arm's search has trials to start or to end."""
        trials = self.trials(arm)
        return len(trials) < self.quota(arm) or any(trial.state is TrialState.RUNNING for trial in trials)

    def _seconds(self, assignment: Assignment) -> float:
        """Returns how long a trial had been computing when its last evaluation was recorded."""
        last = self._frozen(assignment).last_step
        return 0.0 if last is None else float(self._frozen(assignment).user_attrs[evaluation_key(last)]["seconds"])

    def _frozen(self, assignment: Assignment) -> FrozenTrial:
        study = self._studies[assignment.arm, assignment.stage]
        return study.get_trials(deepcopy=False)[assignment.number]
