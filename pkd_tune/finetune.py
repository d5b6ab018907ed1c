"""Fine-tune a classifier for one task: a teacher with all layers, or a student that has no teacher.

    python -m pkd_tune.finetune --task RTE --layers 12
    python -m pkd_tune.finetune --task RTE --layers 6
    python -m pkd_tune.finetune --task MRPC --demo

With all layers, its outputs for every split are computed as well, ready for distillation. The same command again finds
what is there.
"""

import argparse
import sys

from pkd_tune.cli.common_flags import (
    Extend,
    Parser,
    add_budget_flags,
    add_cuda_graphs_flag,
    add_data_flags,
    add_gpu_flag,
    add_precision_flag,
)
from pkd_tune.cli.main import run_command
from pkd_tune.reporting.formatting import metrics_text
from pkd_tune.workflows.options import FinetuneOptions, make_options


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        FinetuneOptions.command,
        description="Fine-tunes an encoder, or its first layers, for a task, and prints its dev scores and its folder.",
    )
    add_data_flags(parser)
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="pretrained encoder: a folder, a name under models/pretrained, or one on the hub (default: %(default)s)",
    )
    parser.add_argument("--layers", type=int, metavar="K", help="use its first K layers (default: all, for a teacher)")
    parser.add_argument(
        "--learning-rate",
        type=float,
        nargs="+",
        action=Extend,
        metavar="RATE",
        help="peak learning rate; of several, the one that scores best on dev is kept (default: those of "
        "the default space: 2e-5 5e-5 1e-4)",
    )
    add_budget_flags(parser)
    add_gpu_flag(parser)
    add_precision_flag(parser)
    add_cuda_graphs_flag(parser)
    parser.use_defaults_of(FinetuneOptions)
    parser.after_ctrl_c = "the same command continues from its last complete epoch"
    return parser


def finetune(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    from pkd_tune.workflows import finetune as workflow

    options = make_options(FinetuneOptions, vars(args))
    model = workflow.finetune(workflow.resolve_finetune(options, command))
    print(f"{model.task} dev: {metrics_text(model.metrics, model.score)}")
    print(model.folder)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), finetune))
