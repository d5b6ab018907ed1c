"""Trials of earlier runs that a new search can learn from."""

import json
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from pkd_tune.config import UserError
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.space import contains, distribution, settings_of
from pkd_tune.tuning.trial_attributes import FROM


def finished_trials(run_dir: Path, task: str, plans: Sequence[StudyPlan]) -> dict[StudyKey, list[FrozenTrial]]:
    """Returns the complete trials of another run that lie inside this search's spaces, by study.

    A trial fits when it chose the very parameters a study chooses, each from a range that holds its value. Its score may
    come from another teacher, seed or budget: it is only a hint to the sampler.

    Args:
        run_dir: The other run's folder.
        task: Of this search; a run of another task tells nothing.
        plans: Of this search.

    Raises:
        UserError: When the folder is not a run of this task, or has no trial that fits.
    """
    try:
        recorded = json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["search"]["data"]["task"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"--warm-start {run_dir}: not a run's folder; give one like results/{task}/<name>") from error
    if recorded != task:
        raise UserError(f"--warm-start {run_dir}: a run of {recorded} tells nothing about {task}")
    if not (run_dir / "study.log").exists():
        raise UserError(f"--warm-start {run_dir}: it has no study.log, where a run's trials are")
    storage = JournalStorage(JournalFileBackend(str(run_dir / "study.log")))
    there = {summary.study_name for summary in optuna.get_all_study_summaries(storage)}
    found: dict[StudyKey, list[FrozenTrial]] = {}
    for plan in plans:
        chosen = {name: d for name, p in plan.parameters.items() if (d := distribution(p)) is not None}
        if plan.keep or not chosen or plan.study_key.name not in there:
            continue
        study = optuna.load_study(study_name=plan.study_key.name, storage=storage)
        found[plan.study_key] = [
            optuna.trial.create_trial(params=trial.params, distributions=chosen, value=trial.value)
            for trial in study.get_trials(states=(TrialState.COMPLETE,))
            if trial.params.keys() == chosen.keys()
            and FROM not in trial.user_attrs
            and contains(plan.parameters, settings_of(plan.parameters, trial.params))
        ]
    if not any(found.values()):
        study_keys = ", ".join(plan.study_key.name for plan in plans)
        raise UserError(f"--warm-start {run_dir}: no finished trial there lies inside this space (for {study_keys})")
    return found
