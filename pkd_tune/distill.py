"""Distil one student, without a search: vanilla KD or Patient KD at given settings.

    python -m pkd_tune.distill --task RTE --method kd --layers 6 --alpha 0.7 --temperature 20
    python -m pkd_tune.distill --task RTE --method pkd --strategy skip --layers 6 --alpha 0.7 --beta 500
    python -m pkd_tune.distill --task RTE --method pkd --layers 6 --preset published
    python -m pkd_tune.distill --task MRPC --method pkd --layers 2 --demo

The teacher is fine-tuned first, and its outputs computed, unless an earlier command has done so.
"""

import argparse
import hashlib
import json
import math
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pkd_tune.cli.command_line import (
    Parser,
    Problems,
    add_data_flags,
    add_teacher_flags,
    add_training_flags,
    check_fit,
    check_positive,
    find_data,
    find_encoder,
    load_examples,
    run_command,
    say,
    training_bar,
)
from pkd_tune.config import DataConfig, DistillConfig, TrainingConfig, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.distillation.published import Published, published
from pkd_tune.encoders.folder import layer_count, model_name, weights_key
from pkd_tune.encoders.precision import check_precision
from pkd_tune.files import RESULT, write_json
from pkd_tune.reporting.formatting import metrics_text
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.resources import choose_resources, gpu_names
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.space_file import Space, find_space, load_space
from pkd_tune.workflows.output_dir import check_student_target, publish_student
from pkd_tune.workflows.student_init import ONE_LAYER_TEACHER, actual_init, check_pretrained


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One student, resolved: everything that decides what is computed."""

    data: DataConfig
    teacher_trainings: tuple[TrainingConfig, ...]
    distillation: DistillConfig
    training: TrainingConfig


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.distill",
        description="Distils one student of a GLUE task's teacher, and prints its dev scores and its folder.",
        epilog="The loss is (1 - alpha) CE + alpha KD + beta PT; kd is pkd with beta 0.",
    )
    add_data_flags(parser)
    add = parser.add_argument
    add(
        "--method", required=True, choices=["kd", "pkd"], help="vanilla KD, or Patient KD with the [CLS] states as well"
    )
    add("--layers", type=int, required=True, metavar="K", help="depth of the student")
    add_teacher_flags(parser)
    add(
        "--init",
        choices=["pretrained", "teacher", "teacher-skip"],
        default="pretrained",
        help="start from the first K layers of the pretrained model, the first K of the fine-tuned teacher, or every "
        "(N/K)-th of the teacher (default: %(default)s)",
    )
    add("--preset", choices=["published"], help="start from the authors' winner for this task, method and depth")
    add("--alpha", type=float, metavar="A", help="weight of the soft labels, 0 to 1 (default: 0.5)")
    add("--beta", type=float, metavar="B", help="weight of the patience term, for pkd (default: 100)")
    add("--temperature", type=float, metavar="T", help="softens both predictions (default: 10)")
    add("--strategy", choices=["skip", "last"], help="teacher layers to imitate, for pkd (default: skip)")
    add(
        "--normalize",
        action=argparse.BooleanOptionalAction,
        help="scale [CLS] states to length 1 before comparing, for pkd (default: yes)",
    )
    add("--learning-rate", type=float, metavar="RATE", help="peak (default: the middle of what a search tries)")
    add_training_flags(parser)
    add("--to", type=Path, metavar="DIR", help="the student's folder (default: under models/distilled of --data-dir)")
    parser.after_ctrl_c = (
        "the same command goes on with a teacher from its last whole epoch, but starts a student again"
    )
    return parser


def distill(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    settings, target, device_name = resolve(args)
    import torch  # takes seconds, which --help need not wait for

    from pkd_tune.distillation import student as students
    from pkd_tune.distillation import teacher as teachers
    from pkd_tune.distillation.loop import TrainingDivergedError
    from pkd_tune.encoders.modeling import save_classifier

    data, config, device = settings.data, settings.distillation, torch.device(device_name)
    task, name = TASKS[data.task], f"{args.method} {config.student_layers}-layer student"
    load_examples(task, data.data_dir, demo=args.demo)
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    finetuned = data.data_dir / "models" / "finetuned" / task.name
    with training_bar("teacher") as show:
        teacher = teachers.prepare_teacher(
            task, splits, data.teacher_dir, finetuned, settings.teacher_trainings, device, show
        )
    called, scores = model_name(data.teacher_dir), metrics_text(teacher.metrics)
    say(f"teacher: {called}, {teacher.layers} layers, {task.name} dev {scores}")
    imitated = teacher_layers(config.strategy, config.student_layers, teacher.layers) if config.beta > 0 else ()
    if imitated:
        pairs = ", ".join(f"{i}→{layer}" for i, layer in enumerate(imitated, start=1))
        say(f"student layers imitate teacher layers: {pairs}")
    elif config.beta > 0:
        say("warning: a student of one layer has no inner layer to imitate with; beta has no effect")

    student_data = students.open_student_data(data, teacher, device, settings.training.seed)
    with training_bar(name) as show:
        try:
            student, _ = students.distill(student_data, config, settings.training, show)
        except TrainingDivergedError as error:
            remedy = f"give a lower --learning-rate than {settings.training.learning_rate:g}"
            raise UserError(f"{name}: {error}; {remedy}{' or a lower --beta' if imitated else ''}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    save_classifier(student, data.student_dir, unfinished, replace=True)
    student_splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    metrics = teachers.dev_metrics(task, unfinished, student_splits, device)
    record = {
        **asdict(settings),
        "method": args.method,
        "imitated_layers": imitated,
        "metrics": metrics,
        "teacher": {"weights": teacher.key, "layers": teacher.layers, "metrics": teacher.metrics},
        "content": {"weights": weights_key(unfinished), "train": splits["train"].key, "dev": splits["dev"].key},
        "provenance": provenance("pkd_tune.distill", argv, gpu_names()),
    }
    write_json(unfinished / RESULT, record)
    publish_student(unfinished, target)
    print(f"{task.name} dev: {metrics_text(metrics)}")
    print(target)
    return 0


def resolve(args: argparse.Namespace) -> tuple[Settings, Path, str]:
    """Turns flags into settings, the student's folder and a device, and finds every mistake that can be found quickly.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    space = load_space(find_space("demo" if args.demo else "default"))
    check_positive(args, problems, "--epochs", "--batch-size", "--max-length", "--learning-rate", "--layers")
    resources = problems.attempt(lambda: choose_resources(args.gpus))
    if resources is not None:
        device = resources.device
        problems.attempt(lambda: check_precision(args.precision, device))
    if args.to is not None:
        check_student_target(args.to.resolve(), problems)
    task, data_dir = find_data(args, problems)
    teacher_dir = find_encoder(args, "--teacher", data_dir, problems)
    student_dir = find_encoder(args, "--student", data_dir, problems) if args.student else teacher_dir
    for flag, model in (("--teacher", teacher_dir), ("--student", student_dir if args.student else None)):
        if model is not None and task is not None:
            check_fit(model, flag, task, args.max_length or space.max_length, problems)
    if args.student and student_dir is not None:
        check_pretrained(student_dir, problems)
    if teacher_dir is not None and student_dir is not None and args.layers > 0:
        check_depth(args, teacher_dir, student_dir, problems)
    if args.method == "kd":
        for flag in ("beta", "strategy", "normalize"):
            if getattr(args, flag) is not None:
                problems.found.append(f"--{flag} belongs to --method pkd; leave it out, or change the method")
    start = Published(learning_rate=middle_rate(space), temperature=10, alpha=0.5, beta=100)
    if args.preset is not None and task is not None:
        start = problems.attempt(lambda: published(args.method, args.layers, task.name)) or start
    config = problems.attempt(lambda: distillation(args, start))
    problems.raise_any()
    assert task is not None and teacher_dir is not None and student_dir is not None  # noqa: PT018 - for the type checker
    assert resources is not None and config is not None  # noqa: PT018
    training = replace(
        space.training,
        learning_rate=args.learning_rate or start.learning_rate,
        epochs=args.epochs or space.training.epochs,
        batch_size=args.batch_size or space.training.batch_size,
        seed=args.seed,
        precision=args.precision,
    )
    settings = Settings(
        data=DataConfig(
            task=task.name,
            data_dir=data_dir,
            teacher_dir=teacher_dir,
            student_dir=student_dir,
            max_length=args.max_length or space.max_length,
            init=actual_init(args.init, student_dir),
        ),
        teacher_trainings=tuple(replace(training, precision=args.precision) for training in space.teacher),
        distillation=config,
        training=training,
    )
    target = args.to.resolve() if args.to else default_folder(settings, args.method)
    check_student_target(target, problems)
    problems.raise_any()
    return settings, target, resources.device


def distillation(args: argparse.Namespace, start: Published) -> DistillConfig:
    """Returns the loss's settings: the flags, and where there is none, the start's.

    Raises:
        UserError: When a value is impossible.
    """

    def chosen(name: str) -> Any:
        flag = getattr(args, name)
        return getattr(start, name) if flag is None else flag

    return DistillConfig(
        student_layers=args.layers,
        alpha=chosen("alpha"),
        beta=chosen("beta") if args.method == "pkd" else 0.0,
        temperature=chosen("temperature"),
        strategy=chosen("strategy"),
        normalize=chosen("normalize"),
    )


def check_depth(args: argparse.Namespace, teacher_dir: Path, student_dir: Path, problems: Problems) -> None:
    """Keeps a problem when there is no student of the asked depth."""
    teacher_depth, start_depth = layer_count(teacher_dir), layer_count(student_dir)
    if teacher_depth < 2:
        problems.found.append(ONE_LAYER_TEACHER)
    elif args.layers >= teacher_depth:
        problems.found.append(
            f"--layers {args.layers}: a student of a {teacher_depth}-layer teacher has 1 to {teacher_depth - 1} layers"
        )
    elif args.layers > start_depth and args.init == "pretrained":
        problems.found.append(
            f"--layers {args.layers}: {model_name(student_dir)} has only {start_depth} layers to start from"
        )
    if args.init != "pretrained" and args.student:
        problems.found.append(f"--init {args.init} starts from the teacher; leave out --student")


def middle_rate(space: Space) -> float:
    """Returns the geometric middle of the learning rates a search tries."""
    rates = space.parameters["learning_rate"]
    assert isinstance(rates, Float)
    return float(f"{math.sqrt(rates.low * rates.high):.2g}")


def default_folder(settings: Settings, method: str) -> Path:
    """Returns the folder of a student that was given none: its settings decide it."""
    text = json.dumps(asdict(settings), sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    data, layers = settings.data, settings.distillation.student_layers
    return (
        data.data_dir
        / "models"
        / "distilled"
        / data.task
        / f"{model_name(data.student_dir)}-{method}-{layers}-layer-{key}"
    )


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), distill))
