"""What is found out about a GPU before any trial runs on it, each in a process of its own: whether captured steps equal
eager ones, and how much memory a trial takes.

A capture that fails leaves CUDA unusable in its process, and a process that trained keeps memory of the GPU.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from pkd_tune.config import DistillConfig, Method, SearchConfig, Strategy
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split, take
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.train_step import Capture, Graphs, graphs_of_a_training, stream_graphs
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.limits import free_memory
from pkd_tune.workflows.timing import train_student

T = TypeVar("T")

COMPARED_STEPS = 4
"""Of these, the first is eager in any case, the second captures, and all later ones are replays."""

TOLERANCE = 0.02
"""Relative difference of a loss or gradient norm above which captured steps are not the eager ones: bf16 has 8 bits,
and sums on a GPU depend on the order of its threads."""

CONTEXT_BYTES = 600_000_000
"""What a process holds on a GPU beside its tensors and graphs."""


@dataclass(frozen=True, slots=True)
class TrialMemory:
    """What a trial's process takes, and what is free for all."""

    gpu: int
    """Bytes on its GPU, besides the examples and the teacher's outputs."""
    host: int
    """Bytes of the machine's memory that it shares with no other process."""
    gpu_free: int
    """Bytes of the GPU that no other program uses."""
    host_free: int
    """Bytes of the machine's memory that no other program uses."""


def why_not_captured(config: SearchConfig) -> str | None:
    """Returns why training steps should not be captured as CUDA graphs on this machine's GPU; None: they can be.

    In a process of its own, each depth and structure of the loss takes a few captured steps and the same eager ones.

    Args:
        config: Of the search.
    """
    try:
        return in_own_process(compare_on_gpu, config)
    except Exception as error:  # whatever goes wrong there, eager steps do without it
        return failure_text(error)


def failure_text(error: Exception) -> str:
    """Returns in one line why a check failed."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def compare_on_gpu(config: SearchConfig) -> str | None:
    """Does what `why_not_captured()` describes, in this process."""
    device = torch.device("cuda")
    graphs = stream_graphs(device)
    assert graphs is not None
    return unequal_steps(config, _splits(config), device, graphs.capture)


def unequal_steps(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, capture: Capture
) -> str | None:
    """Returns how captured steps differ from the same eager ones; None: they do not.

    Args:
        config: Of the search.
        splits: Of the task.
        device: Where both are done, without dropout.
        capture: How steps are captured.
    """
    longest = np.argsort(-splits["train"].lengths, kind="stable")
    size = COMPARED_STEPS * config.student_training.batch_size
    part = take(splits["train"], "train", np.resize(longest[:size], size))
    for depth in config.depths:
        for loss in structures([stage.method for stage in config.stages], depth):
            captured, eager = (_steps(config, splits, part, loss, device, how) for how in (capture, lambda work: work))
            for number, (one, other) in enumerate(zip(captured, eager, strict=True), start=1):
                for name, value in one.items():
                    if not abs(value - other[name]) <= TOLERANCE * max(abs(value), abs(other[name])):
                        what = f"{name} of step {number} of a student of {plural(depth, 'layer')}"
                        return f"{what} is {value:.4g} captured and {other[name]:.4g} eager"
    return None


def structures(methods: Sequence[Method], depth: int) -> list[DistillConfig]:
    """Returns a student's configuration for each structure of the loss that trials of these methods may have."""
    found = []
    for method in dict.fromkeys(methods):
        if method in ("kd", "finetuned"):
            found.append(_loss(depth, alpha=0.5 if method == "kd" else 0.0, beta=0.0))
            continue
        both: tuple[Strategy, ...] = ("skip", "last")
        for strategy in both if method == "pkd" else (s for s in both if method.endswith(s)):
            found += [_loss(depth, strategy=strategy, normalize=normalize) for normalize in (True, False)]
    return found


def measure_trial(config: SearchConfig, *, captured: bool) -> TrialMemory:
    """Returns what a trial's process takes, measured in one on this machine's GPU.

    Args:
        config: Of the search.
        captured: Whether training steps are captured.
    """
    return in_own_process(measure_on_gpu, config, captured)


def measure_on_gpu(config: SearchConfig, captured: bool) -> TrialMemory:
    """Does what `measure_trial()` describes, in this process.

    The GPU's own figure is used: graphs lie outside torch's allocator.
    """
    device = torch.device("cuda")
    splits = _splits(config)
    torch.zeros((), device=device)  # makes this process's context, which is no trial's
    before, _ = torch.cuda.mem_get_info(device)
    with graphs_of_a_training(device, captured=captured) as graphs:
        train_as_a_trial(config, splits, device, ModelPool(graphs=graphs))
        torch.cuda.synchronize(device)
        after, _ = torch.cuda.mem_get_info(device)
    host = psutil.Process().memory_full_info().uss
    return TrialMemory(
        gpu=max(0, before - after) + CONTEXT_BYTES, host=host, gpu_free=before, host_free=free_memory() + host
    )


def train_as_a_trial(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, model_pool: ModelPool
) -> None:
    """Trains students of all depths as a trial's process does in time, with as much memory as any training may take.

    All batches are as long as the longest example. Of two whole ones the second captures a step for every length of the
    split, the longest first. A smaller one is done eagerly; the second time round that happens beside the graphs of all
    depths.

    Args:
        config: Of the search.
        splits: Of the task.
        device: Where it is done.
        model_pool: Keeps a model of each depth, as that of a trial's process does.
    """
    lengths, size = splits["train"].lengths, config.student_training.batch_size
    ids = np.full(3 * size - 1, lengths.argmax())
    if size > 1:
        ids[0] = lengths.argmin()  # in a batch with longer ones
    part = take(splits["train"], "train", ids)
    for depth in 2 * config.depths:
        train_student(config, splits, part, _loss(depth), device, model_pool)


def in_own_process(work: Callable[..., T], *arguments: object) -> T:
    """Returns what a function of a module returns in a new process.

    Raises:
        BrokenProcessPool: When that process dies.
        Exception: What the function raises.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def _loss(depth: int, **changes: Any) -> DistillConfig:
    pkd = DistillConfig(student_layers=depth, alpha=0.5, beta=100.0, temperature=10.0, strategy="skip", normalize=True)
    return replace(pkd, **changes)


def _splits(config: SearchConfig) -> dict[str, Split]:
    task, data = config.data.task, config.data
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    return dict(selection_splits(task, features, data.select_on))


def _steps(
    config: SearchConfig,
    splits: Mapping[str, Split],
    part: Split,
    loss: DistillConfig,
    device: torch.device,
    capture: Capture,
) -> list[dict[str, float]]:
    """Returns the losses and the gradient norm of each step of a student without dropout."""
    seen: list[dict[str, float]] = []

    def note(evaluation: Evaluation) -> None:
        seen.append({**{f"loss {name}": x for name, x in evaluation.losses.items()}, "norm": evaluation.gradient_norm})

    graphs = Graphs(capture)
    try:
        train_student(
            replace(config, student_training=replace(config.student_training, evaluations_per_epoch=COMPARED_STEPS)),
            splits,
            part,
            loss,
            device,
            ModelPool(graphs=graphs),
            report=note,
            dropout=False,
        )
    finally:
        graphs.clear()
    return seen
