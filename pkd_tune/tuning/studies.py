"""Optuna studies in one journal file: for each depth and method one that searches and one that confirms its winner.

Searcher and scheduler both use this module, in the driver process. The journal is the only state: whatever happens to
Ray or to this process, it has every trial that was started, its evaluations and how it ended.
"""

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import Sampler, Stage
from pkd_tune.tuning.journal import (
    ENDED,
    FILE,
    FROM,
    KEPT,
    REPEATS,
    evaluation_key,
    has_attributes,
    open_journal,
    was_started,
)
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.sampling import HalvingPruner, ask_untried, make_sampler, should_stop_degenerate
from pkd_tune.tuning.space import Parameters, Settings, fix, settings_of, suggest, suggested_part
from pkd_tune.tuning.time_limit import TimeLimit, fits, trial_seconds


class Studies:
    """The studies of one search, created in its journal or loaded from it.

    Attributes:
        plans: The plan of each study, in the order of the search.
        seeds: Seeds of the trainings that confirm each winner.
        time_limit: When no more trials are given out; None: when there are no more.
    """

    def __init__(
        self,
        journal: Path,
        plans: Sequence[StudyPlan],
        *,
        sampler: Sampler = "tpe",
        seed: int = 0,
        seeds: Sequence[int] = (),
        early_stopping: bool = True,
        max_pending: int = 0,
        time_limit: TimeLimit | None = None,
    ) -> None:
        """Opens the journal; trials that a dead process left running will be asked for first.

        Args:
            journal: The file; created when missing. No other process may be using it.
            plans: Of the studies.
            sampler: Of the searches.
            seed: Of the samplers; the number of trials is added, so that a continued search draws other settings.
            seeds: Of the trainings that confirm each study's winner; empty: no confirmation.
            early_stopping: Whether weak trials are stopped at rungs.
            max_pending: Trials of one study that run without a score at most, or as many as have one; 0: no limit, as
                where neither sampler nor early stopping learn from scores.
            time_limit: When no more trials are given out; None: when there are no more.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plans = {plan.study_key: plan for plan in plans}
        self.seeds = tuple(seeds)
        self._kind, self._seed = sampler, seed
        self._max_pending = max_pending if early_stopping or sampler == "tpe" else 0
        self.time_limit = time_limit
        self._has_begun = False
        self._closed: set[StudyKey] = set()  # studies of which no other trial fits into the time that is left
        storage = open_journal(journal)
        self._studies: dict[tuple[StudyKey, Stage], optuna.Study] = {}
        self._running: dict[TrialId, optuna.Trial] = {}
        self._resumed_at: dict[TrialId, tuple[float, float]] = {}
        self._interrupted: list[TrialId] = []
        for number, plan in enumerate(plans):
            for stage in ("search", "confirm"):
                name = plan.study_key.name if stage == "search" else f"{plan.study_key.name} confirmed"
                study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="maximize")
                if study.metric_names is None:  # for optuna-dashboard
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                        study.set_metric_names(["score × 100"])
                trials = study.get_trials(deepcopy=False)
                study.sampler = make_sampler(sampler, seed + 1000 * number + len(trials))
                confirming = stage == "confirm" or not early_stopping
                study.pruner = optuna.pruners.NopPruner() if confirming else HalvingPruner()
                self._studies[plan.study_key, stage] = study
                for trial in trials:
                    if trial.state is TrialState.RUNNING and ENDED in trial.user_attrs:
                        study.tell(trial.number, state=TrialState[trial.user_attrs[ENDED]["state"]])
                    elif trial.state is TrialState.RUNNING:
                        self._interrupted.append(TrialId(plan.study_key, stage, trial.number))
                if stage == "search":
                    for settings in plan.first:
                        study.enqueue_trial(suggested_part(plan.parameters, settings), skip_if_exists=True)

    def ask(self) -> tuple[TrialId, Settings, int | None] | None:
        """Returns the next trial, its settings, and its seed if it is a confirmation.

        Interrupted trials come first; then the search that has started the smallest share of its quota, of those whose
        next trial need not wait for scores; then confirmations of studies whose search has ended. None when
        there is none now; more may follow when running trials are evaluated or end.

        With a time limit, a search has ended, for this time, when another trial would not leave enough time for the
        confirmations.
        """
        if self._is_time_over():
            return None
        if self._interrupted:
            trial_id = self._interrupted.pop(0)
            study = self._studies[trial_id.study_key, trial_id.stage]
            trial = optuna.Trial(study, study.get_trials(deepcopy=False)[trial_id.number]._trial_id)
            settings = suggest(trial, self._parameters(trial_id.study_key, self._frozen(trial_id)))
        elif (study_key := self._next_search_that_fits()) is not None:
            study, parameters = self._studies[study_key, "search"], self._parameters(study_key)
            had = [self.settings(study_key, trial) for trial in self._started(study_key, "search")]
            trial, settings = ask_untried(study, parameters, had, self._kind, self._seed)
            trial_id = TrialId(study_key, "search", trial.number)
        elif (wanted := self._next_confirmation()) is not None:
            study_key, seed = wanted
            trial, settings = self._ask_confirmation(study_key, seed)
            trial_id = TrialId(study_key, "confirm", trial.number)
        else:
            return None
        if keep := self.plans[trial_id.study_key].keep:
            trial.set_user_attr(KEPT, {name: settings[name] for name in keep})
        self._running[trial_id] = trial
        self._has_begun = True
        self._resumed_at[trial_id] = time.time(), self._seconds(trial_id)
        return trial_id, settings, trial.user_attrs.get("seed")

    def report(
        self, trial_id: TrialId, step: int, score: float, details: dict[str, Any], *, last: bool = False
    ) -> bool:
        """Records one evaluation of a running trial; returns whether the trial should be stopped.

        An evaluation that is repeated, because the trial's process died after it, changes nothing.

        Args:
            trial_id: The trial.
            step: Number of the evaluation, from 1.
            score: The task's score.
            details: Recorded with the evaluation; `epoch` and `degenerate` are needed to decide.
            last: Whether it is the trial's last evaluation.
        """
        trial = self._running[trial_id]
        if step in self._frozen(trial_id).intermediate_values:
            return False
        started, before = self._resumed_at[trial_id]
        trial.set_user_attr(evaluation_key(step), {**details, "seconds": round(before + time.time() - started, 2)})
        trial.report(score, step)
        study = self._studies[trial_id.study_key, trial_id.stage]
        if last:
            return False
        if trial.should_prune():
            reason = f"not in the better half at evaluation {step}"
        elif details.get("degenerate") and should_stop_degenerate(
            study, self.trials(trial_id.study_key), step, details["epoch"]
        ):
            reason = f"predicts the same for every example at epoch {details['epoch']:g}"
        else:
            return False
        trial.set_user_attr(ENDED, {"state": TrialState.PRUNED.name, "reason": reason})
        return True

    def complete(
        self, trial_id: TrialId, official: dict[str, float] | None = None, file_hash: str | None = None
    ) -> None:
        """Ends a trial that used its whole budget; its value is its best score.

        Args:
            trial_id: The trial.
            official: Metrics of a confirmation's best weights on the official dev splits.
            file_hash: SHA-256 of the file it left.
        """
        trial = self._running.pop(trial_id)
        if file_hash is not None:
            trial.set_user_attr(FILE, file_hash)
        if official is not None:
            trial.set_user_attr("official", official)
        best = max(self._frozen(trial_id).intermediate_values.values())
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, best)

    def stop(self, trial_id: TrialId) -> None:
        """Ends a trial that was stopped before its budget was used."""
        trial = self._running.pop(trial_id)
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, state=TrialState.PRUNED)

    def fail(self, trial_id: TrialId, reason: str) -> None:
        """Ends a trial that failed, with the reason in one line."""
        trial = self._running.pop(trial_id)
        trial.set_user_attr(ENDED, {"state": TrialState.FAIL.name, "reason": reason})
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, state=TrialState.FAIL)

    def warm_start(self, study_key: StudyKey, source: str, trials: Sequence[FrozenTrial]) -> int:
        """Adds trials of another run to a study for its sampler; returns how many were not added before.

        Only their settings and final scores are added. They do not count towards the quota, influence no pruning and
        cannot win, and their settings may be tried again.
        """
        study = self._studies[study_key, "search"]
        added = sum(trial.user_attrs.get(FROM) == source for trial in study.get_trials(deepcopy=False))
        for trial in trials[added:]:
            copy = optuna.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=trial.value,
                user_attrs={FROM: source},
            )
            study.add_trial(copy)
        return len(trials[added:])

    def remaining(self) -> int:
        """Returns how many trials are still to be started or resumed, confirmations included."""
        searches = sum(max(0, self.quota(study_key) - len(self.trials(study_key))) for study_key in self.plans)
        return len(self._interrupted) + searches + sum(len(self._unconfirmed(study_key)) for study_key in self.plans)

    def total(self) -> int:
        """Returns how many trials the whole search has, confirmations included."""
        started = sum(len(self.trials(study_key, stage)) for study_key in self.plans for stage in ("search", "confirm"))
        return started + self.remaining() - len(self._interrupted)

    def unfinished(self) -> int:
        """Returns how many trials have not ended: running ones, and those still to be started or resumed."""
        return self.remaining() + len(self._running)

    def is_out_of_time(self) -> bool:
        """Returns whether trials are missing because of the time limit, rather than because of an interruption."""
        return self.time_limit is not None and self.unfinished() > 0 and (self._is_time_over() or self.idle())

    def idle(self) -> bool:
        """Returns whether no trial is running."""
        return not self._running

    def quota(self, study_key: StudyKey) -> int:
        """Returns how many trials a study's search has; 0 when the search it depends on ended without a winner."""
        plan = self.plans[study_key]
        lost = plan.after is not None and not self._is_unfinished(plan.after) and self.best(plan.after) is None
        return 0 if lost else plan.quota

    def trials(self, study_key: StudyKey, stage: Stage = "search") -> list[FrozenTrial]:
        """Returns the trials of a study that were started, in their order; confirmations of its present winner only."""
        started = self._started(study_key, stage)
        if stage == "search":
            return started
        winner = self.best(study_key)
        return [trial for trial in started if winner is not None and trial.user_attrs["winner"] == winner.number]

    def best(self, study_key: StudyKey) -> FrozenTrial | None:
        """Returns the complete trial of a study's search with the highest score; None when none is complete."""
        return next(iter(self.ranking(study_key)), None)

    def ranking(self, study_key: StudyKey) -> list[FrozenTrial]:
        """Returns the complete trials of a study's search, best first; of equal ones, the earlier first."""
        complete = self._studies[study_key, "search"].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(filter(was_started, complete), key=lambda trial: (-(trial.value or 0.0), trial.number))

    def settings(self, study_key: StudyKey, trial: FrozenTrial) -> Settings:
        """Returns the settings of a trial, fixed ones included."""
        return settings_of(self._parameters(study_key, trial), trial.params)

    def _started(self, study_key: StudyKey, stage: Stage) -> list[FrozenTrial]:
        """Returns all trials that were started in this run."""
        return [trial for trial in self._studies[study_key, stage].get_trials(deepcopy=False) if was_started(trial)]

    def _ask_confirmation(self, study_key: StudyKey, seed: int) -> tuple[optuna.Trial, Settings]:
        """Returns the trial that trains a study's winner with a seed.

        A dead process may have left a trial enqueued: this one, or one of an earlier winner.
        """
        study, winner = self._studies[study_key, "confirm"], self.best(study_key)
        assert winner is not None
        parameters = self._parameters(study_key, winner)
        wanted = {"winner": winner.number, "seed": seed}
        if not any(
            has_attributes(trial, wanted) for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        ):
            study.enqueue_trial(suggested_part(parameters, self.settings(study_key, winner)), user_attrs=wanted)
        while not has_attributes(trial := study.ask(), wanted):
            trial.set_user_attr(REPEATS, True)
            study.tell(trial, state=TrialState.FAIL)
        return trial, suggest(trial, parameters)

    def _parameters(self, study_key: StudyKey, trial: FrozenTrial | None = None) -> Parameters:
        """Returns the parameters of a study, with those that it takes from another study's winner fixed.

        Args:
            study_key: The study.
            trial: A trial that was started has the values it took then; None: a new trial takes the present winner's.
        """
        plan = self.plans[study_key]
        if plan.after is None:
            return plan.parameters
        if trial is not None and KEPT in trial.user_attrs:
            return fix(plan.parameters, trial.user_attrs[KEPT])
        winner = self.best(plan.after)
        assert winner is not None
        kept = self.settings(plan.after, winner)
        return fix(plan.parameters, {name: kept[name] for name in plan.keep})

    def _next_search_that_fits(self) -> StudyKey | None:
        """Returns the study whose search goes on; closes those of which no other trial fits into the time limit.

        A search's first trial is begun in any case, so that it gets on however short the time is.
        """
        while (study_key := self._next_search()) is not None and self._has_begun and not self._fits(study_key):
            self._closed.add(study_key)
        return study_key

    def _next_search(self) -> StudyKey | None:
        """Returns the study that has started the smallest share of its quota; None when none can start a trial."""
        started = {
            study_key: len(self.trials(study_key)) / self.quota(study_key)
            for study_key, plan in self.plans.items()
            if self.quota(study_key) and (plan.after is None or not self._is_unfinished(plan.after))
        }
        behind = [
            study_key
            for study_key, share in started.items()
            if share < 1 and study_key not in self._closed and not self._is_full(study_key)
        ]
        return min(behind, key=lambda study_key: started[study_key]) if behind else None

    def _is_full(self, study_key: StudyKey) -> bool:
        """Returns whether a study's next trial waits: `max_pending` run without a score, and no fewer than have one."""
        trials = self.trials(study_key)
        scored = sum(bool(trial.intermediate_values) for trial in trials)
        pending = sum(trial.state is TrialState.RUNNING and not trial.intermediate_values for trial in trials)
        return 0 < self._max_pending <= pending and pending >= scored

    def _fits(self, study_key: StudyKey) -> bool:
        """Returns whether another trial of a study, and the confirmations after it, fit into the time limit."""
        if self.time_limit is None:
            return True
        tried: dict[int, list[FrozenTrial]] = {}
        for other in self.plans:
            tried.setdefault(other.depth, []).extend(self._started(other, "search"))
        times = {depth: trial_seconds(trials, self.time_limit.epochs) for depth, trials in tried.items()}
        confirmations = [
            other.depth for other in self.plans if self._started(other, "search") for _ in self._unconfirmed(other)
        ]
        return fits(self.time_limit.left(), study_key.depth, confirmations, times, self.time_limit.slots)

    def _is_time_over(self) -> bool:
        return self.time_limit is not None and not self.time_limit.left()

    def _next_confirmation(self) -> tuple[StudyKey, int] | None:
        """Returns a study whose search has ended, and a seed that its winner was not yet trained with."""
        ready = [
            study_key for study_key in self.plans if not self._goes_on(study_key) and self.best(study_key) is not None
        ]
        return next(((study_key, seed) for study_key in ready for seed in self._unconfirmed(study_key)), None)

    def _unconfirmed(self, study_key: StudyKey) -> list[int]:
        """Returns the seeds that a study's winner is still to be trained with; all of them while its search runs."""
        if not self._is_unfinished(study_key) and self.best(study_key) is None:
            return []
        done = set() if self._goes_on(study_key) else {t.user_attrs["seed"] for t in self.trials(study_key, "confirm")}
        return [seed for seed in self.seeds if seed not in done]

    def _goes_on(self, study_key: StudyKey) -> bool:
        """Returns whether a study's search has running trials, or is to start more within the time limit."""
        running = any(trial.state is TrialState.RUNNING for trial in self.trials(study_key))
        return running or (study_key not in self._closed and self._is_unfinished(study_key))

    def _is_unfinished(self, study_key: StudyKey) -> bool:
        """Returns whether a study's search has trials that are not started or not ended."""
        trials = self.trials(study_key)
        return len(trials) < self.quota(study_key) or any(trial.state is TrialState.RUNNING for trial in trials)

    def _seconds(self, trial_id: TrialId) -> float:
        """Returns the seconds that a trial had run when its last evaluation was recorded."""
        last = self._frozen(trial_id).last_step
        return 0.0 if last is None else float(self._frozen(trial_id).user_attrs[evaluation_key(last)]["seconds"])

    def _frozen(self, trial_id: TrialId) -> FrozenTrial:
        study = self._studies[trial_id.study_key, trial_id.stage]
        return study.get_trials(deepcopy=False)[trial_id.number]
