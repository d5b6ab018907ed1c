"""From a search's options to a checked request: everything that decides what is computed, and where."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pkd_tune.config import DataConfig, Init, Method, SearchConfig, SearchStage, UserError
from pkd_tune.encoders.folder import layer_count
from pkd_tune.encoders.precision import check_precision
from pkd_tune.files import expanded
from pkd_tune.tuning.artifacts import check_uri
from pkd_tune.tuning.plan import check_shares, finetuned_share, is_control
from pkd_tune.tuning.resources import Resources, choose_resources
from pkd_tune.tuning.space import Choice, Parameter, Parameters, Value, inits
from pkd_tune.tuning.space_file import Space, find_space, load_space
from pkd_tune.workflows.checks import (
    LARGEST_SECONDS,
    Problems,
    check_choices,
    check_not_negative,
    check_onnx,
    check_positive,
    check_seed,
    check_writable,
)
from pkd_tune.workflows.inputs import (
    ONE_LAYER_TEACHER,
    check_length,
    check_pretrained,
    find_data,
    find_encoder,
    find_unlabeled,
    student_init,
)
from pkd_tune.workflows.options import DistillOptions, FinetuneOptions, SearchOptions

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """A search, resolved and checked."""

    options: SearchOptions
    config: SearchConfig
    parameters: Parameters
    """Of the space."""
    resources: Resources | None
    """Of this machine; None where a cluster's are used."""
    command: str
    """The command line that starts the same search."""
    equal_controls: bool = False
    """Whether vanilla KD has as many trials as each PKD method, however many these are."""
    time_limit: float | None = None
    """Seconds after which the search ends; None: when it has no more trials."""

    @property
    def out(self) -> Path:
        """The folder that holds the runs of all tasks."""
        return self.options.out.resolve()


def resolve_search(options: SearchOptions, command: str) -> SearchRequest:
    """Returns the request that the options describe, after all checks that take no time.

    Args:
        options: What was asked for.
        command: The command line that was, or could have been, used.

    Raises:
        UserError: With all problems found in options, space, data and models.
    """
    problems = Problems()
    check_choices(options, problems)
    check_positive(options, problems, "--trials", "--trials-per-gpu", "--trial-timeout")
    check_positive(options, problems, "--epochs", "--batch-size", "--max-length")
    check_not_negative(options, problems, "--control-trials", "--seeds", "--tolerance")
    check_seed(options.seed, problems)
    check_name(options.name, problems)
    time_limit = problems.attempt(lambda: seconds_of(options.time_limit))
    if options.onnx:
        check_onnx("--onnx", problems)
    space = None if problems.found else problems.attempt(lambda: space_of(options))
    resources = None
    if options.address is None:
        resources = problems.attempt(lambda: choose_resources(options.gpus, options.trials_per_gpu))
    if resources is not None and space is not None:
        device, precision = resources.device, options.precision or space.training.precision
        problems.attempt(lambda: check_precision(precision, device))
    if options.address is not None and options.ray_dashboard:
        problems.add("--ray-dashboard: a cluster that is joined by --address has its own, or none; leave it out")
    check_writable(options.out.resolve(), "--out", problems)
    storage = options.storage
    if storage is not None and "://" in storage:
        problems.attempt(lambda: check_uri(storage))
    elif storage is not None:
        check_writable(expanded(storage).resolve(), "--storage", problems)
    task, data_dir = find_data(options, problems)
    teacher_dir = find_encoder(options.teacher, "--teacher", options, task, data_dir, problems)
    unlabeled = find_unlabeled(options.unlabeled, task, problems)
    student_dir = teacher_dir
    if options.student:
        student_dir = find_encoder(options.student, "--student", options, task, data_dir, problems)
        check_pretrained(student_dir, problems)
    if space is not None:
        asked = f"--space {options.space}" if options.space else "--set training.max_length"
        asked = "--max-length" if options.max_length else asked
        check_length(teacher_dir, "--teacher", space.max_length, problems, demo_asked=asked if options.demo else "")
        if options.student:
            check_length(student_dir, "--student", space.max_length, problems)
        if options.student and (only := inits(space.parameters)) in (("teacher",), ("teacher-skip",)):
            problems.add(
                f"--student: by init = {only[0]} in the space, all students start from the teacher; leave out "
                "--student, or give --set space.init=pretrained"
            )
    depths = None
    if teacher_dir is not None and student_dir is not None:
        deepest = layer_count(teacher_dir)
        if student_dir != teacher_dir:
            deepest = min(deepest, layer_count(student_dir) + 1)
        depths = problems.attempt(lambda: choose_depths(options.depths, deepest))
    problems.raise_any()
    assert task is not None and space is not None and depths is not None  # noqa: PT018 - for the type checker
    assert teacher_dir is not None and student_dir is not None  # noqa: PT018
    data = DataConfig(
        task=task,
        data_dir=data_dir,
        teacher_dir=teacher_dir,
        student_dir=student_dir,
        max_length=space.max_length,
        select_on="dev" if options.select_on == "validation" else options.select_on,
        unlabeled=unlabeled,
    )
    stages = choose_stages(options, space)
    if unlabeled is not None and all(stage.method == "finetuned" for stage in stages):
        raise UserError("--unlabeled: fine-tuning alone learns nothing from texts without labels; leave it out")
    sampler = options.sampler or space.sampler
    if options.control_trials is not None and (options.control_trials or any(stage.keep for stage in stages)):
        check_controls(stages)
    if options.warm_start and sampler != "tpe":
        raise UserError(
            f"--warm-start: --sampler {sampler} does not use earlier trials; leave it out, or give --sampler tpe"
        )
    trials = options.trials or space.trials
    given = space.control_trials if options.control_trials is None else options.control_trials
    if options.trials is not None and all(is_control(stage.method, stages) for stage in stages):
        if options.control_trials is not None:
            raise UserError("--trials: all methods are controls, which have --control-trials; leave out one of the two")
        given = "equal"
    control_trials = trials if given == "equal" else given
    parameters = {**space.parameters, "init": replace_inits(space.parameters["init"], data)}
    check_shares(stages, depths, trials, given)
    of_all: dict[str, Any] = {"seed": options.seed, "precision": options.precision or space.training.precision}
    config = SearchConfig(
        data=data,
        teacher_trainings=tuple(replace(training, **of_all) for training in space.teacher),
        student_training=replace(space.training, **of_all),
        depths=depths,
        stages=stages,
        trials=trials,
        control_trials=control_trials,
        finetuned_trials=finetuned_share(control_trials, parameters, len(depths), regression=task.regression),
        seeds=space.seeds if options.seeds is None else options.seeds,
        sampler=sampler,
        early_stopping=space.early_stopping,
        max_pending=space.max_pending,
        transfer=space.transfer,
        seed=options.seed,
    )
    return SearchRequest(
        options=options,
        config=config,
        parameters=parameters,
        resources=resources,
        command=command,
        equal_controls=given == "equal",
        time_limit=time_limit,
    )


def with_trials(request: SearchRequest, trials: int) -> SearchRequest:
    """Returns the search that the same command asks for with another number of trials."""
    config = replace(request.config, trials=trials)
    if request.equal_controls:
        regression = config.data.task.regression
        alone = finetuned_share(trials, request.parameters, len(config.depths), regression=regression)
        config = replace(config, control_trials=trials, finetuned_trials=alone)
    return replace(request, config=config)


def replace_inits(parameter: Parameter, data: DataConfig) -> Parameter:
    """Returns the parameter `init` without what students of this model cannot start from, and logs a note of that.

    Students of another model than the teacher start from that one; of a fine-tuned one, see `student_init`.
    """
    assert isinstance(parameter, Choice)
    asked = inits({"init": parameter})
    if data.student_dir == data.teacher_dir:
        found: dict[Value, Init] = {init: student_init(init, data.student_dir) for init in asked}
    else:
        found = dict.fromkeys(asked, "pretrained")
        if len(asked) > 1:
            log.info("note: students of --student start from that model's layers; init is not searched")
    values = tuple(dict.fromkeys(found[value] for value in parameter.values))
    when = parameter.when and replace(parameter.when, otherwise=found[parameter.when.otherwise])
    return Choice(values, when)


SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
"""Seconds of each unit of time."""


def seconds_of(time: str | float | None) -> float | None:
    """Returns the seconds of a time such as `90s`, `30m`, `1.5h` or `2d`; a number alone has seconds.

    Raises:
        UserError: When it is none, not above 0, or above `LARGEST_SECONDS`.
    """
    if time is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(time).strip())
    seconds = 0.0 if found is None else float(found[1]) * SECONDS[found[2]]
    if not seconds > 0:
        raise UserError(f"--time-limit {time}: give a time above 0, such as 30m, 2h or 90s")
    if seconds > LARGEST_SECONDS:
        raise UserError(f"--time-limit {time}: give at most {LARGEST_SECONDS / SECONDS['d']:.0f}d, or leave it out")
    return seconds


def space_of(options: SearchOptions) -> Space:
    """Returns the space that the options name, with the values that they override.

    Raises:
        UserError: With every problem in the space and the overrides.
    """
    flags = {
        f"--{name.replace('_', '-')} {value}": {"training": {name: value}}
        for name in ("epochs", "batch_size", "max_length")
        if (value := getattr(options, name)) is not None
    }
    name = options.space or ("demo" if options.demo else "default")
    return load_space(find_space(name), options.set, flags)


def default_space(options: FinetuneOptions | DistillOptions) -> Space:
    """Returns the space whose training runs are the defaults of single models."""
    return load_space(find_space("demo" if options.demo else "default"))


def check_name(name: str | None, problems: Problems) -> None:
    """Records a problem for a run's name that is no plain folder name."""
    if name is not None and (name in ("", ".", "..") or any(part in name for part in "/\\\0") or len(name) > 100):
        problems.add(f"--name {name!r}: give a folder name of at most 100 characters without / in it")


def choose_stages(options: SearchOptions, space: Space) -> tuple[SearchStage, ...]:
    """Returns the methods to search: those asked for; else the space's stages, unless a sampler is asked for; else PKD
    with its controls, where these have trials."""
    if options.methods:
        return tuple(SearchStage(method=method) for method in dict.fromkeys(options.methods))
    if space.stages and options.sampler is None:
        return space.stages
    controls = space.control_trials if options.control_trials is None else options.control_trials
    methods: tuple[Method, ...] = ("pkd", "kd", "finetuned") if controls else ("pkd",)
    return tuple(SearchStage(method=method) for method in methods)


def check_controls(stages: Sequence[SearchStage]) -> None:
    """Checks that a number of control trials has an effect.

    Raises:
        UserError: When no method takes it.
    """
    if any(stage.keep for stage in stages):
        methods = " and ".join(stage.method for stage in stages)
        raise UserError(
            f"--control-trials: the space searches {methods} in stages, each with its own trials; leave it out, or "
            "name the methods with --methods"
        )
    if not any(is_control(stage.method, stages) for stage in stages):
        raise UserError("--control-trials: none of the methods is a control, kd or finetuned; leave it out")


def choose_depths(asked: tuple[int, ...] | None, teacher_layers: int) -> tuple[int, ...]:
    """Returns the student depths in ascending order; by default a quarter and a half of the teacher's layers.

    Raises:
        UserError: For every depth that is not in 1 .. N-1, and for a teacher that has no shallower students.
    """
    if teacher_layers < 2:
        raise UserError(ONE_LAYER_TEACHER)
    if asked == ():
        raise UserError("--depths: give at least one depth, or leave it out")
    if asked is None:
        return tuple(sorted({max(1, teacher_layers // 4), max(1, teacher_layers // 2)}))
    wrong = [
        f"--depths {depth}: a student of this {teacher_layers}-layer teacher has 1 to {teacher_layers - 1} layers"
        for depth in asked
        if not 1 <= depth < teacher_layers
    ]
    if wrong:
        raise UserError(*wrong)
    return tuple(sorted(set(asked)))
