"""The flags of a search, in the groups in which `--help` shows them."""

from pathlib import Path
from typing import get_args

from pkd_tune.cli.common_flags import (
    Extend,
    Flatten,
    Parser,
    add_cuda_graphs_flag,
    add_precision_flag,
    add_unlabeled_flag,
    whole_numbers,
)
from pkd_tune.config import METHODS, Sampler, SelectOn


def add_space_flags(parser: Parser) -> None:
    """Adds the flags that say what is searched: --depths, --methods, --trials, --space, --set and others."""
    what = parser.add_argument_group("what is searched")
    add = what.add_argument
    add(
        "--depths",
        type=whole_numbers,
        nargs="+",
        action=Flatten,
        metavar="K",
        help="student depths in layers (default: a quarter and a half of the teacher's)",
    )
    add(
        "--methods",
        nargs="+",
        action=Extend,
        choices=METHODS,
        metavar="M",
        help=f"what is compared at every depth: {', '.join(METHODS)} (default: pkd, and the controls kd and finetuned "
        "when --control-trials is not 0)",
    )
    trials = (
        "trials of each PKD method over all depths; of vanilla KD where there is no PKD (default: the space's, usually "
        "24)"
    )
    add("--trials", type=int, metavar="N", help=trials)
    controls = (
        "trials of vanilla KD over all depths; fine-tuning alone has fewer; 0: neither (default: the space's, usually "
        "as many as PKD)"
    )
    add("--control-trials", type=int, metavar="N", help=controls)
    fresh = (
        "training runs on fresh seeds of each study's best settings, and of PKD's without terms of its loss; 0: none "
        "(default: the space's, usually 3)"
    )
    add("--seeds", type=int, metavar="N", help=fresh)
    add("--space", metavar="FILE", help="a TOML file, or default, demo or paper (default: default, or demo)")
    add(
        "--set",
        nargs="+",
        action=Extend,
        metavar="KEY=VALUE",
        help="override values of the space, such as training.epochs=8 space.alpha=0.5",
    )
    add("--sampler", choices=get_args(Sampler), help="what suggests settings (default: the space's, usually tpe)")
    add(
        "--select-on",
        choices=(*get_args(SelectOn), "validation"),
        metavar="{dev,holdout}",
        help="examples that select trials and epochs: the official dev split as in the paper, or a tenth of train held "
        "out, so that dev scores are not selected on (default: %(default)s)",
    )
    add_unlabeled_flag(what)
    add(
        "--warm-start",
        nargs="+",
        action=Extend,
        metavar="RUN",
        help="earlier runs whose trials are added to the sampler's history",
    )


def add_place_flags(parser: Parser) -> None:
    """Adds the flags that say where it runs, and how long: --gpus, --address, --storage, --time-limit and others."""
    where = parser.add_argument_group("where it runs")
    add = where.add_argument
    add(
        "--gpus",
        type=int,
        metavar="N",
        help="GPUs to use; 0: the CPU, a trial per core where memory has room (default: all GPUs found, else the CPU)",
    )
    shared = "trials that share a GPU (default: as many as its memory has room for, at most 4)"
    add("--trials-per-gpu", type=int, metavar="N", help=shared)
    add_precision_flag(where)
    add_cuda_graphs_flag(where)
    add("--address", metavar="HOST:PORT", help="join a running Ray cluster (`auto`: the one this machine belongs to)")
    add(
        "--storage",
        metavar="DIR",
        help="folder or URI (s3://...) that all nodes see, for the files of trials (default: the run's folder)",
    )
    add("--trial-timeout", type=float, metavar="SECONDS", help="stop trials that take longer (default: never)")
    add(
        "--time-limit",
        metavar="TIME",
        help="end after this time, such as 30m, 2h or 90s, with a report of the trials that fit into it; teacher and "
        "confirmations are part of it, and the same command continues (default: none)",
    )


def add_outcome_flags(parser: Parser) -> None:
    """Adds the flags that say what comes out, and where: --tolerance, --onnx, --out, --name, --dry-run and others."""
    out = parser.add_argument_group("what comes out")
    add = out.add_argument
    add(
        "--tolerance",
        type=float,
        metavar="POINTS",
        help="by how many points the student to ship may fall short of the teacher; the smallest that is shown not to "
        "is named first (default: %(default)s)",
    )
    add("--onnx", action="store_true", help="measure the student to ship as ONNX and int8 too (needs the extra onnx)")
    add("--out", type=Path, metavar="DIR", help="a run is written to <out>/<TASK>/<name>/ (default: %(default)s)")
    add("--name", metavar="NAME", help="name of the run, to start or to continue (default: the teacher's, or demo)")
    add("--new", action="store_true", help="start another run instead of continuing the last one")
    add("--check", action="store_true", help="print how the task's data was understood, and stop")
    add("--dry-run", action="store_true", help="time a few steps, print what the search would cost, and stop")
    add("--ray-dashboard", action="store_true", help="start Ray's dashboard too; it takes about 1 GB of memory")
    add("--log", nargs="+", action=Extend, choices=["wandb", "mlflow"], help="send every result there as well")
    detail = out.add_mutually_exclusive_group()
    detail.add_argument("--quiet", action="store_true", help="print nothing but warnings and the summary")
    detail.add_argument("--verbose", action="store_true", help="print what happens to trials and processes as well")
