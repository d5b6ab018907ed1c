"""Score, size and latency of a model, measured on what lies in its folder."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch

from pkd_tune.data.metrics import predictions, score
from pkd_tune.data.task import Task
from pkd_tune.data.tsv import RawSplit
from pkd_tune.deployment.formats import FORMATS, PYTORCH, load
from pkd_tune.reporting.formatting import plural

LATENCY_EXAMPLES = 50
"""Single examples timed for a latency."""

P = ParamSpec("P")
T = TypeVar("T")


def in_fresh_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Returns what a function returns in an interpreter started for it, which has nothing of this one's state."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


def measure(
    folder: Path, dev: Mapping[str, RawSplit], task: Task, max_length: int, format_name: str = PYTORCH
) -> dict[str, Any]:
    """Loads a model as any user of `transformers` or `onnxruntime` would, on the CPU, and scores it.

    Args:
        folder: A classifier's folder.
        dev: The task's dev splits by name.
        task: Says how to score.
        max_length: Longest example in word pieces.
        form: What is loaded.

    Returns:
        `metrics` (times 100), `parameters`, and `size_mb` of the form's file.
    """
    model = load(folder, format_name, max_length)
    predicted = {}
    for name, split in dev.items():
        batches = [model.encode(split, slice(start, start + 32)) for start in range(0, len(split), 32)]
        predicted[name] = predictions(task, np.concatenate([model.logits(batch) for batch in batches]))
    return {
        "metrics": score(task, predicted, {name: split.labels for name, split in dev.items()}),
        "parameters": _parameters(folder),
        "size_mb": (folder / FORMATS[format_name].file).stat().st_size / 1e6,
    }


def latencies_ms(models: Sequence[tuple[Path, str]], split: RawSplit, max_length: int) -> list[float]:
    """Returns each model's median time for a single example on the CPU, tokenising left out.

    The models take turns at every example, so that whatever else the machine does strikes them alike.

    Args:
        models: Folder and form of each.
        split: Its first `LATENCY_EXAMPLES` examples are timed.
        max_length: Longest example in word pieces.
    """
    loaded = [load(folder, format_name, max_length) for folder, format_name in models]
    seconds: list[list[float]] = [[] for _ in loaded]
    for i in range(min(LATENCY_EXAMPLES, len(split))):
        for model, times in zip(loaded, seconds, strict=True):
            single = model.encode(split, slice(i, i + 1))
            model.logits(single)  # brings the model's weights back into the processor's caches
            started = time.perf_counter()
            model.logits(single)
            times.append(time.perf_counter() - started)
    return [1000 * statistics.median(times) for times in seconds]


def latency_machine() -> str:
    """Returns on what latencies are measured."""
    return f"{plural(torch.get_num_threads(), 'thread')} of {platform.machine()}"


def _parameters(folder: Path) -> int:
    """Returns how many weights a model has, from its configuration alone."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    return sum(parameter.numel() for parameter in model.parameters())
