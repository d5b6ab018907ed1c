"""What a search is made of: for every depth and method its share of trials, its parameters, and what it waits for."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pkd_tune.config import CONTROLS, Method, SearchConfig, SearchStage, Stage, UserError
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
    """A method at a depth: what has a study, and a winner, of its own."""

    depth: int
    method: Method

    @property
    def name(self) -> str:
        """Names the study in files and logs."""
        return f"{self.depth}-layer-{self.method}"


@dataclass(frozen=True, slots=True)
class TrialId:
    """A trial: its study, what it is for, and its number within its study."""

    study_key: StudyKey
    stage: Stage
    number: int

    @property
    def name(self) -> str:
        """Names the trial in files and logs."""
        kind = "trial" if self.stage == "search" else "confirm"
        return f"{self.study_key.name}-{kind}-{self.number:04d}"


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlan:
    """What is to be done for one study."""

    study_key: StudyKey
    quota: int
    """Trials of its search."""
    parameters: Parameters
    """What each trial chooses."""
    after: StudyKey | None = None
    """Whose search must have ended before this one begins."""
    keep: tuple[str, ...] = ()
    """Parameters that get the values of that study's best trial."""
    first: tuple[Settings, ...] = field(default=())
    """Settings that are tried before any other."""


def plan_studies(
    search: SearchConfig, parameters: Parameters, first: Sequence[tuple[Method, int, Settings]] = ()
) -> list[StudyPlan]:
    """Returns the plan of every depth and method.

    Args:
        search: Says which depths, methods and how many trials.
        parameters: Of the space.
        first: Settings known to be good elsewhere, by method and depth, such as the published winners. A study tries
            those of its own method that lie inside its space, its own depth's first.

    Raises:
        UserError: When a grid is asked for and the space is not finite.
    """
    plans: list[StudyPlan] = []
    for number, stage in enumerate(search.stages):
        own = for_method(parameters, stage.method)
        before = search.stages[number - 1].method if stage.keep else None
        everything = all_settings(fix(own, {name: _any_value(own[name]) for name in stage.keep}))
        if everything is None and (search.sampler == "grid" or search.trials is None):
            raise UserError("--sampler grid: the space has ranges; give every parameter choices, as paper.toml does")
        total = search.control_trials if is_control(stage.method, search.stages) else search.trials
        for i, depth in enumerate(search.depths):
            share = len(everything or ()) if total is None else _share(total, len(search.depths), i)
            good = sorted(first, key=lambda entry: abs(entry[1] - depth))
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
    """Refuses a search in which a method would have no trial at some depth.

    Args:
        stages: Of the search.
        depths: Of its students.
        trials: Of each PKD method, over all depths; None: as many as there are settings.
        control_trials: Of each control, over all depths.

    Raises:
        UserError: For each number that is too small.
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
    """Tells whether a method has the trials of controls; none has where one stage keeps what another has found."""
    return method in CONTROLS and not any(stage.keep for stage in stages)


def _as_tried(known: Settings, parameters: Parameters, method: Method) -> Settings:
    """Returns a setting with a value for every parameter of a study: a control has no choice in what it leaves out."""
    fixed = {
        name: parameter.values[0]
        for name, parameter in parameters.items()
        if isinstance(parameter, Choice) and len(parameter.values) == 1 and (method in CONTROLS or name not in known)
    }
    return {name: {**known, **fixed}.get(name) for name in parameters}


def _share(total: int, depths: int, index: int) -> int:
    """Returns a depth's share of the trials: as even as it goes, the first depths taking the remainder."""
    return total // depths + (index < total % depths)


def _any_value(parameter: Parameter) -> Value:
    return parameter.values[0] if isinstance(parameter, Choice) else parameter.low
