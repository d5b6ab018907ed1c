"""A model's predictions: scores, Parquet files, and the files the GLUE benchmark takes.

python -m pkd_tune.predict --task RTE --model DIR --splits train dev test
python -m pkd_tune.predict --task tickets.toml --model DIR --file new.csv
python -m pkd_tune.predict --task MNLI --model DIR --glue-zip submission.zip
python -m pkd_tune.predict --task MNLI AX RTE --model MNLI_DIR MNLI_DIR RTE_DIR --glue-zip submission.zip
"""

import argparse
import sys
from pathlib import Path

from pkd_tune.cli.common_flags import TASK_HELP, Extend, Parser, add_gpu_flag
from pkd_tune.cli.main import run_command
from pkd_tune.data.glue import TASKS
from pkd_tune.reporting.formatting import METRIC_TITLES
from pkd_tune.workflows.options import PredictOptions, make_options


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        PredictOptions.command,
        description="Scores fine-tuned models, writes their predictions as Parquet, and makes GLUE benchmark files.",
        epilog="AX has no model of its own: give it a model of MNLI.",
    )
    add = parser.add_argument
    add("--task", required=True, nargs="+", action=Extend, help=f"{TASK_HELP} (GLUE: {', '.join(TASKS)})")
    add(
        "--model",
        required=True,
        nargs="+",
        action=Extend,
        metavar="DIR",
        help="one fine-tuned model per task, in the same order",
    )
    add(
        "--splits",
        nargs="+",
        action=Extend,
        metavar="SPLIT",
        help="train, dev, test; for MNLI also dev_mm, test_mm (default: dev; with --glue-zip the test splits)",
    )
    add(
        "--file",
        nargs="+",
        action=Extend,
        type=Path,
        metavar="FILE",
        help="predict these files instead of splits: CSV, TSV, JSON Lines or Parquet with the task's text columns; "
        "labels in them, if any, are scored",
    )
    add("--demo", action="store_true", help="predict the synthetic corpus, for models trained on it")
    add("--data-dir", type=Path, metavar="DIR", help="as in the other commands (default: %(default)s)")
    add(
        "--max-length",
        type=int,
        metavar="N",
        help="longest example in tokens (default: the model's limit; an exported student has that of its search)",
    )
    add_gpu_flag(parser)
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="Parquet files are written there, <TASK>-<split>.parquet (default: %(default)s)",
    )
    add("--glue-zip", type=Path, metavar="FILE", help="also write the tasks' files for the GLUE benchmark")
    filled = "complete the zip: other tasks get their most frequent class"
    add("--fill-missing", action="store_true", help=filled)
    parser.use_defaults_of(PredictOptions)
    return parser


def predict(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    from pkd_tune.workflows import predict as workflow

    options = make_options(PredictOptions, vars(args))
    for found in workflow.predict(workflow.resolve_predict(options, command)):
        scores = ", ".join(f"{METRIC_TITLES[name]} {value:.1f}" for name, value in found.metrics.items())
        print(f"{found.task} {found.split}: {scores or 'no labels to score'} -> {found.path}")
    if options.glue_zip is not None:
        print(options.glue_zip)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), predict))
