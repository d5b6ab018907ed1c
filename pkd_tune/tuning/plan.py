"""The plan of a search: for every depth and method its number of trials, parameters, and the studies it depends on or
learns from."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pkd_tune.config import CONTROLS, Method, SearchConfig, SearchStage, Stage, UserError
from pkd_tune.tuning.effects import without_effect
from pkd_tune.tuning.space import (
    Choice,
    Parameters,
    Settings,
    all_settings,
    contains,
    distribution,
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
    """Whether it searches, confirms the study's winner, or trains that without a term of the loss."""
    number: int
    """Number of the Optuna trial within the study of this stage."""

    @property
    def name(self) -> str:
        """The name of the trial in file names and in logs."""
        kind = "trial" if self.stage == "search" else self.stage
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
    siblings: tuple[StudyKey, ...] = ()
    """Studies whose best settings it tries, once each, as soon as they have some."""
    ablations: tuple[Method, ...] = ()
    """Methods as which its winner's settings are trained too, on the seeds that confirm it: `kd` is without the
    patience term, `finetuned` without distillation."""


def plan_studies(
    search: SearchConfig,
    parameters: Parameters,
    first: Sequence[tuple[Method, int, Settings]] = (),
    trained: Settings | None = None,
) -> list[StudyPlan]:
    """Returns the plan of every depth and method.

    Args:
        search: Depths, stages and numbers of trials.
        parameters: Of the space.
        first: Method, depth and settings of students that are known to be good, such as the published winners. A study
            begins with those of its method that lie inside its space, nearest depth first.
        trained: How these students were trained besides; where the space has a fixed value, or does not have theirs
            among its choices, its first is taken instead.

    Raises:
        UserError: When a grid is asked for and the space is not finite.
    """
    plans: list[StudyPlan] = []
    for number, stage in enumerate(search.stages):
        of_method = for_method(parameters, stage.method)
        before = search.stages[number - 1].method if stage.keep else None
        total = total_trials(search, stage.method)
        for i, depth in enumerate(search.depths):
            idle = without_effect(of_method, depth, regression=search.data.task.regression)
            own = fix(of_method, idle)
            everything = _largest([all_settings(fix(own, kept)) for kept in _kept_values(own, stage.keep)])
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
                and contains(own, settings := _as_tried(known, trained or {}, own, stage.method))
            ]
            plans.append(
                StudyPlan(
                    study_key=StudyKey(depth, stage.method),
                    quota=share if everything is None else min(share, len(everything)),
                    parameters=own,
                    after=StudyKey(depth, before) if before is not None else None,
                    keep=stage.keep,
                    first=() if search.sampler == "grid" or stage.keep else tuple(inside),
                    siblings=_siblings(search, stage, depth),
                    ablations=_ablations(stage.method, depth),
                )
            )
    return plans


def total_trials(search: SearchConfig, method: Method) -> int | None:
    """Returns how many trials a method has over all depths; None: every setting of a finite space, at each depth."""
    if not is_control(method, search.stages):
        return search.trials
    return search.control_trials if method == "kd" else search.finetuned_trials


def finetuned_share(
    control_trials: int | None, parameters: Parameters, depths: int, *, regression: bool = False
) -> int | None:
    """Returns the number of trials of fine-tuning alone: fewer than KD's, in proportion to what each has to search.

    With the default space KD searches alpha, temperature, learning rate and init, and fine-tuning the latter two: it
    has half of KD's trials, rounded up, and at least one for each depth.

    Args:
        control_trials: Trials of vanilla KD; None: every setting of a finite space.
        parameters: Of the space.
        depths: Number of student depths.
        regression: Whether the task is one: its KD has no temperature.
    """
    if not control_trials:
        return control_trials
    searched = {}
    for method in CONTROLS:
        own = for_method(parameters, method)
        idle = without_effect(own, depth=2, regression=regression)
        searched[method] = sum(distribution(each) is not None for each in fix(own, idle).values())
    share = math.ceil(control_trials * searched["finetuned"] / max(1, searched["kd"]))
    return min(control_trials, max(share, depths))


def check_shares(
    stages: Sequence[SearchStage],
    depths: Sequence[int],
    trials: int | None,
    control_trials: int | Literal["equal"] | None,
) -> None:
    """Checks that every method has a trial at every depth.

    Args:
        stages: Stages of the search.
        depths: Depths of its students.
        trials: Trials of each PKD method over all depths; None: one for each setting of the space.
        control_trials: Trials of vanilla KD over all depths, and at least those of fine-tuning; None as above; `equal`:
            as many as `trials`, which is to blame then.

    Raises:
        UserError: One line for each number that is too small.
    """
    of_controls = [stage.method for stage in stages if is_control(stage.method, stages)]
    of_trials = [stage.method for stage in stages if not is_control(stage.method, stages)]
    if control_trials == "equal":
        of_trials = of_trials or of_controls
    wrong = [
        f"{flag} {total}: give at least {len(depths)}, one for each depth of {' and '.join(methods)}"
        for flag, total, methods in (("--trials", trials, of_trials), ("--control-trials", control_trials, of_controls))
        if methods and isinstance(total, int) and total < len(depths)
    ]
    if wrong:
        raise UserError(*wrong)


def is_control(method: Method, stages: Sequence[SearchStage]) -> bool:
    """Returns whether a method has trials of a control; none has where a stage keeps values of another."""
    return method in CONTROLS and not any(stage.keep for stage in stages)


def _siblings(search: SearchConfig, stage: SearchStage, depth: int) -> tuple[StudyKey, ...]:
    """Returns the studies that a study of a search learns from.

    None where settings are not to depend on others: in a grid, in random search, and in a stage that keeps values.
    """
    if not search.transfer or search.sampler in ("grid", "random") or stage.keep:
        return ()
    methods = [other.method for other in search.stages if not other.keep]
    return siblings(
        StudyKey(depth, stage.method), [StudyKey(other, method) for method in methods for other in search.depths]
    )


def siblings(study_key: StudyKey, others: Iterable[StudyKey]) -> tuple[StudyKey, ...]:
    """Returns, of some studies, those that one learns from: its method at other depths, nearest first, and, of methods
    that distil, the others at its depth."""
    others = [other for other in others if other != study_key]
    of_method = [other for other in others if other.method == study_key.method]
    beside = [
        other
        for other in others
        if other.depth == study_key.depth and "finetuned" not in (other.method, study_key.method)
    ]
    return (*sorted(of_method, key=lambda other: abs(other.depth - study_key.depth)), *beside)


def _ablations(method: Method, depth: int) -> tuple[Method, ...]:
    """Returns the methods as which a winner is trained too; a PKD student of one layer is one of KD."""
    if not method.startswith("pkd"):
        return ()
    return ("kd", "finetuned") if depth > 1 else ("finetuned",)


def _as_tried(known: Settings, trained: Settings, parameters: Parameters, method: Method) -> Settings:
    """Returns known settings as a study has them: with all its parameters, and with what a control fixes."""
    fixed = {
        name: parameter.values[0]
        for name, parameter in parameters.items()
        if isinstance(parameter, Choice) and len(parameter.values) == 1 and (method in CONTROLS or name not in known)
    }
    found = {**trained, **known, **fixed}
    others = {  # how they were trained is no part of what is known to be good
        name: parameter.values[0]
        for name, parameter in parameters.items()
        if name in trained and isinstance(parameter, Choice) and found[name] not in parameter.values
    }
    return {name: {**found, **others}[name] for name in parameters if name in found}


def _share(total: int, depths: int, index: int) -> int:
    """Returns a depth's number of trials: an even share, with the remainder for the first depths."""
    return total // depths + (index < total % depths)


def _kept_values(parameters: Parameters, keep: Sequence[str]) -> list[Settings]:
    """Returns what kept parameters may be fixed to, as far as the size of the space depends on it.

    It does on those by which others are conditional; of any other parameter one value is enough.
    """
    conditions = {name for each in parameters.values() if each.when for name, _ in each.when.parameters}
    values = [
        each.values[: None if name in conditions else 1]
        if isinstance(each := parameters[name], Choice)
        else (each.low,)
        for name in keep
    ]
    return [dict(zip(keep, combination, strict=True)) for combination in itertools.product(*values)]


def _largest(spaces: Sequence[list[Settings] | None]) -> list[Settings] | None:
    """Returns the largest of some lists of settings; None where one is not finite."""
    return None if None in spaces else max((each for each in spaces if each is not None), key=len)
