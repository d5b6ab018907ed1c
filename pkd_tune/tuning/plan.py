"""The plan of a search: for every depth and method its number of trials, parameters, and the study it depends on."""

from collections.abc import Sequence
from dataclasses import dataclass

from pkd_tune.config import CONTROLS, Method, SearchConfig, SearchStage, Stage, UserError
from pkd_tune.tuning.effects import without_effect
from pkd_tune.tuning.space import (
    Choice,
    Parameter,
    Parameters,
    Settings,
    Value,
    all_settings,
    contains,
    fix,
    for_method,
)


@dataclass(frozen=True, slots=True)
class StudyKey:
    """Identifies a study: a method at a depth. Each has a sampler, rungs and a winner of its own."""

    depth: int
    """Layers of the students."""
    method: Method

    @property
    def name(self) -> str:
        """The name of the study in the journal, in file names and in logs."""
        return f"{self.depth}-layer-{self.method}"


@dataclass(frozen=True, slots=True)
class TrialId:
    """Identifies a trial."""

    study_key: StudyKey
    stage: Stage
    """Whether it searches, or confirms the study's winner."""
    number: int
    """Number of the Optuna trial within the study of this stage."""

    @property
    def name(self) -> str:
        """The name of the trial in file names and in logs."""
        kind = "trial" if self.stage == "search" else "confirm"
        return f"{self.study_key.name}-{kind}-{self.number:04d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """What one study searches, and how many trials it has."""

    study_key: StudyKey
    quota: int
    """Number of trials of its search."""
    parameters: Parameters
    """What each trial chooses."""
    after: StudyKey | None = None
    """The study whose search must have ended before this one begins."""
    keep: tuple[str, ...] = ()
    """Parameters that are fixed to the values of that study's best trial."""
    first: tuple[Settings, ...] = ()
    """Settings that are enqueued before the sampler suggests any."""


def plan_studies(
    search: SearchConfig, parameters: Parameters, first: Sequence[tuple[Method, int, Settings]] = ()
) -> list[StudyPlan]:
    """Returns the plan of every depth and method.

    Args:
        search: Depths, stages and numbers of trials.
        parameters: Of the space.
        first: Method, depth and settings of students that are known to be good, such as the published winners. A study
            begins with those of its method that lie inside its space, nearest depth first.

    Raises:
        UserError: When a grid is asked for and the space is not finite.
    """
    plans: list[StudyPlan] = []
    for number, stage in enumerate(search.stages):
        of_method = for_method(parameters, stage.method)
        before = search.stages[number - 1].method if stage.keep else None
        total = search.control_trials if is_control(stage.method, search.stages) else search.trials
        for i, depth in enumerate(search.depths):
            idle = without_effect(of_method, depth, regression=search.data.task.regression)
            own = fix(of_method, idle)
            everything = all_settings(fix(own, {name: _any_value(own[name]) for name in stage.keep}))
            if everything is None and (search.sampler == "grid" or search.trials is None):
                raise UserError(
                    "--sampler grid: the space has ranges; give every parameter choices, as paper.toml does"
                )
            share = len(everything or ()) if total is None else _share(total, len(search.depths), i)
            good = sorted(first, key=lambda entry: abs(entry[1] - depth))
            good = [(method, layers, {**known, **idle}) for method, layers, known in good]
            inside = [
                settings
                for method, _, known in good
                if method == stage.method.split("-")[0]
                and contains(own, settings := _as_tried(known, own, stage.method))
            ]
            plans.append(
                StudyPlan(
                    study_key=StudyKey(depth, stage.method),
                    quota=share if everything is None else min(share, len(everything)),
                    parameters=own,
                    after=StudyKey(depth, before) if before is not None else None,
                    keep=stage.keep,
                    first=() if search.sampler == "grid" or stage.keep else tuple(inside),
                )
            )
    return plans


def check_shares(stages: Sequence[SearchStage], depths: Sequence[int], trials: int | None, control_trials: int) -> None:
    """Checks that every method has a trial at every depth.

    Args:
        stages: Stages of the search.
        depths: Depths of its students.
        trials: Trials of each PKD method over all depths; None: one for each setting of the space.
        control_trials: Trials of each control over all depths.

    Raises:
        UserError: One line for each number that is too small.
    """
    of_trials = [stage.method for stage in stages if not is_control(stage.method, stages)]
    of_controls = [stage.method for stage in stages if is_control(stage.method, stages)]
    wrong = [
        f"{flag} {total}: give at least {len(depths)}, one for each depth of {' and '.join(methods)}"
        for flag, total, methods in (("--trials", trials, of_trials), ("--control-trials", control_trials, of_controls))
        if methods and total is not None and total < len(depths)
    ]
    if wrong:
        raise UserError(*wrong)


def is_control(method: Method, stages: Sequence[SearchStage]) -> bool:
    """Returns whether a method has `control_trials` trials; none has where a stage keeps values of another."""
    return method in CONTROLS and not any(stage.keep for stage in stages)


def _as_tried(known: Settings, parameters: Parameters, method: Method) -> Settings:
    """Returns known settings as a study has them: with all its parameters, and with what a control fixes."""
    fixed = {
        name: parameter.values[0]
        for name, parameter in parameters.items()
        if isinstance(parameter, Choice) and len(parameter.values) == 1 and (method in CONTROLS or name not in known)
    }
    return {name: {**known, **fixed}.get(name) for name in parameters}


def _share(total: int, depths: int, index: int) -> int:
    """Returns a depth's number of trials: an even share, with the remainder for the first depths."""
    return total // depths + (index < total % depths)


def _any_value(parameter: Parameter) -> Value:
    return parameter.values[0] if isinstance(parameter, Choice) else parameter.low
