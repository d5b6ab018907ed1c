"""The whole search: teacher, teacher outputs, trials at every depth, exported students and a report.

    python -m pkd_tune.search --task MRPC --demo
    python -m pkd_tune.search --task MRPC --gpus 8
    python -m pkd_tune.search --task MRPC --gpus 0 --teacher data/models/pretrained/minilm --depths 2 3 --trials 8

Running the same command again continues a search that was interrupted, or adds trials when --trials is larger.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from pkd_tune.cli.command_line import (
    Parser,
    Problems,
    add_data_flags,
    add_precision_flag,
    add_teacher_flags,
    be_quiet,
    check_fit,
    check_positive,
    check_writable,
    find_data,
    find_encoder,
    run_command,
    seed,
)
from pkd_tune.config import DataConfig, Method, Sampler, SearchConfig, SearchStage, SelectOn, UserError
from pkd_tune.encoders.folder import layer_count
from pkd_tune.encoders.precision import check_precision
from pkd_tune.tuning.artifacts import check_uri
from pkd_tune.tuning.plan import check_shares
from pkd_tune.tuning.resources import choose_resources
from pkd_tune.tuning.space_file import Space, find_space, load_space
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.student_init import ONE_LAYER_TEACHER, actual_init, check_pretrained


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.search",
        description="Searches Patient Knowledge Distillation students for a GLUE task; leaves report and checkpoints.",
        epilog="The same command again continues an interrupted search; a larger --trials adds to a finished one.",
    )
    add_data_flags(parser)
    add_teacher_flags(parser)
    what = parser.add_argument_group("what is searched")
    add = what.add_argument
    add(
        "--depths",
        type=int,
        nargs="+",
        metavar="K",
        help="student depths in layers (default: a quarter and a half of the teacher's)",
    )
    add(
        "--methods",
        nargs="+",
        choices=get_args(Method),
        metavar="M",
        help=f"what is compared at every depth: {', '.join(get_args(Method))} (default: pkd, and the controls kd and "
        "finetuned when --control-trials is not 0)",
    )
    add("--trials", type=int, metavar="N", help="trials of each PKD method over all depths (default: the space's)")
    add(
        "--control-trials",
        type=int,
        metavar="N",
        help="trials of each control, vanilla KD and fine-tuning alone, over all depths (default: the space's)",
    )
    add(
        "--seeds",
        type=int,
        metavar="N",
        help="trainings on fresh seeds that confirm each winner; 0: none (default: the space's)",
    )
    add("--space", metavar="FILE", help="a TOML file, or default, demo or paper (default: default, or demo)")
    add("--sampler", choices=get_args(Sampler), help="what chooses the settings (default: the space's, usually tpe)")
    add(
        "--select-on",
        choices=get_args(SelectOn),
        default="dev",
        help="examples that choose trials and epochs: the official dev split as in the paper, or a tenth of train held "
        "out, so that dev scores are not chosen by (default: %(default)s)",
    )
    add("--warm-start", type=Path, nargs="+", default=[], metavar="RUN", help="earlier runs whose trials inform tpe")
    add("--seed", type=seed, default=42, metavar="N", help="seed of sampling and of training (default: %(default)s)")
    where = parser.add_argument_group("where it runs")
    add = where.add_argument
    add(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs to use; 0: the CPU, a trial per core where memory has room (default: all GPUs found, else the CPU)",
    )
    add(
        "--trials-per-gpu",
        type=int,
        metavar="F",
        help="trials that share a GPU (default: what its memory has room for)",
    )
    add_precision_flag(where)
    add("--address", metavar="HOST:PORT", help="join a running Ray cluster (`auto`: the one this machine belongs to)")
    add(
        "--storage",
        metavar="DIR",
        help="folder or URI (s3://...) that all nodes see, for the files of trials (default: the run's folder)",
    )
    add("--trial-timeout", type=float, metavar="SECONDS", help="give up trials that take longer (default: never)")
    out = parser.add_argument_group("what comes out")
    add = out.add_argument
    add(
        "--out",
        type=Path,
        default=Path("results"),
        metavar="DIR",
        help="a run is written to <out>/<TASK>/<name>/ (default: %(default)s)",
    )
    add("--name", metavar="NAME", help="name of the run, to start or to continue (default: the teacher's)")
    add("--new", action="store_true", help="start another run instead of continuing the last one")
    add("--dry-run", action="store_true", help="time a few steps, print what the search would cost, and stop")
    add("--ray-dashboard", action="store_true", help="start Ray's dashboard too; it takes about 1 GB of memory")
    add("--log", nargs="+", choices=["wandb", "mlflow"], default=[], help="send every result there as well")
    detail = out.add_mutually_exclusive_group()
    detail.add_argument("--quiet", action="store_true", help="print nothing but errors and the last lines")
    detail.add_argument("--verbose", action="store_true", help="print what happens to trials and processes as well")
    parser.after_ctrl_c = "the same command without --new continues a search"
    return parser


def search(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code: 0, 1 when no trial was completed, 130 when Ctrl-C cut it short."""
    if args.quiet:
        be_quiet()
    request = resolve(args, argv)
    # These take seconds to import: only now, after everything quick has been checked.
    if args.dry_run:
        from pkd_tune.workflows.dry_run import dry_run

        return dry_run(request)
    from pkd_tune.workflows.search import run

    return run(request)


def resolve(args: argparse.Namespace, argv: list[str]) -> SearchRequest:
    """Turns flags into settings, and finds every mistake in flags, space, data and teacher that can be found quickly.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    space = problems.attempt(lambda: load_space(find_space(args.space or ("demo" if args.demo else "default"))))
    check_positive(args, problems, "--trials", "--trials-per-gpu", "--trial-timeout")
    for flag, value in (("--control-trials", args.control_trials), ("--seeds", args.seeds)):
        if value is not None and value < 0:
            problems.found.append(f"{flag} must be at least 0, but got {value}")
    resources = None
    if args.address is None:
        resources = problems.attempt(lambda: choose_resources(args.gpus, args.trials_per_gpu))
    if resources is not None:
        device = resources.device
        problems.attempt(lambda: check_precision(args.precision, device))
    if args.address is not None and args.ray_dashboard:
        problems.found.append(
            "--ray-dashboard: a cluster that is joined by --address has its own, or none; leave it out"
        )
    check_writable(args.out.resolve(), "--out", problems)
    if args.storage is not None and "://" in args.storage:
        problems.attempt(lambda: check_uri(args.storage))
    elif args.storage is not None:
        check_writable(Path(args.storage).resolve(), "--storage", problems)
    task, data_dir = find_data(args, problems)
    folder = find_encoder(args, "--teacher", data_dir, problems)
    student_folder = find_encoder(args, "--student", data_dir, problems) if args.student else folder
    for flag, model in (("--teacher", folder), ("--student", student_folder if args.student else None)):
        if model is not None and task is not None and space is not None:
            check_fit(model, flag, task, space.max_length, problems)
    if args.student and student_folder is not None:
        check_pretrained(student_folder, problems)
    if args.student and space is not None and space.init != "pretrained":
        problems.found.append(f"--student: init in the space is {space.init!r}, the teacher; leave out --student")
    depths = None
    if folder is not None and student_folder is not None:
        most = layer_count(folder)
        if folder != student_folder:
            most = min(most, layer_count(student_folder) + 1)
        depths = problems.attempt(lambda: choose_depths(args.depths, most))
    stages = () if space is None else choose_stages(args, space)
    problems.raise_any()
    assert task is not None and space is not None and depths is not None  # noqa: PT018 - for the type checker
    assert folder is not None and student_folder is not None  # noqa: PT018
    data = DataConfig(
        task=task.name,
        data_dir=data_dir,
        teacher_dir=folder,
        student_dir=student_folder,
        max_length=space.max_length,
        init=actual_init(space.init, student_folder),
        select_on=args.select_on,
    )
    of_all: dict[str, Any] = {"seed": args.seed, "precision": args.precision}
    whole_grid = args.sampler == "grid" and space.sampler == "grid"
    trials = args.trials or (None if whole_grid else space.trials)
    control_trials = space.control_trials if args.control_trials is None else args.control_trials
    check_shares(stages, depths, trials, control_trials)
    config = SearchConfig(
        data=data,
        teacher_trainings=tuple(replace(training, **of_all) for training in space.teacher),
        student_training=replace(space.training, **of_all),
        depths=depths,
        stages=stages,
        trials=trials,
        control_trials=control_trials,
        seeds=space.seeds if args.seeds is None else args.seeds,
        sampler=args.sampler or space.sampler,
        early_stopping=space.early_stopping,
        seed=args.seed,
    )
    return SearchRequest(
        config=config,
        parameters=space.parameters,
        demo=args.demo,
        out=args.out.resolve(),
        name=args.name,
        new=args.new,
        warm_start=tuple(path.resolve() for path in args.warm_start),
        resources=resources,
        gpus=args.gpus,
        trials_per_gpu=args.trials_per_gpu,
        address=args.address,
        storage=args.storage,
        trial_timeout=args.trial_timeout,
        ray_dashboard=args.ray_dashboard,
        loggers=tuple(args.log),
        quiet=args.quiet,
        verbose=args.verbose,
        argv=tuple(argv),
    )


def choose_stages(args: argparse.Namespace, space: Space) -> tuple[SearchStage, ...]:
    """Returns the methods to search: those asked for; else the space's stages, unless a sampler is asked for; else PKD
    with its controls, where these have trials."""
    if args.methods:
        return tuple(SearchStage(method=method) for method in dict.fromkeys(args.methods))
    if space.stages and args.sampler is None:
        return space.stages
    controls = space.control_trials if args.control_trials is None else args.control_trials
    methods: tuple[Method, ...] = ("pkd", "kd", "finetuned") if controls else ("pkd",)
    return tuple(SearchStage(method=method) for method in methods)


def choose_depths(asked: list[int] | None, teacher_layers: int) -> tuple[int, ...]:
    """Returns the student depths in rising order; by default a quarter and a half of the teacher's layers.

    Raises:
        UserError: For every depth that is not in 1 .. N-1, and for a teacher that has no shallower students.
    """
    if teacher_layers < 2:
        raise UserError(ONE_LAYER_TEACHER)
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


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), search))
