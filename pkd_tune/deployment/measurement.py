"""Score, size and latency of a model, measured on the files of its folder."""

import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from pkd_tune.config import Task
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.metrics import predictions, score
from pkd_tune.deployment.formats import FORMATS, PYTORCH, load
from pkd_tune.encoders.folder import class_order, weight_bytes
from pkd_tune.reporting.formatting import plural

LATENCY_EXAMPLES = 50
"""Number of single examples that are timed for a latency."""
BATCH = 32
"""Examples in a batch: of scoring, and of the batches that are timed for a throughput."""
TIMED_BATCHES = 10
"""Number of batches that are timed for a throughput."""

_STARTING = threading.Lock()

Params = ParamSpec("Params")
Result = TypeVar("Result")


def in_fresh_process(function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs) -> Result:
    """Calls a function in a new interpreter, without any state of this one, and returns its result."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return submit_alone(pool, function, *args, **kwargs).result()


def submit_alone(
    pool: Executor, function: Callable[Params, Result], *args: Params.args, **kwargs: Params.kwargs
) -> Future[Result]:
    """Submits a call to a pool that has no process yet, whose process does not import the program that is running.

    It would otherwise, as `__mp_main__`, and a script that calls the Python API would begin once more in the process,
    unless it is guarded by `if __name__ == "__main__"`.
    """
    with _STARTING:
        program = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return pool.submit(function, *args, **kwargs)
        finally:
            sys.modules["__main__"] = program


def measure(
    folder: Path, dev: Mapping[str, RawSplit], task: Task, max_length: int, format_name: str = PYTORCH
) -> dict[str, Any]:
    """Loads a model with plain `transformers` or `onnxruntime` on the CPU, and scores it on the dev splits.

    Args:
        folder: Folder of the model.
        dev: The dev splits of the task by name.
        task: The task of the model.
        max_length: Maximum length in tokens.
        format_name: The format to load, of `formats.FORMATS`.

    Returns:
        `metrics` (× 100, as `data.metrics.score` returns them), `examples` (number of dev examples), `parameters`
        (number of weights), and `size_mb` (size of the format's file in MB, 10⁶ bytes).
    """
    return measured(folder, dev, task, predict(folder, dev, task, max_length, format_name), format_name)


def predict(
    folder: Path, dev: Mapping[str, RawSplit], task: Task, max_length: int, format_name: str = PYTORCH
) -> dict[str, npt.NDArray[np.generic]]:
    """Returns the predictions of a model for the dev splits; takes what `measure` takes."""
    model = load(folder, format_name, max_length)
    order = class_order(folder, task.labels)
    assert order is not None  # a classifier of other classes was refused
    predicted = {}
    for name, split in dev.items():
        batches = [model.encode(split, slice(start, start + BATCH)) for start in range(0, len(split), BATCH)]
        predicted[name] = predictions(task, np.concatenate([model.logits(batch) for batch in batches])[:, list(order)])
    return predicted


def measured(
    folder: Path,
    dev: Mapping[str, RawSplit],
    task: Task,
    predicted: Mapping[str, npt.NDArray[np.generic]],
    format_name: str = PYTORCH,
) -> dict[str, Any]:
    """Returns what `measure` returns for a model whose predictions are known."""
    file = folder / FORMATS[format_name].file
    size = weight_bytes(folder) if format_name == PYTORCH else file.stat().st_size
    return {
        "metrics": score(task, predicted, {name: split.labels for name, split in dev.items()}),
        "examples": sum(map(len, dev.values())),
        "parameters": _parameters(folder),
        "size_mb": size / 1e6,
    }


def latencies_ms(models: Sequence[tuple[Path, str]], split: RawSplit, max_length: int) -> list[float]:
    """Returns the latency of each model in ms: the median time of a forward pass for a single example on the CPU.

    Tokenization is not included. The measurements of the models are interleaved, example by example, so that other
    load on the machine affects all alike.

    Args:
        models: Folder and format of each model.
        split: Its first `LATENCY_EXAMPLES` examples are timed.
        max_length: Maximum length in tokens.
    """
    loaded = [load(folder, format_name, max_length) for folder, format_name in models]
    seconds: list[list[float]] = [[] for _ in loaded]
    for i in range(min(LATENCY_EXAMPLES, len(split))):
        for model, times in zip(loaded, seconds, strict=True):
            single = model.encode(split, slice(i, i + 1))
            model.logits(single)  # warms up the processor caches with the model's weights
            started = time.perf_counter()
            model.logits(single)
            times.append(time.perf_counter() - started)
    return [1000 * statistics.median(times) for times in seconds]


def throughputs(models: Sequence[tuple[Path, str]], split: RawSplit, max_length: int) -> list[float]:
    """Returns how many examples each model processes in a second on the CPU, in batches of `BATCH`: from the median
    time of a batch.

    Tokenization is not included. The measurements of the models are interleaved, as those of `latencies_ms`.

    Args:
        models: Folder and format of each model.
        split: Its first `TIMED_BATCHES` batches are timed; a smaller split has one, smaller batch.
        max_length: Maximum length in tokens.
    """
    loaded = [load(folder, format_name, max_length) for folder, format_name in models]
    rates: list[list[float]] = [[] for _ in loaded]
    for number in range(max(1, min(TIMED_BATCHES, len(split) // BATCH))):
        rows = slice(number * BATCH, (number + 1) * BATCH)
        for model, of_model in zip(loaded, rates, strict=True):
            batch = model.encode(split, rows)
            model.logits(batch)
            started = time.perf_counter()
            model.logits(batch)
            of_model.append(min(BATCH, len(split)) / (time.perf_counter() - started))
    return [statistics.median(of_model) for of_model in rates]


def latency_machine() -> str:
    """Returns the device on which `latencies_ms` measures: `2 CPU threads (x86_64)`."""
    return f"{plural(torch.get_num_threads(), 'CPU thread')} ({platform.machine()})"


def _parameters(folder: Path) -> int:
    """Returns the number of weights of a model, from its configuration alone."""
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder))
    return sum(parameter.numel() for parameter in model.parameters())
