"""How fast this machine trains students: a plain loop, this program's, and the machine's own limit, in one run.

    python -m pkd_tune.bench
    python -m pkd_tune.bench --layers 12 --width 768 --depths 3 6 --to bench.json
    python -m pkd_tune.bench --task RTE --teacher google-bert/bert-base-uncased

Every contestant is a process of its own that trains one short epoch when it is its turn. Turns go round, so that what
else the machine does strikes all alike; the tables have medians, and ratios of medians. The contestants:

- plain loop: Hugging Face's BertForSequenceClassification without a teacher, batches in random order padded to
  --max-length, gradient clipping, PyTorch's AdamW as it comes; in fp32, and in bf16 too where the hardware has it.
- ours: `fit()` and `distill()` as commands and trials call them, the teacher's outputs in memory. An epoch includes
  scoring one dev example. "Slots" are trials in processes of their own, with one thread or one GPU each.

"By CPU time" compares examples per second in which a process was computing: on a machine that others use it is the
steadier number, but says nothing of waiting, nor of a GPU.

"Of peak" is needed work (`benchmark.results.needed_flops`, from lengths without padding) against what this machine
reaches in the same run multiplying large square matrices with --threads threads, in the contestant's precision.

CUDA devices are measured in the same way, but nobody has run that yet.
"""

import argparse
import logging
import os
import platform
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pkd_tune.benchmark.race import Work, lineup, race
from pkd_tune.benchmark.results import as_text, summary
from pkd_tune.cli.main import run_command
from pkd_tune.cli.parser import Parser, add_precision_flag
from pkd_tune.config import UserError
from pkd_tune.data.glue import find_trainable
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_features
from pkd_tune.encoders.folder import BERT_BASE, encoder_problems, read_config
from pkd_tune.encoders.precision import check_precision, has_bf16
from pkd_tune.files import write_json
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.resources import Resources, choose_resources, gpu_names
from pkd_tune.workflows.checks import Problems, check_positive, check_writable

log = logging.getLogger(__name__)

MRPC_LENGTHS = (19, 32, 36, 39, 41, 44, 45, 47, 50, 51, 53, 55, 57, 59, 61, 62, 64, 67, 70, 74, 103)
"""Word pieces per example of MRPC's training split in BERT's uncased vocabulary: 0th, 5th, 10th ... percentile."""

MRPC_EXAMPLES = (3668, 408)
"""Of its training and dev splits."""

STEPS = {"cpu": 16, "cuda": 128}
"""Steps a turn: a whole window of batches that are sorted together, or about a second."""

MAX_SLOTS = 16
"""As many slots are tried unless --slots says otherwise: each takes about a gigabyte."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """One bench, resolved."""

    base: Work
    """What all contestants share."""
    depths: tuple[int, ...]
    resources: tuple[int, ...]
    """How many trials are run at once."""
    data: str
    """What the examples are, in words."""


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        "pkd_tune.bench",
        description="Measures how fast this machine trains students, next to a plain loop and the machine's own peak.",
    )
    add = parser.add_argument
    add("--layers", type=int, metavar="N", help="depth of the model that students are cut from (default: 6)")
    add("--width", type=int, metavar="H", help="its hidden size (default: 384); the weights are random")
    add("--teacher", metavar="MODEL", help="a BERT whose shape is used instead: a folder, or a name on the hub")
    add("--depths", type=int, nargs="+", metavar="K", help="student depths (default: half its layers, and all)")
    add("--task", help="take the lengths of this GLUE task's examples (default: those of MRPC, built in)")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="as of the other commands (default: data)")
    add(
        "--max-length",
        type=int,
        default=128,
        metavar="N",
        help="longest example; the plain loop pads to it (default: 128)",
    )
    add("--batch-size", type=int, default=32, metavar="N", help="examples per step (default: %(default)s)")
    add("--steps", type=int, metavar="N", help="steps a turn (default: 16 on a CPU, 128 on a GPU)")
    add("--repeats", type=int, default=5, metavar="N", help="turns of each contestant (default: %(default)s)")
    add("--threads", type=int, metavar="N", help="threads of contestants that run alone (default: all CPU cores)")
    add("--slots", type=int, nargs="+", metavar="N", help=f"trials at once (default: 1, 2, 4 ... up to {MAX_SLOTS})")
    add("--gpus", type=int, metavar="N", help="0: the CPU (default: a GPU when there is one)")
    add_precision_flag(parser)
    parser.set_defaults(precision="auto")
    add("--to", type=Path, metavar="FILE", help="also write every measurement as JSON")
    return parser


def bench(args: argparse.Namespace, command: str) -> int:
    """Runs the command; returns its exit code."""
    settings = resolve(args)
    import torch  # takes seconds, which --help need not wait for

    from pkd_tune.tuning.report_cost import report_seconds

    base, repeats = settings.base, settings.base.turns
    lineups = {depth: lineup(replace(base, depth=depth), settings.resources) for depth in settings.depths}
    found = {}
    with tqdm(unit=" turns", leave=False, disable=not sys.stderr.isatty()) as bar:
        bar.total = repeats * sum(map(len, lineups.values()))

        def show(name: str) -> None:
            bar.set_description_str(name)
            bar.update(1)

        for depth, entries in lineups.items():
            turns = plural(repeats, "turn")
            log.info(f"{plural(depth, 'layer')}: {len(entries)} contestants warm up, then take {turns} each")
            found[depth] = race(entries, repeats, show)
    log.info("what a report costs, in a Ray of its own")
    with tempfile.TemporaryDirectory() as folder:
        reports = report_seconds(4 * repeats, Path(folder))
    device = torch.cuda.get_device_name() if base.device == "cuda" else f"CPU {platform.machine()}"
    record: dict[str, Any] = {
        "machine": f"{device}, {plural(len(os.sched_getaffinity(0)), 'core')}, PyTorch {torch.__version__}",
        "model": f"BERT {base.model['hidden_size']} wide, {base.model['num_attention_heads']} heads, random weights",
        "data": f"{settings.data}, {np.mean(base.lengths):.1f} word pieces each, batches of {base.batch_size}",
        "repeats": repeats,
        "steps": len(base.lengths) // base.batch_size,
        "max_length": base.max_length,
        "shape": base.model,
        **summary(lineups, found, reports),
        "provenance": provenance(command, gpu_names()),
    }
    print(as_text(record))
    if args.to is not None:
        write_json(args.to, record)
        log.info(f"every measurement: {args.to}")
    return 0


def resolve(args: argparse.Namespace) -> Settings:
    """Turns flags into settings.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_positive(args, problems, "--layers", "--width", "--depths", "--max-length", "--batch-size", "--steps")
    check_positive(args, problems, "--repeats", "--threads", "--slots")
    if args.to is not None:
        check_writable(args.to.resolve().parent, "--to", problems)
    resources = problems.attempt(lambda: choose_resources(args.gpus))
    if resources is not None:
        device = resources.device
        problems.attempt(lambda: check_precision(args.precision, device))
    shape = problems.attempt(lambda: find_shape(args))
    lengths = problems.attempt(lambda: find_lengths(args)) if not problems.found else None
    if shape is not None:
        layers, longest = shape["num_hidden_layers"], shape["max_position_embeddings"]
        if too_deep := [depth for depth in args.depths or () if depth > layers]:
            problems.found.append(f"--depths {too_deep[0]}: the model has only {plural(layers, 'layer')}")
        if args.max_length > longest:
            problems.found.append(f"--max-length {args.max_length}: the model reads at most {longest} word pieces")
    if resources is not None and args.resources and max(args.resources) > resources.count:
        problems.found.append(
            f"--slots {max(args.resources)}: there are {resources.count} here, one per CPU core or GPU"
        )
    problems.raise_any()
    assert resources is not None and shape is not None and lengths is not None  # noqa: PT018 - for the type checker
    return settle(args, resources, shape, *lengths)


def settle(
    args: argparse.Namespace,
    resources: Resources,
    shape: dict[str, int],
    train_lengths: NDArray[np.int64],
    dev_lengths: NDArray[np.int64],
) -> Settings:
    """Returns the settings of flags in which nothing is wrong."""
    layers = shape["num_hidden_layers"]
    steps = args.steps or STEPS[resources.device]
    most = min(MAX_SLOTS, resources.count)
    base = Work(
        kind="pkd",
        precision="bf16" if args.precision != "fp32" and has_bf16(resources.device) else "fp32",
        device=resources.device,
        gpu=0,
        threads=args.threads or len(os.sched_getaffinity(0)),
        model={name: number for name, number in shape.items() if name != "num_hidden_layers"},
        depth=layers,
        lengths=spread(train_lengths, steps * args.batch_size),
        dev_lengths=dev_lengths.tolist(),
        batch_size=args.batch_size,
        max_length=args.max_length,
        turns=args.repeats,
    )
    return Settings(
        base=base,
        depths=tuple(args.depths or sorted({max(1, layers // 2), layers})),
        resources=tuple(args.resources or [2**i for i in range(most.bit_length())]),
        data=f"lengths of {find_trainable(args.task or 'MRPC').name}",
    )


def find_shape(args: argparse.Namespace) -> dict[str, int]:
    """Returns the shape of the model that students are cut from, as `BertConfig` names it.

    Raises:
        UserError: When the flags do not describe one.
    """
    if args.teacher is not None:
        if args.layers or args.width:
            raise UserError("--teacher has its own shape; leave out --layers and --width")
        folder = find_pretrained(args.teacher, args.data_dir.resolve())
        if wrong := encoder_problems(folder, "--teacher"):
            raise UserError(*wrong)
        config = read_config(folder)
        return {name: config.get(name, usual) for name, usual in BERT_BASE.items()}
    width = args.width or 384
    if width % 12 and width % 64:
        raise UserError(f"--width must be a multiple of 12 or of 64, but got {width}")
    heads = 12 if width % 12 == 0 else width // 64
    shape = {"hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return BERT_BASE | {"num_hidden_layers": args.layers or 6} | shape


def find_lengths(args: argparse.Namespace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the word pieces of every example of the training split and of all dev splits.

    Raises:
        UserError: When the task's data or a tokenizer for it is missing.
    """
    if args.task is None:
        places = np.linspace(0, 1, len(MRPC_LENGTHS))
        train, dev = (
            np.rint(np.interp((np.arange(n) + 0.5) / n, places, MRPC_LENGTHS)).astype(np.int64) for n in MRPC_EXAMPLES
        )
        return np.minimum(train, args.max_length), np.minimum(dev, args.max_length)
    task, data_dir = find_trainable(args.task), args.data_dir.resolve()
    if args.teacher is None:
        raise UserError("--task needs --teacher: its tokenizer says how long the examples are")
    if wrong := check_source(task, data_dir):
        raise UserError(*wrong)
    folder = find_pretrained(args.teacher, data_dir)
    splits = load_features(task, data_dir, folder, args.max_length)
    return splits["train"].lengths, np.concatenate([splits[name].lengths for name in task.dev_splits])


def spread(lengths: NDArray[np.int64], count: int) -> list[int]:
    """Returns a number of lengths that are distributed like the given ones."""
    places = ((np.arange(count) + 0.5) / count * len(lengths)).astype(int)
    found: list[int] = np.sort(lengths)[places].tolist()
    return found


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), bench))
