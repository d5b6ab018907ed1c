"""What a benchmark measures: flags to a model shape, example lengths and numbers of concurrent trials."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pkd_tune.benchmark.interleaving import Workload
from pkd_tune.config import Precision, UserError
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_features
from pkd_tune.data.task import find_trainable
from pkd_tune.encoders.families import FAMILIES
from pkd_tune.encoders.folder import BERT_BASE, encoder_problems, sizes
from pkd_tune.encoders.precision import check_precision, has_bf16
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.limits import usable_cores
from pkd_tune.tuning.resources import Resources, choose_resources

MRPC_LENGTHS = (19, 32, 36, 39, 41, 44, 45, 47, 50, 51, 53, 55, 57, 59, 61, 62, 64, 67, 70, 74, 103)
"""Percentiles 0, 5, 10 ... 100 of MRPC's training examples in tokens of BERT's uncased vocabulary."""

MRPC_EXAMPLES = (3668, 408)
"""Examples of MRPC's training and dev splits."""

DEFAULT_LAYERS = 6
DEFAULT_WIDTH = 384

STEPS = {"cpu": 16, "cuda": 128}
"""Default steps per epoch. On a CPU that is one window of the batch sampler, which sorts examples by length."""

MAX_TRIALS = 16
"""Most concurrent trials that are measured by default: each takes about a gigabyte of memory."""

TRIALS_PER_GPU = 4
"""Trials that share a GPU at most by default, as in a search."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchConfig:
    """What was asked for; None where a default depends on the machine or the model."""

    layers: int | None = None
    """Depth of the model with random weights."""
    width: int | None = None
    """Hidden size of that model."""
    teacher: str | None = None
    """A model whose shape is used instead."""
    depths: tuple[int, ...] = ()
    """Student depths; empty: half the model's layers, and all of them."""
    task: str | None = None
    """Task whose example lengths are used; None: those of MRPC, built in."""
    data_dir: Path = Path("data")
    max_length: int = 128
    """Longest example in tokens, and the length to which the plain loop pads."""
    batch_size: int = 32
    steps: int | None = None
    """Steps per measured epoch."""
    repeats: int = 5
    """Measured epochs of each entry."""
    threads: int | None = None
    """Threads of entries that run alone."""
    concurrent: tuple[int, ...] = ()
    """Numbers of concurrent trials to measure; empty: powers of two."""
    families: tuple[str, ...] = ()
    """Model types to compare instead, or `all`."""
    gpus: int | None = None
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchSettings:
    """A benchmark, resolved."""

    base: Workload
    """What all entries share."""
    depths: tuple[int, ...]
    concurrent: tuple[int, ...]
    """Numbers of concurrent trials."""
    data: str
    """Where the example lengths come from, for the tables."""
    gpus: int = 0
    """GPUs that concurrent trials share; 0: they run on the CPU."""
    families: tuple[str, ...] = ()
    """Model types to compare, at the first depth; empty: the depths of one BERT are measured."""


def resolve(config: BenchConfig) -> BenchSettings:
    """Resolves what was asked for to what this machine measures.

    Raises:
        UserError: With all problems found.
    """
    problems: list[str] = []
    resources, shape = None, None
    try:
        resources = choose_resources(config.gpus)
        check_precision(config.precision, resources.device)
    except UserError as error:
        problems += error.problems
    try:
        shape = find_shape(config)
    except UserError as error:
        problems += error.problems
    if shape is not None:
        layers, longest = shape["num_hidden_layers"], shape["max_position_embeddings"]
        if too_deep := [depth for depth in config.depths if depth > layers]:
            problems.append(f"--depths {too_deep[0]}: the model has only {plural(layers, 'layer')}")
        if config.max_length > longest:
            problems.append(f"--max-length {config.max_length}: the model reads at most {longest} tokens")
    if unknown := [family for family in config.families if family not in FAMILIES and config.families != ("all",)]:
        problems.append(f"--families {unknown[0]}: give all, or some of {', '.join(FAMILIES)}")
    if config.families and config.concurrent:
        problems.append("--families: its training runs run alone; leave out --slots")
    most = max(usable_cores(), resources.gpus if resources is not None else 0)
    if resources is not None and max(config.concurrent, default=0) > most:
        problems.append(
            f"--slots {max(config.concurrent)}: at most {most} here, as many as there are CPU cores or GPUs"
        )
    if problems or resources is None or shape is None:
        raise UserError(*problems)
    return _settings(config, resources, shape, *find_lengths(config))


def find_shape(config: BenchConfig) -> dict[str, int]:
    """Returns the shape of the model that students are initialised from, under the names of `BertConfig`.

    Raises:
        UserError: When the flags do not describe one.
    """
    if config.teacher is not None:
        if config.layers or config.width:
            raise UserError("--teacher has its own shape; leave out --layers and --width")
        folder = find_pretrained(config.teacher, config.data_dir)
        if problems := encoder_problems(folder, "--teacher"):
            raise UserError(*problems)
        return sizes(folder)
    width = config.width or DEFAULT_WIDTH
    if width % 12 and width % 64:
        raise UserError(f"--width must be a multiple of 12 or of 64, but got {width}")
    return BERT_BASE | {
        "num_hidden_layers": config.layers or DEFAULT_LAYERS,
        "hidden_size": width,
        "num_attention_heads": 12 if width % 12 == 0 else width // 64,
        "intermediate_size": 4 * width,
    }


def find_lengths(config: BenchConfig) -> tuple[str, NDArray[np.int64], NDArray[np.int64]]:
    """Returns the task's name, and the length in tokens of every example of its training split and of all dev splits.

    Raises:
        UserError: When the task's data or a tokenizer for it is missing.
    """
    if config.task is None:
        percentiles = np.linspace(0, 1, len(MRPC_LENGTHS))
        train, dev = (
            np.rint(np.interp((np.arange(n) + 0.5) / n, percentiles, MRPC_LENGTHS)).astype(np.int64)
            for n in MRPC_EXAMPLES
        )
        return "MRPC", np.minimum(train, config.max_length), np.minimum(dev, config.max_length)
    task = find_trainable(config.task)
    if config.teacher is None:
        raise UserError("--task needs --teacher, whose tokenizer determines the lengths of examples")
    if problems := check_source(task, config.data_dir):
        raise UserError(*problems)
    folder = find_pretrained(config.teacher, config.data_dir)
    splits = load_features(task, config.data_dir, folder, config.max_length)
    return task.name, splits["train"].lengths, np.concatenate([splits[name].lengths for name in task.dev_splits])


def _settings(
    config: BenchConfig,
    resources: Resources,
    shape: dict[str, int],
    task: str,
    train_lengths: NDArray[np.int64],
    dev_lengths: NDArray[np.int64],
) -> BenchSettings:
    layers = shape["num_hidden_layers"]
    steps = config.steps or STEPS[resources.device]
    sharing = min(TRIALS_PER_GPU * resources.gpus, usable_cores())
    most = min(MAX_TRIALS, max(resources.count, sharing))
    base = Workload(
        kind="pkd",
        precision="bf16" if config.precision != "fp32" and has_bf16(resources.device) else "fp32",
        device=resources.device,
        gpu=0,
        threads=config.threads or usable_cores(),
        model={name: number for name, number in shape.items() if name != "num_hidden_layers"},
        depth=layers,
        lengths=_sample(train_lengths, steps * config.batch_size),
        dev_lengths=dev_lengths.tolist(),
        batch_size=config.batch_size,
        max_length=config.max_length,
        repeats=config.repeats,
    )
    return BenchSettings(
        base=base,
        depths=config.depths or tuple(sorted({max(1, layers // 2), layers})),
        concurrent=config.concurrent or tuple(2**i for i in range(most.bit_length())),
        gpus=resources.gpus,
        data=f"lengths of {task}",
        families=tuple(FAMILIES) if config.families == ("all",) else config.families,
    )


def _sample(lengths: NDArray[np.int64], count: int) -> list[int]:
    """Returns `count` evenly spaced quantiles of the given lengths."""
    places = ((np.arange(count) + 0.5) / count * len(lengths)).astype(int)
    sampled: list[int] = np.sort(lengths)[places].tolist()
    return sampled
