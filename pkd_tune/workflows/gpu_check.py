"""What is found out about a GPU before any trial runs on it, each in a process of its own: whether captured steps equal
eager ones, and how much memory a trial takes.

A capture that fails leaves CUDA unusable in its process, and a process that trained keeps memory of the GPU.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import torch

from pkd_tune.config import DistillConfig, Method, SearchConfig, Strategy
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split, take, used_tokens
from pkd_tune.deployment.measurement import submit_alone
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.loop import Evaluation, fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.student import ModelPool, training_split
from pkd_tune.distillation.teacher import finetuned_cache, finetuned_folder, is_finetuned
from pkd_tune.distillation.train_step import Capture, Graphs, TrainStep, graphs_of_a_training, stream_graphs
from pkd_tune.encoders.folder import family_of, has_classifier, layer_count
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.limits import free_memory
from pkd_tune.workflows.timing import first_examples, remove_dropout, train_student

log = logging.getLogger(__name__)

T = TypeVar("T")

LIMIT_SECONDS = 600.0
"""A check that takes longer than this hangs: its process is ended."""

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


def may_capture(config: SearchConfig, *, asked: bool, device: str, layers: int | None = None) -> bool:
    """Returns whether a command captures its training steps on a GPU; where a check finds a reason not to, logs it.

    Args:
        config: Says what is trained, as for a search.
        asked: Whether they should be captured where they can be.
        device: `cuda` or `cpu`.
        layers: Layers of the model that is fine-tuned; None: all of the teacher's, where it is to be fine-tuned.
    """
    if not asked or device != "cuda":
        return False
    why = why_not_captured(config, layers)
    if why is not None:
        warn_of_eager_steps(why)
    return why is None


def warn_of_eager_steps(why: str) -> None:
    """Says that training steps are not captured, and why."""
    log.warning("training steps are not captured as CUDA graphs, which is slower: %s", why)


def why_not_captured(config: SearchConfig, layers: int | None = None, gpu: int = 0) -> str | None:
    """Returns why training steps should not be captured as CUDA graphs on a GPU of this machine; None: they can be.

    In a process of its own, each depth and structure of the loss takes a few captured steps and the same eager ones.

    Args:
        config: Of the search.
        layers: As in `may_capture()`.
        gpu: Its number.
    """
    try:
        why: str | None = in_own_process(on_gpu, gpu, compare_on_gpu, config, layers)
        return why
    except Exception as error:  # whatever goes wrong there, eager steps do without it
        return failure_text(error)


def failure_text(error: Exception) -> str:
    """Returns in one line why a check failed."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def compare_on_gpu(config: SearchConfig, layers: int | None = None) -> str | None:
    """Does what `why_not_captured()` describes, in this process."""
    device = torch.device("cuda")
    graphs = stream_graphs(device)
    assert graphs is not None
    why = unequal_steps(config, _splits(config, config.data.student_dir), device, graphs.capture)
    if why is None and (layers is not None or not has_classifier(config.data.teacher_dir)):
        why = unequal_finetuning(config, layers or layer_count(config.data.teacher_dir), device, graphs.capture)
    return why


def unequal_steps(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, capture: Capture
) -> str | None:
    """Returns how captured steps of students differ from the same eager ones; None: they do not.

    Args:
        config: Of the search.
        splits: Of the task.
        device: Where both are done, without dropout.
        capture: How steps are captured.
    """
    examples = COMPARED_STEPS * config.student_training.batch_size
    taught = _with_texts(config, splits)
    for depth in config.depths:
        for loss in structures([stage.method for stage in config.stages], depth):
            own = taught if loss.alpha or loss.beta else splits  # the labels alone, without a teacher
            part = _longest(own["train"], examples)
            captured, eager = (_steps(config, taught, part, loss, device, how) for how in (capture, _eager))
            if (found := _difference(captured, eager)) is not None:
                return found.format(f"a student of {plural(depth, 'layer')}")
    return None


def unequal_finetuning(config: SearchConfig, layers: int, device: torch.device, capture: Capture) -> str | None:
    """Returns how captured steps of the model that is fine-tuned differ from eager ones; None: they do not.

    A model that was fine-tuned before, and is not trained again, is not compared.

    Args:
        config: Of the search; the model is the teacher's.
        layers: Number of its first layers.
        device: Where both are done, without dropout.
        capture: How steps are captured.
    """
    data, trainings = config.data, config.teacher_trainings
    splits = _splits(config, data.teacher_dir)
    cache = finetuned_cache(data)
    if is_finetuned(finetuned_folder(data.task, splits, data.teacher_dir, layers, cache, trainings, data.max_length)):
        return None
    captured, eager = (_finetuning_steps(config, splits, layers, device, how) for how in (capture, _eager))
    found = _difference(captured, eager)
    return None if found is None else found.format(f"the fine-tuning of {plural(layers, 'layer')}")


def _eager(work: Callable[[], None]) -> Callable[[], None]:
    """Captures nothing: every step is done again."""
    return work


def _difference(captured: list[dict[str, float]], eager: list[dict[str, float]]) -> str | None:
    """Returns where two trainings differ, with a place for what was trained; None: nowhere."""
    for number, (one, other) in enumerate(zip(captured, eager, strict=True), start=1):
        for name, value in one.items():
            if not abs(value - other[name]) <= TOLERANCE * max(abs(value), abs(other[name])):
                return f"{name} of step {number} of {{}} is {value:.4g} captured and {other[name]:.4g} eager"
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


def measure_trial(config: SearchConfig, *, captured: bool, gpu: int = 0) -> TrialMemory:
    """Returns what a trial's process takes, measured in one on a GPU of this machine.

    Args:
        config: Of the search.
        captured: Whether training steps are captured.
        gpu: Number of the GPU.
    """
    memory: TrialMemory = in_own_process(on_gpu, gpu, measure_on_gpu, config, captured)
    return memory


def measure_on_gpu(config: SearchConfig, captured: bool) -> TrialMemory:
    """Does what `measure_trial()` describes, in this process.

    The GPU's own figure is used: graphs lie outside torch's allocator.
    """
    device = torch.device("cuda")
    splits = _with_texts(config, _splits(config, config.data.student_dir))
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
    """Trains students of all depths, with all structures of the loss, as a trial's process does in time, with as much
    memory as any training may take.

    All batches are as long as the longest example. Of two whole ones the second captures a step for every length of the
    split, the longest first. A smaller one is done eagerly; the second time round that happens beside the graphs of all
    depths and structures.

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
    methods = [stage.method for stage in config.stages]
    losses = [loss for depth in config.depths for loss in structures(methods, depth)]
    data = config.data
    if data.student_dir == data.teacher_dir and "layer_types" in family_of(data.student_dir).settings:
        # Students start from different layers of it, and a process keeps a model for each kind of them.
        losses += [replace(loss, init="teacher-skip") for loss in losses]
    for loss in 2 * losses:
        train_student(config, splits, part, loss, device, model_pool)


def on_gpu(number: int, work: Callable[..., T], *arguments: object) -> T:
    """Returns what a function returns for which `cuda` is the GPU with this number."""
    with torch.cuda.device(number):
        return work(*arguments)


def in_own_process(work: Callable[..., T], *arguments: object, limit: float = LIMIT_SECONDS) -> T:
    """Returns what a function of a module returns in a new process.

    Raises:
        TimeoutError: When that takes more than `limit` seconds; the process is ended.
        BrokenProcessPool: When that process dies.
        Exception: What the function raises.
    """
    started = time.monotonic()
    try:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return submit_alone(pool, within_limit, limit, work, *arguments).result()
    except BrokenProcessPool as error:
        if time.monotonic() - started < limit:
            raise
        raise TimeoutError(f"nothing was found out in {limit:g} seconds") from error


def within_limit(limit: float, work: Callable[..., T], *arguments: object) -> T:
    """Returns what a function returns; ends this process after `limit` seconds, even while it hangs in native code."""
    with open(os.devnull, "w") as nowhere:  # the place where it hangs would be many lines
        faulthandler.dump_traceback_later(limit, exit=True, file=nowhere)
        try:
            return work(*arguments)
        finally:
            faulthandler.cancel_dump_traceback_later()


def _loss(depth: int, **changes: Any) -> DistillConfig:
    pkd = DistillConfig(student_layers=depth, alpha=0.5, beta=100.0, temperature=10.0, strategy="skip", normalize=True)
    return replace(pkd, **changes)


def _splits(config: SearchConfig, model_dir: Path) -> dict[str, Split]:
    """Returns the splits of the search, tokenised as a model does."""
    task, data = config.data.task, config.data
    features = load_features(task, data.data_dir, model_dir, data.max_length)
    return dict(selection_splits(task, features, data.select_on))


def _with_texts(config: SearchConfig, splits: Mapping[str, Split]) -> dict[str, Split]:
    """Returns the splits with the texts without labels, on which students are distilled too."""
    return {**splits, "train": training_split(config.data, splits["train"], config.data.student_dir)}


def _longest(split: Split, examples: int) -> Split:
    """Returns a part of a split, of its longest examples, with some twice where it has too few."""
    longest = np.argsort(-split.lengths, kind="stable")
    return take(split, split.name, np.resize(longest[:examples], examples))


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
    graphs = Graphs(capture)
    try:
        train_student(
            replace(config, student_training=replace(config.student_training, evaluations_per_epoch=COMPARED_STEPS)),
            splits,
            part,
            loss,
            device,
            ModelPool(graphs=graphs),
            report=_noting(seen),
            dropout=False,
        )
    finally:
        graphs.clear()
    return seen


def _finetuning_steps(
    config: SearchConfig, splits: Mapping[str, Split], layers: int, device: torch.device, capture: Capture
) -> list[dict[str, float]]:
    """Returns the losses and the gradient norm of each step of a fine-tuning without dropout."""
    task, training = config.data.task, config.teacher_trainings[0]
    whole = load_classifier(config.data.teacher_dir, task.labels, seed=training.seed)
    remove_dropout(whole)
    model = cut_to_layers(whole, range(1, layers + 1)).to(device)
    tokens = used_tokens([splits["train"], *(splits[name] for name in task.dev_splits)])
    part = _longest(splits["train"], COMPARED_STEPS * training.batch_size)
    dev = {name: first_examples(splits[name], task.outputs) for name in task.dev_splits}
    seen: list[dict[str, float]] = []
    graphs = Graphs(capture)
    try:
        fit(
            TrainStep(model, tokens=tokens, graphs=graphs),
            Loss(),
            open_source(part, model),
            dev,
            task,
            replace(training, epochs=1, evaluations_per_epoch=COMPARED_STEPS),
            _noting(seen),
        )
    finally:
        graphs.clear()
    return seen


def _noting(seen: list[dict[str, float]]) -> Callable[[Evaluation], None]:
    """Returns what notes the losses and the gradient norm of every evaluation."""

    def note(evaluation: Evaluation) -> None:
        seen.append({**{f"loss {name}": x for name, x in evaluation.losses.items()}, "norm": evaluation.gradient_norm})

    return note
