"""Optuna studies in one journal file: for each depth and method one that searches and one that confirms its winner, and
for PKD one of ablations, which trains the winner without terms of its loss.

Searcher and scheduler both use this module, in the driver process. The journal is the only state: whatever happens to
Ray or to this process, it has every trial that was started, its evaluations and how it ended.
"""

import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import Method, Sampler, Stage
from pkd_tune.tuning.effects import as_method, effective
from pkd_tune.tuning.journal import (
    ABLATION,
    ENDED,
    FILE,
    FROM,
    KEPT,
    NUMBER,
    ORIGIN,
    REPEATS,
    SIBLING,
    evaluation_key,
    evaluations,
    has_attributes,
    open_journal,
    rung_key,
    was_started,
)
from pkd_tune.tuning.plan import StudyKey, StudyPlan, TrialId
from pkd_tune.tuning.sampling import ask_untried, is_among_best, make_sampler, others_learnt, rank_at_rung, rung_at
from pkd_tune.tuning.space import (
    Choice,
    Parameters,
    Settings,
    all_settings,
    epoch_shares,
    fix,
    settings_of,
    shared_part,
    suggest,
    suggested_part,
)
from pkd_tune.tuning.study_notes import RESULT, result_text, set_note, study_note
from pkd_tune.tuning.time_limit import TimeLimit, epoch_seconds, fits

SIBLING_TRIALS = 3
"""Complete trials that a study has before others try its best settings; the best of fewer is mostly chance."""

STUDY_NAMES: dict[Stage, str] = {"search": "{}", "confirm": "{} confirmed", "ablation": "{} ablations"}
"""Names of a method's and depth's studies in the journal."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ablation:
    """A study's winner without a term of its loss: the settings of another method, and where they are trained."""

    method: Method
    """`kd` is without the patience term, `finetuned` without distillation."""
    settings: Settings
    study_key: StudyKey
    """The study that trains them: the winner's own, or one of its depth that confirms or ablates the same settings."""
    stage: Stage
    of: Method | None
    """The method of that study's ablation; None where the study confirms them."""


class Studies:
    """The studies of one search, created in its journal or loaded from it.

    Attributes:
        plans: The plan of each study, in the order of the search.
        seeds: Seeds of the training runs that confirm each winner.
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
        first_rung: float = 0.5,
        max_pending: int = 0,
        time_limit: TimeLimit | None = None,
    ) -> None:
        """Opens the journal; trials that a dead process left running will be asked for first.

        Args:
            journal: The file; created when missing. No other process may be using it.
            plans: Of the studies.
            sampler: Of the searches.
            seed: Of the samplers; the number of trials is added, so that a continued search draws other settings.
            seeds: Of the training runs that confirm each study's winner; empty: no confirmation.
            early_stopping: Whether weak trials are stopped at rungs.
            first_rung: Epoch of the first of them: that of a trial's first evaluation.
            max_pending: Trials of one study that run without a score at most, or as many as have one; 0: no limit, as
                where neither sampler nor early stopping learn from scores.
            time_limit: When no more trials are given out; None: when there are no more.
        """
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.plans = {plan.study_key: plan for plan in plans}
        self.seeds = tuple(seeds)
        self._kind, self._seed = sampler, seed
        self._first_rung = first_rung if early_stopping else math.inf
        self._max_pending = max_pending if early_stopping or sampler == "tpe" else 0
        self.time_limit = time_limit
        self._has_begun = False
        self._quotas: dict[tuple[StudyKey, int], int] = {}  # by the winner of which a study keeps values
        self._closed: set[StudyKey] = set()  # studies of which no other trial fits into the time that is left
        storage = open_journal(journal)
        self._studies: dict[tuple[StudyKey, Stage], optuna.Study] = {}
        self._running: dict[TrialId, optuna.Trial] = {}
        self._resumed_at: dict[TrialId, tuple[float, float]] = {}
        self._interrupted: list[TrialId] = []
        for number, plan in enumerate(plans):
            for stage, title in STUDY_NAMES.items():
                if stage == "ablation" and not plan.ablations:
                    continue
                name = title.format(plan.study_key.name)
                study = optuna.create_study(storage=storage, study_name=name, load_if_exists=True, direction="maximize")
                if study.metric_names is None:  # for optuna-dashboard
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                        study.set_metric_names(["score × 100"])
                trials = study.get_trials(deepcopy=False)
                study.sampler = make_sampler(sampler, seed + 1000 * number + len(trials))
                self._studies[plan.study_key, stage] = study
                for trial in trials:
                    if trial.state is TrialState.RUNNING and ENDED in trial.user_attrs:
                        study.tell(trial.number, state=TrialState[trial.user_attrs[ENDED]["state"]])
                    elif trial.state is TrialState.RUNNING and REPEATS in trial.user_attrs:
                        study.tell(trial.number, state=TrialState.FAIL)
                    elif trial.state is TrialState.RUNNING:
                        self._interrupted.append(TrialId(plan.study_key, stage, trial.number))
                if stage == "search":
                    for settings in plan.first:
                        study.enqueue_trial(
                            suggested_part(plan.parameters, settings),
                            user_attrs={ORIGIN: "published"},
                            skip_if_exists=True,
                        )
        for plan in plans:
            self._note(plan.study_key)

    def ask(self) -> tuple[TrialId, Settings, int | None] | None:
        """Returns the next trial, its settings, and its seed if it is a confirmation or an ablation.

        Interrupted trials come first; then the search that has started the smallest share of its quota, of those whose
        next trial need not wait for scores; then confirmations of studies whose search has ended, and ablations at
        depths whose searches have all ended. None when there is none now; more may follow when running trials are
        evaluated or end.

        With a time limit, a search has ended, for this time, when another trial would not leave enough time for the
        confirmations and ablations.
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
            self._enqueue_sibling(study_key)
            had = [self.settings(study_key, trial) for trial in self.started(study_key, "search")]
            trial, settings = ask_untried(study, parameters, had, self._kind, self._seed)
            trial_id = TrialId(study_key, "search", trial.number)
        elif (wanted := self._next_confirmation()) is not None:
            trial, trial_id, settings = self._ask_confirmation(*wanted)
        else:
            return None
        if (keep := self.plans[trial_id.study_key].keep) and trial_id.stage != "ablation":
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
        trial, frozen = self._running[trial_id], self._frozen(trial_id)
        if step in frozen.intermediate_values:
            return False
        epoch, before = details["epoch"], 0.0
        if frozen.last_step is not None:
            before = evaluations(frozen)[frozen.last_step]["epoch"]
        # The last evaluation is at no rung: learning rates that others have yet to come to have raised its score.
        at_rungs = trial_id.stage == "search" and not last
        rung = rung_at(epoch, before, self._first_rung) if at_rungs else None
        started, seconds = self._resumed_at[trial_id]
        trial.set_user_attr(evaluation_key(step), {**details, "seconds": round(seconds + time.time() - started, 2)})
        if rung is not None:
            rank = rank_at_rung(score, degenerate=bool(details.get("degenerate")))
            trial.set_user_attr(rung_key(rung), rank)
        trial.report(score, step)
        if rung is None:
            return False
        others = self.trials(trial_id.study_key)
        ranks = [other.user_attrs[rung_key(rung)] for other in others if rung_key(rung) in other.user_attrs]
        if not is_among_best(rank, ranks):
            reason = f"not in the best third at epoch {rung:g}"
        elif details.get("degenerate") and others_learnt(others, rung):
            reason = f"predicts the same for every example at epoch {rung:g}"
        else:
            return False
        trial.set_user_attr(RESULT, result_text(self._frozen(trial_id)))
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
        trial = self._running[trial_id]
        if file_hash is not None:
            trial.set_user_attr(FILE, file_hash)
        if official is not None:
            trial.set_user_attr("official", official)
        frozen = self._frozen(trial_id)
        trial.set_user_attr(RESULT, result_text(frozen))
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, max(frozen.intermediate_values.values()))
        del self._running[trial_id]  # last: where a line cannot be written, it has not ended
        if trial_id.stage == "search":
            self._note(trial_id.study_key)

    def stop(self, trial_id: TrialId) -> None:
        """Ends a trial that was stopped before its budget was used."""
        trial = self._running[trial_id]
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, state=TrialState.PRUNED)
        del self._running[trial_id]

    def fail(self, trial_id: TrialId, reason: str) -> None:
        """Ends a trial that failed, with the reason in one line."""
        trial = self._running[trial_id]
        trial.set_user_attr(ENDED, {"state": TrialState.FAIL.name, "reason": reason})
        self._studies[trial_id.study_key, trial_id.stage].tell(trial, state=TrialState.FAIL)
        del self._running[trial_id]

    def file_hash(self, trial_id: TrialId) -> str | None:
        """Returns the SHA-256 of the file that a complete trial left, or left when it was trained again."""
        study = self._studies[trial_id.study_key, trial_id.stage]
        first = study.get_trials(deepcopy=False)[trial_id.number].user_attrs.get(FILE)
        found: str | None = study.user_attrs.get(f"{FILE} {trial_id.number}", first)
        return found

    def trained_again(self, trial_id: TrialId, file_hash: str) -> None:
        """Records the file that a trial left when it was trained again: other cores may round otherwise."""
        self._studies[trial_id.study_key, trial_id.stage].set_user_attr(f"{FILE} {trial_id.number}", file_hash)

    def interrupt(self, trial_id: TrialId) -> None:
        """Puts back a running trial that nothing runs any more; it is asked for next, and continues."""
        del self._running[trial_id]
        self._interrupted.insert(0, trial_id)

    def warm_start(self, study_key: StudyKey, source: str, trials: Sequence[FrozenTrial]) -> int:
        """Adds trials of another run to a study for its sampler; returns how many were not added before.

        Only their settings and final scores are added. They do not count towards the quota, influence no pruning and
        cannot win, and their settings may be tried again.

        Args:
            study_key: Of the study.
            source: Names the other run.
            trials: As of `finished_trials()`: each has its number there.
        """
        study = self._studies[study_key, "search"]
        there = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
        added = {attributes.get(NUMBER) for attributes in there if attributes.get(FROM) == source}
        new = [trial for trial in trials if trial.user_attrs[NUMBER] not in added]
        for trial in new:
            copy = optuna.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=trial.value,
                user_attrs={FROM: source, NUMBER: trial.user_attrs[NUMBER]},
            )
            study.add_trial(copy)
        return len(new)

    def remaining(self) -> int:
        """Returns how many trials are still to be started or resumed, confirmations included."""
        searches = sum(max(0, self.quota(study_key) - len(self.trials(study_key))) for study_key in self.plans)
        others = sum(len(self._unconfirmed(study_key)) + len(self._unablated(study_key)) for study_key in self.plans)
        return len(self._interrupted) + searches + others

    def total(self) -> int:
        """Returns how many trials the whole search has, confirmations included."""
        started = sum(len(self.trials(study_key, stage)) for study_key in self.plans for stage in STUDY_NAMES)
        return started + self.remaining() - len(self._interrupted)

    def unfinished(self) -> int:
        """Returns how many trials have not ended: running ones, and those still to be started or resumed."""
        return self.remaining() + len(self._running)

    def epochs_left(self) -> float:
        """Returns the epochs of all trials that have not ended, if none is stopped early.

        Of a trial whose settings are not chosen yet, these are the mean over its space.
        """
        left = 0.0
        for (study_key, stage), _ in self._studies.items():
            for trial in self.trials(study_key, stage):
                if trial.state is TrialState.RUNNING:
                    done = evaluations(trial)[trial.last_step]["epoch"] if trial.last_step is not None else 0.0
                    epochs = self.settings(study_key, trial)["epochs"]  # None: a process died before it was chosen
                    left += (self._mean_epochs(study_key) if epochs is None else epochs) - done
        for study_key in self.plans:
            unstarted = max(0, self.quota(study_key) - len(self.trials(study_key)))
            left += unstarted * self._mean_epochs(study_key)
            again = len(self._unconfirmed(study_key)) + len(self._unablated(study_key))
            left += again * self._epochs_of_winner(study_key)
        return left

    def is_out_of_time(self) -> bool:
        """Returns whether trials are missing because of the time limit, rather than because of an interruption."""
        return self.time_limit is not None and self.unfinished() > 0 and (self._is_time_over() or self.idle())

    def idle(self) -> bool:
        """Returns whether no trial is running."""
        return not self._running

    def quota(self, study_key: StudyKey) -> int:
        """Returns how many trials a study's search has; 0 when the search it depends on ended without a winner.

        What it keeps of that winner may leave a finite space fewer settings than were planned.
        """
        plan = self.plans[study_key]
        if plan.after is None or self._has_work(plan.after):
            return plan.quota
        winner = self.best(plan.after)
        if winner is None:
            return 0
        if (study_key, winner.number) not in self._quotas:
            left = all_settings(self._parameters(study_key))
            self._quotas[study_key, winner.number] = plan.quota if left is None else min(plan.quota, len(left))
        return self._quotas[study_key, winner.number]

    def trials(self, study_key: StudyKey, stage: Stage = "search") -> list[FrozenTrial]:
        """Returns the trials of a study that were started, in their order; of its present winner only, unless they
        search."""
        started = self.started(study_key, stage)
        if stage == "search":
            return started
        winner = self.best(study_key)
        return [trial for trial in started if winner is not None and trial.user_attrs["winner"] == winner.number]

    def started(self, study_key: StudyKey, stage: Stage) -> list[FrozenTrial]:
        """Returns all trials of a study that were started in this run, in their order: of earlier winners too."""
        study = self._studies.get((study_key, stage))
        return [] if study is None else [trial for trial in study.get_trials(deepcopy=False) if was_started(trial)]

    def best(self, study_key: StudyKey) -> FrozenTrial | None:
        """Returns the complete trial of a study's search with the highest score; None when none is complete."""
        return next(iter(self.ranking(study_key)), None)

    def ranking(self, study_key: StudyKey) -> list[FrozenTrial]:
        """Returns the complete trials of a study's search, best first; of equal ones, the earlier first."""
        complete = self._studies[study_key, "search"].get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return sorted(filter(was_started, complete), key=lambda trial: (-(trial.value or 0.0), trial.number))

    def origin(self, study_key: StudyKey, stage: Stage, trial: FrozenTrial) -> str:
        """Returns where a trial's settings are from, in words: `sampled`, `grid`, `published` or `best of 3-layer-kd`;
        the trial that won for those of a winner, such as `trial 5`, and `trial 5 as kd` for its ablation."""
        if stage == "search":
            return str(trial.user_attrs.get(ORIGIN, "grid" if self._kind == "grid" else "sampled"))
        method = trial.user_attrs.get(ABLATION)
        return f"trial {trial.user_attrs['winner']}" + (f" as {method}" if method else "")

    def ablations(self, study_key: StudyKey) -> list[Ablation]:
        """Returns the ablations of a study's winner; those that leave out what it does not have are none.

        What another study of the depth trains anyway is not trained again: a winner that has the same settings, or
        another winner's ablation. It is known for certain when the searches of the depth have ended.
        """
        depth = study_key.depth
        trained: list[Ablation] = []
        for key, plan in self.plans.items():
            winner = self.best(key) if key.depth == depth else None
            if winner is not None:
                settings = self.settings(key, winner)
                of_winner = Ablation(method=key.method, settings=settings, study_key=key, stage="confirm", of=None)
                trained.insert(0, of_winner)
                trained += [
                    Ablation(
                        method=method, settings=as_method(settings, method), study_key=key, stage="ablation", of=method
                    )
                    for method in plan.ablations
                ]
        mine = [each for each in trained if (each.study_key, each.stage) == (study_key, "ablation")]
        found = []
        for ablation in mine:
            wanted = effective(ablation.settings, depth)
            first = next(each for each in trained if effective(each.settings, depth) == wanted)
            if (first.study_key, first.stage) != (study_key, "confirm"):
                found.append(replace(ablation, study_key=first.study_key, stage=first.stage, of=first.of))
        return found

    def ablation_trials(self, ablation: Ablation) -> list[FrozenTrial]:
        """Returns the trials of an ablation that were started, one for each seed."""
        trials = self.trials(ablation.study_key, ablation.stage)
        return [trial for trial in trials if trial.user_attrs.get(ABLATION) == ablation.of]

    def settings(self, study_key: StudyKey, trial: FrozenTrial) -> Settings:
        """Returns the settings of a trial, fixed ones included."""
        return settings_of(self._parameters(study_key, trial), trial.params)

    def _note(self, study_key: StudyKey) -> None:
        """Renews the notes of a study and of its confirmation."""
        best = self.best(study_key)
        settings = None if best is None else self.settings(study_key, best)
        quota = self.plans[study_key].quota
        set_note(self._studies[study_key, "search"], study_note(study_key, "search", quota, best, settings))
        for stage in ("confirm", "ablation"):
            if (again := self._studies.get((study_key, stage))) is not None:
                set_note(again, study_note(study_key, stage, len(self.seeds), None, None))

    def _enqueue_sibling(self, study_key: StudyKey) -> None:
        """Enqueues the best settings of a study's next sibling that has some, after what is enqueued already.

        Each sibling is asked once, when it has enough complete trials or its search has ended. Parameters that only one
        of the two has are left to the sampler. Settings with which a sibling learnt nothing are none.
        """
        study = self._studies[study_key, "search"]
        trials = study.get_trials(deepcopy=False)
        if any(trial.state is TrialState.WAITING for trial in trials):
            return
        asked = {trial.user_attrs.get(SIBLING) for trial in trials}
        for sibling in self.plans[study_key].siblings:
            ranking = self.ranking(sibling)
            known = len(ranking) >= SIBLING_TRIALS or (ranking and not self._is_unfinished(sibling))
            if sibling.name in asked or not known or _is_degenerate(ranking[0]):
                continue
            shared = shared_part(self._parameters(study_key), self.settings(sibling, ranking[0]), sibling.method)
            if shared:
                study.enqueue_trial(shared, user_attrs={ORIGIN: f"best of {sibling.name}", SIBLING: sibling.name})
                return

    def _ask_confirmation(
        self, study_key: StudyKey, stage: Stage, seed: int, method: Method | None
    ) -> tuple[optuna.Trial, TrialId, Settings]:
        """Returns the trial that trains a study's winner with a seed, or an ablation of it.

        A dead process may have left a trial enqueued: this one, or one of an earlier winner.
        """
        study, winner = self._studies[study_key, stage], self.best(study_key)
        assert winner is not None
        wanted: dict[str, Any] = {"winner": winner.number, "seed": seed}
        parameters, settings = self._parameters(study_key, winner), self.settings(study_key, winner)
        if method is not None:
            wanted[ABLATION] = method
            settings = as_method(settings, method)
            parameters = {name: Choice((value,)) for name, value in settings.items()}
        if not any(
            has_attributes(trial, wanted) for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        ):
            study.enqueue_trial(suggested_part(parameters, settings), user_attrs=wanted)
        while not has_attributes(trial := study.ask(), wanted):
            trial.set_user_attr(REPEATS, True)
            study.tell(trial, state=TrialState.FAIL)
        return trial, TrialId(study_key, stage, trial.number), suggest(trial, parameters)

    def _parameters(self, study_key: StudyKey, trial: FrozenTrial | None = None) -> Parameters:
        """Returns the parameters of a study, with those that it takes from another study's winner fixed.

        Args:
            study_key: The study.
            trial: A trial that was started has the values it took then; None: a new trial takes the present winner's.
        """
        plan = self.plans[study_key]
        if trial is not None and ABLATION in trial.user_attrs:
            ablated = self._frozen(TrialId(study_key, "search", trial.user_attrs["winner"]))
            settings = as_method(self.settings(study_key, ablated), trial.user_attrs[ABLATION])
            return {name: Choice((value,)) for name, value in settings.items()}
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
            if self.quota(study_key) and (plan.after is None or not self._has_work(plan.after))
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
        known = []
        for other in self.plans:
            if self.started(other, "search"):
                methods = [*(other.method for _ in self._unconfirmed(other)), *(m for m, _ in self._unablated(other))]
                epochs = self._epochs_of_winner(other)
                known += [(epochs, each) for m in methods if (each := self._epoch_seconds(other.depth, m)) is not None]
        share = len(self.trials(study_key)) / self.quota(study_key)
        for other, plan in self.plans.items():
            each = self._epoch_seconds(other.depth, other.method)
            if plan.after is not None and self._has_work(plan.after) and each is not None:
                # Stages to come get the same share of their trials.
                known += [(self._mean_epochs(other), each)] * math.ceil(share * plan.quota)
        seconds = self._epoch_seconds(study_key.depth, study_key.method)
        own = None if seconds is None else seconds * self._mean_epochs(study_key)
        return fits(self.time_limit.left(), own, [epochs * each for epochs, each in known], self.time_limit.slots)

    def _epoch_seconds(self, depth: int, method: Method) -> float | None:
        """Returns the seconds of an epoch of a method at a depth; None before any trial there was evaluated.

        Distilling methods cost alike; fine-tuning reads fewer examples than they where there are texts without labels.
        """
        started = {other: self.started(other, "search") for other in self.plans if other.depth == depth}
        alone = [
            trial
            for other, trials in started.items()
            if (other.method == "finetuned") == (method == "finetuned")
            for trial in trials
        ]
        found = epoch_seconds(alone)
        return found if found is not None else epoch_seconds([trial for trials in started.values() for trial in trials])

    def _mean_epochs(self, study_key: StudyKey) -> float:
        """Returns how many epochs a trial of a study has in the mean over its space."""
        shares = epoch_shares(self.plans[study_key].parameters)
        return math.fsum(epochs * share for epochs, share in shares.items())

    def _epochs_of_winner(self, study_key: StudyKey) -> float:
        """Returns how many epochs a confirmation of a study has; before there is a winner, the mean over its space."""
        best = self.best(study_key)
        return self._mean_epochs(study_key) if best is None else float(self.settings(study_key, best)["epochs"])

    def _is_time_over(self) -> bool:
        return self.time_limit is not None and not self.time_limit.left()

    def _next_confirmation(self) -> tuple[StudyKey, Stage, int, Method | None] | None:
        """Returns a study whose search has ended, and a seed that its winner was not yet trained with; then a study
        whose depth has been searched, a seed, and the method of an ablation of its winner."""
        for study_key in self.plans:
            for seed in self._unconfirmed(study_key) if not self._has_work(study_key) else ():
                return study_key, "confirm", seed, None
        for study_key in self.plans:
            for method, seed in self._unablated(study_key) if self._is_searched(study_key.depth) else ():
                return study_key, "ablation", seed, method
        return None

    def _unconfirmed(self, study_key: StudyKey) -> list[int]:
        """Returns the seeds that a study's winner is still to be trained with; all of them while its search runs."""
        if self._is_lost(study_key):
            return []
        done = set() if self._has_work(study_key) else {t.user_attrs["seed"] for t in self.trials(study_key, "confirm")}
        return [seed for seed in self.seeds if seed not in done]

    def _is_lost(self, study_key: StudyKey) -> bool:
        """Returns whether a study's search has ended, or was closed at the time limit, without a complete trial."""
        return self.best(study_key) is None and not self._has_work(study_key)

    def _has_work(self, study_key: StudyKey) -> bool:
        """Returns whether a study's search has running trials, or is to start more within the time limit."""
        running = any(trial.state is TrialState.RUNNING for trial in self.trials(study_key))
        return running or (study_key not in self._closed and self._is_unfinished(study_key))

    def _unablated(self, study_key: StudyKey) -> list[tuple[Method, int]]:
        """Returns the ablations of a study's winner that are still to be trained, each with a seed; all that there may
        be while its depth is searched."""
        if not self._is_searched(study_key.depth):
            lost = self._is_lost(study_key)
            return [] if lost else [(method, s) for method in self.plans[study_key].ablations for s in self.seeds]
        done = {(t.user_attrs[ABLATION], t.user_attrs["seed"]) for t in self.trials(study_key, "ablation")}
        own = [
            each.method for each in self.ablations(study_key) if each.study_key == study_key and each.of == each.method
        ]
        return [(method, seed) for method in own for seed in self.seeds if (method, seed) not in done]

    def _is_searched(self, depth: int) -> bool:
        """Returns whether all searches of a depth have ended."""
        return not any(self._has_work(study_key) for study_key in self.plans if study_key.depth == depth)

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


def _is_degenerate(trial: FrozenTrial) -> bool:
    """Returns whether a trial predicted the same for every example at its best evaluation."""
    scores = trial.intermediate_values
    best = max(scores, key=lambda step: (scores[step], -step))
    return bool(evaluations(trial)[best].get("degenerate"))
