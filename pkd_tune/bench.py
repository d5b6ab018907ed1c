"""Measures how fast this machine trains students, next to a plain training loop and the machine's own peak.

    python -m pkd_tune.bench
    python -m pkd_tune.bench --layers 12 --width 768 --depths 3 6 --to bench.json
    python -m pkd_tune.bench --families all --depths 3
    python -m pkd_tune.bench --task RTE --teacher google-bert/bert-base-uncased

docs/performance.md explains what is measured and how to read the tables.
"""

import argparse
import sys
from pathlib import Path

from pkd_tune.benchmark.results import as_text, families_text
from pkd_tune.benchmark.settings import (
    DEFAULT_LAYERS,
    DEFAULT_WIDTH,
    MAX_TRIALS,
    STEPS,
    TRIALS_PER_GPU,
    BenchConfig,
    resolve,
)
from pkd_tune.cli.common_flags import Extend, Parser, add_gpu_flag, add_precision_flag
from pkd_tune.cli.main import run_command
from pkd_tune.files import expanded, write_json
from pkd_tune.workflows.checks import Problems, check_positive, check_writable


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        "pkd_tune.bench",
        description="Measures how fast this machine trains students, next to a plain loop and the machine's own peak.",
    )
    add = parser.add_argument
    add("--layers", type=int, metavar="N", help=f"layers of the model with random weights (default: {DEFAULT_LAYERS})")
    add("--width", type=int, metavar="H", help=f"hidden size of that model (default: {DEFAULT_WIDTH})")
    add("--teacher", metavar="MODEL", help="an encoder whose shape is used instead: a folder, or a name on the hub")
    add(
        "--depths",
        type=int,
        nargs="+",
        action=Extend,
        metavar="K",
        help="student depths (default: half its layers, and all)",
    )
    add(
        "--task",
        help="use the example lengths of this task, named as in the other commands; needs --teacher "
        "(default: those of MRPC)",
    )
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="data folder (default: %(default)s)")
    add(
        "--max-length",
        type=int,
        default=128,
        metavar="N",
        help="longest example in tokens; the plain loop pads to it (default: %(default)s)",
    )
    add("--batch-size", type=int, default=32, metavar="N", help="examples per step (default: %(default)s)")
    default_steps = f"{STEPS['cpu']} on a CPU, {STEPS['cuda']} on a GPU"
    add("--steps", type=int, metavar="N", help=f"steps per measured epoch (default: {default_steps})")
    add("--repeats", type=int, default=5, metavar="N", help="measured epochs of each entry (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads of entries that run alone (default: all CPU cores)")
    add(
        "--slots",
        type=int,
        nargs="+",
        action=Extend,
        metavar="N",
        help="numbers of concurrent trials to measure; more than there are GPUs share them (default: 1, 2, 4 ... up "
        f"to {MAX_TRIALS} and the number of CPU cores; on GPUs up to {TRIALS_PER_GPU} for each)",
    )
    add(
        "--families",
        nargs="+",
        action=Extend,
        metavar="TYPE",
        help="compare these model families instead, by model_type (bert deberta-v2), or all: Hugging Face's own loop, "
        "and PKD with the fast and the general forward pass, at the first of --depths",
    )
    add_gpu_flag(parser)
    add_precision_flag(parser)
    parser.set_defaults(precision="auto")
    add("--to", type=Path, metavar="FILE", help="also write every measurement as JSON")
    return parser


def bench(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    problems = Problems()
    check_positive(args, problems, "--layers", "--width", "--depths", "--max-length", "--batch-size", "--steps")
    check_positive(args, problems, "--repeats", "--threads", "--slots")
    to = args.to and expanded(args.to)
    if to is not None and to.is_dir():
        problems.add(f"--to {to}: is a folder; name a file in it")
    elif to is not None:
        check_writable(to.resolve().parent, "--to", problems)
    problems.raise_any()
    settings = resolve(to_config(args))
    # PyTorch and Ray take seconds to import, --help need not wait
    from pkd_tune.benchmark.measurement import measure, measure_families

    if settings.families:
        record = measure_families(settings, command)
        print(families_text(record))
    else:
        record = measure(settings, command)
        print(as_text(record))
    if to is not None:
        write_json(to, record)
        print(f"every measurement: {to}", file=sys.stderr)
    return 0


def to_config(args: argparse.Namespace) -> BenchConfig:
    """Returns what the flags ask for."""
    return BenchConfig(
        layers=args.layers,
        width=args.width,
        teacher=args.teacher,
        depths=tuple(args.depths or ()),
        task=args.task,
        data_dir=expanded(args.data_dir).resolve(),
        max_length=args.max_length,
        batch_size=args.batch_size,
        steps=args.steps,
        repeats=args.repeats,
        threads=args.threads,
        concurrent=tuple(args.slots or ()),
        families=tuple(args.families or ()),
        gpus=args.gpus,
        precision=args.precision,
    )


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), bench))
