"""Distil one student, without a search: vanilla KD or Patient KD at given settings.

    python -m pkd_tune.distill --task RTE --method kd --layers 6 --alpha 0.7 --temperature 20
    python -m pkd_tune.distill --task RTE --method pkd --strategy skip --layers 6 --alpha 0.7 --beta 500
    python -m pkd_tune.distill --task RTE --method pkd --layers 6 --preset published
    python -m pkd_tune.distill --task MRPC --method pkd --layers 2 --demo

The teacher is fine-tuned first, and its outputs computed, unless an earlier command has done so.
"""

import argparse
import sys
from pathlib import Path
from typing import get_args

from pkd_tune.cli.common_flags import (
    Parser,
    add_budget_flags,
    add_cuda_graphs_flag,
    add_data_flags,
    add_gpu_flag,
    add_precision_flag,
    add_teacher_flags,
    add_unlabeled_flag,
)
from pkd_tune.cli.main import run_command
from pkd_tune.config import Init, Strategy
from pkd_tune.reporting.formatting import metrics_text
from pkd_tune.workflows.options import DistillOptions, make_options


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        DistillOptions.command,
        description="Distils one student of a task's teacher, and prints its dev scores and its folder.",
        epilog="The loss is (1 - alpha) CE + alpha KD + beta PT; kd is pkd with beta 0.",
    )
    add_data_flags(parser)
    add = parser.add_argument
    methods = "vanilla KD, or Patient KD, which also imitates [CLS] states"
    add("--method", required=True, choices=["kd", "pkd"], help=methods)
    add("--layers", type=int, required=True, metavar="K", help="depth of the student")
    add_teacher_flags(parser)
    add(
        "--init",
        choices=get_args(Init),
        help="start from the first K layers of the pretrained model, the first K of the fine-tuned teacher, or every "
        "(N/K)-th of the teacher, which is often the best (default: %(default)s, as in the paper; teacher, if "
        "--teacher is fine-tuned already)",
    )
    add("--preset", choices=["published"], help="start from the authors' winner for this task, method and depth")
    add("--alpha", type=float, metavar="A", help="weight of the soft labels, 0 to 1 (default: 0.5)")
    add("--beta", type=float, metavar="B", help="weight of the intermediate-layer (PT) loss, for pkd (default: 100)")
    add("--temperature", type=float, metavar="T", help="softens both predictions (default: 10)")
    add("--strategy", choices=get_args(Strategy), help="teacher layers to imitate, for pkd (default: skip)")
    scaled = "scale [CLS] states to length 1 before comparing, for pkd (default: yes)"
    add("--normalize", action=argparse.BooleanOptionalAction, help=scaled)
    add_unlabeled_flag(parser)
    rate = "peak learning rate (default: the middle of the default space's range, 1.4e-4; 4.5e-4 with --demo)"
    add("--learning-rate", type=float, metavar="RATE", help=rate)
    add_budget_flags(parser)
    add_gpu_flag(parser)
    add_precision_flag(parser)
    add_cuda_graphs_flag(parser)
    add("--to", type=Path, metavar="DIR", help="the student's folder (default: under models/distilled of --data-dir)")
    parser.use_defaults_of(DistillOptions)
    parser.after_ctrl_c = (
        "the same command continues a teacher from its last complete epoch, but starts a student again"
    )
    return parser


def distill(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    from pkd_tune.workflows import distill as workflow

    options = make_options(DistillOptions, vars(args))
    model = workflow.distill(workflow.resolve_distill(options, command))
    print(f"{model.task} dev: {metrics_text(model.metrics, model.score)}")
    print(model.folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), distill))
