"""The journal file of a run, study.log: how it is opened, what it holds of a trial besides settings and scores, and
trials of other runs that it may inform a search with."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import UserError
from pkd_tune.files import JOURNAL, RUN, read_json
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.space import Parameters, contains, distribution, settings_of, suggested_part

# User attributes of trials.
FILE = "file"
"""SHA-256 of the file a complete trial left: its best weights, or a confirmation's predictions."""
FROM = "from"
"""Of a trial that another run made: which run. It informs the sampler, and is nothing else to this run."""
NUMBER = "number"
"""Of the same: its number in the other run."""
REPEATS = "repeats"
"""Of a suggestion that was not run: its study has had the same setting before, or it is not wanted any more."""
ORIGIN = "origin"
"""Of a trial whose settings the sampler did not choose: where they are from, in words."""
SIBLING = "sibling"
"""Of a trial that tries the best settings of another study of the search: that study's name."""
ABLATION = "ablation"
"""Of a trial that trains its study's winner without a term of the loss: the method that this is."""
KEPT = "kept"
"""Settings that a trial took from another study's winner of that time; there may be another winner by now."""
RUNG = "rank at rung"
"""Begins the names of attributes with a trial's rank at a rung, after which it has epochs left."""
ENDED = "ended"
"""Of a trial that did not reach its end: the state it is told, and why. Written before it is told."""

NODE = "node"
"""In the details of an evaluation: the address of the node that made it."""


class NoLock(BaseJournalFileLock):
    """A journal has one writer, which holds the lock of the run's folder; some file systems lack links to lock by."""

    def acquire(self) -> bool:
        """Does nothing."""
        return True

    def release(self) -> None:
        """Does nothing."""


class NumberedLines(JournalFileBackend):
    """A journal in which every line has its number, so that a line that is gone is noticed; readers ignore it."""

    def __init__(self, path: Path) -> None:
        """Opens a journal for the one process that writes to it.

        Args:
            path: The file, which ends with a whole line; made where it is missing.
        """
        super().__init__(str(path), lock_obj=NoLock())
        self._lines = path.read_bytes().count(b"\n")

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends lines."""
        super().append_logs([{**entry, "line": self._lines + i} for i, entry in enumerate(logs, start=1)])
        self._lines += len(logs)


def open_journal(path: Path) -> JournalStorage:
    """Opens a run's journal, or begins it, for the one process that writes to it.

    Half a line, which a process leaves behind that is killed while it writes, is removed.

    Raises:
        UserError: When the journal is damaged.
    """
    if path.exists():
        check_journal(path)
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)
    return JournalStorage(NumberedLines(path))


def check_journal(path: Path) -> None:
    """Checks that no line of a journal was changed or removed; the last may be half of one.

    Optuna numbers trials by the lines that create them, and ignores what belongs to a trial that it does not know: a
    line that is gone would silently change what follows.

    Raises:
        UserError: With the first line that does not fit.
    """
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], start=1):
        try:
            entry = json.loads(line)
            if "op_code" not in entry or entry.get("line", number) != number:
                raise ValueError("a line is missing before it")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{path} is damaged (line {number}: {error}); restore it, or start another run with --new"
            ) from error


def recorded_trials(journal: Path) -> dict[str, list[FrozenTrial]]:
    """Returns the trials of a journal by study name, without writing to it.

    Raises:
        UserError: When the journal is damaged.
    """
    check_journal(journal)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    names = [summary.study_name for summary in optuna.get_all_study_summaries(storage)]
    return {name: optuna.load_study(study_name=name, storage=storage).get_trials() for name in names}


def was_started(trial: FrozenTrial) -> bool:
    """Returns whether a trial was run here: it is not queued, no repeat, and not another run's."""
    return trial.state is not TrialState.WAITING and not {REPEATS, FROM} & trial.user_attrs.keys()


def evaluations(trial: FrozenTrial) -> dict[int, dict[str, Any]]:
    """Returns the details of each evaluation of a trial, by its number."""
    return {step: trial.user_attrs[evaluation_key(step)] for step in sorted(trial.intermediate_values)}


def evaluation_key(step: int) -> str:
    """Returns the name of the attribute with the details of an evaluation."""
    return f"evaluation {step}"


def rung_key(epoch: float) -> str:
    """Returns the name of the attribute with a trial's rank at a rung."""
    return f"{RUNG} {epoch:g}"


def why_ended(trial: FrozenTrial) -> str | None:
    """Returns why a trial was stopped or failed; None for any other."""
    text = trial.user_attrs.get(ENDED, {}).get("reason")
    return None if text is None else str(text)


def has_attributes(trial: FrozenTrial | optuna.Trial, attributes: Mapping[str, Any]) -> bool:
    """Returns whether a trial has these attributes with these values, perhaps among others."""
    return all(trial.user_attrs.get(name) == value for name, value in attributes.items())


def finished_trials(run_dir: Path, task: str, plans: Sequence[StudyPlan]) -> dict[StudyKey, list[FrozenTrial]]:
    """Returns the complete trials of another run that lie inside this search's spaces, by study.

    A trial fits when it chose exactly the parameters a study chooses, each from a range that holds its value. Its score
    may come from another teacher, seed or budget: it is only a hint to the sampler.

    Args:
        run_dir: The other run's folder.
        task: Of this search; a run of another task says nothing about it.
        plans: Of this search.

    Raises:
        UserError: When the folder is not a run of this task, or has no trial that fits.
    """
    try:
        recorded = read_json(run_dir / RUN)["search"]["data"]["task"]["name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"--warm-start {run_dir}: not a run folder; give one like results/{task}/<name>") from error
    if recorded != task:
        raise UserError(f"--warm-start {run_dir}: is a run of {recorded}; give one of {task}")
    if not (run_dir / JOURNAL).exists():
        raise UserError(f"--warm-start {run_dir}: has no {JOURNAL}, which holds a run's trials")
    check_journal(run_dir / JOURNAL)
    storage = JournalStorage(JournalFileBackend(str(run_dir / JOURNAL)))
    there = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    found: dict[StudyKey, list[FrozenTrial]] = {}
    for plan in plans:
        chosen = {name: d for name, p in plan.parameters.items() if (d := distribution(p)) is not None}
        if plan.keep or not chosen or plan.study_key.name not in there:
            continue
        study = optuna.load_study(study_name=plan.study_key.name, storage=storage)
        found[plan.study_key] = [
            optuna.trial.create_trial(
                params=trial.params,
                distributions={name: chosen[name] for name in trial.params},
                value=trial.value,
                user_attrs={NUMBER: trial.number},
            )
            for trial in study.get_trials(states=(TrialState.COMPLETE,))
            if FROM not in trial.user_attrs and _is_inside(plan.parameters, trial.params)
        ]
    if not any(found.values()):
        names = ", ".join(plan.study_key.name for plan in plans)
        raise UserError(f"--warm-start {run_dir}: no complete trial of it lies inside this space (for {names})")
    return found


def _is_inside(parameters: Parameters, suggested: Mapping[str, Any]) -> bool:
    """Returns whether what Optuna recorded of a trial is a setting of this space: all that it suggests, and no more."""
    settings = settings_of(parameters, suggested)
    if suggested.keys() != suggested_part(parameters, settings).keys():
        return False
    return contains(parameters, settings)
