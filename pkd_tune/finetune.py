"""Fine-tune a classifier for one task: a teacher with all layers, or a student that has no teacher.

    python -m pkd_tune.finetune --task RTE --layers 12
    python -m pkd_tune.finetune --task RTE --layers 6
    python -m pkd_tune.finetune --task MRPC --demo

With all layers, its outputs for every split are computed as well, ready for distillation. The same command again finds
what is there.
"""

import argparse
import sys
from dataclasses import asdict, replace

from pkd_tune.cli.command_line import (
    DEFAULT_MODEL,
    Parser,
    Problems,
    add_data_flags,
    add_training_flags,
    check_fit,
    check_positive,
    find_data,
    find_encoder,
    load_examples,
    run_command,
    training_bar,
)
from pkd_tune.config import DataConfig, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.encoders.folder import layer_count, model_name, weights_key
from pkd_tune.encoders.precision import check_precision
from pkd_tune.files import write_json
from pkd_tune.reporting.formatting import metrics_text, plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.resources import choose_resources, gpu_names
from pkd_tune.tuning.space_file import find_space, load_space


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.finetune",
        description="Fine-tunes BERT, or its first layers, for a GLUE task, and prints its dev scores and its folder.",
    )
    add_data_flags(parser)
    parser.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        metavar="MODEL",
        help="pretrained BERT: a folder, a name under models/pretrained, or a name on the hub (default: %(default)s)",
    )
    parser.add_argument("--layers", type=int, metavar="K", help="use its first K layers (default: all, for a teacher)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs="+",
        metavar="RATE",
        help="peak learning rate; of several, the one that scores best on dev is kept (default: what a search uses)",
    )
    add_training_flags(parser)
    parser.after_ctrl_c = "the same command goes on from its last whole epoch"
    return parser


def finetune(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    data, layers, trainings, device_name = resolve(args)
    import torch  # takes seconds, which --help need not wait for

    from pkd_tune.distillation import teacher as teachers
    from pkd_tune.distillation.student import compute_teacher_outputs

    device, task = torch.device(device_name), TASKS[data.task]
    load_examples(task, data.data_dir, demo=args.demo)
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    folder = data.data_dir / "models" / "finetuned" / task.name
    with training_bar(f"{task.name}, {plural(layers, 'layer')}") as show:
        model_dir = teachers.finetune(task, splits, data.teacher_dir, layers, folder, trainings, device, show)
    key, metrics = weights_key(model_dir), teachers.dev_metrics(task, model_dir, splits, device)
    record = {
        "data": asdict(data),
        "layers": layers,
        "trainings": [asdict(training) for training in trainings],
        "metrics": metrics,
        "content": {"weights": key, "train": splits["train"].key, "dev": splits["dev"].key},
        "provenance": provenance("pkd_tune.finetune", argv, gpu_names()),
    }
    write_json(model_dir / "result.json", record)
    if layers == layer_count(data.teacher_dir):
        compute_teacher_outputs(data, model_dir, key, device)
    print(f"{task.name} dev: {metrics_text(metrics)}")
    print(model_dir)
    return 0


def resolve(args: argparse.Namespace) -> tuple[DataConfig, int, list[TrainingConfig], str]:
    """Turns flags into settings: data, layers, trainings and device.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    space = load_space(find_space("demo" if args.demo else "default"))
    check_positive(args, problems, "--epochs", "--batch-size", "--max-length", "--learning-rate")
    resources = problems.attempt(lambda: choose_resources(args.gpus))
    if resources is not None:
        device = resources.device
        problems.attempt(lambda: check_precision(args.precision, device))
    task, data_dir = find_data(args, problems)
    folder = find_encoder(args, "--model", data_dir, problems)
    if folder is not None and task is not None:
        check_fit(folder, "--model", task, args.max_length or space.max_length, problems)
    depth = layer_count(folder) if folder is not None else 0
    if folder is not None and args.layers is not None and not 1 <= args.layers <= depth:
        problems.found.append(f"--layers {args.layers}: {model_name(folder)} has 1 to {depth} layers to use")
    problems.raise_any()
    assert task is not None and folder is not None and resources is not None  # noqa: PT018 - for the type checker
    rates = args.learning_rate or [training.learning_rate for training in space.teacher]
    training = replace(
        space.teacher[0],
        epochs=args.epochs or space.teacher[0].epochs,
        batch_size=args.batch_size or space.teacher[0].batch_size,
        seed=args.seed,
        precision=args.precision,
    )
    data = DataConfig(
        task=task.name,
        data_dir=data_dir,
        teacher_dir=folder,
        student_dir=folder,
        max_length=args.max_length or space.max_length,
    )
    return data, args.layers or depth, [replace(training, learning_rate=rate) for rate in rates], resources.device


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), finetune))
