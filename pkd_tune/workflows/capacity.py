"""What this machine has room for: trials at once, by its memory and cores, and their files, by its disks."""

import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import torch

from pkd_tune.config import SearchConfig, UserError
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split, take
from pkd_tune.distillation.batch_source import may_be_resident, resident_bytes
from pkd_tune.distillation.memory import release_memory
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import CPU_TOKENS, graphs_of_a_training
from pkd_tune.encoders.folder import sizes
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning.plan import StudyPlan
from pkd_tune.tuning.resources import Resources, share_cores
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.timing import train_student

log = logging.getLogger(__name__)

USED_SHARE = 0.9
"""Share of what is free of memory, a GPU's or the machine's, that trials may fill."""
CONTEXT_BYTES = 600_000_000
"""What a process holds on a GPU beside its tensors."""
MOST_PER_GPU = 4
"""Trials that share a GPU at most: more only take each other's time."""

CONTAINER_GROUPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory"))
"""Folders in which control groups, version 2 and 1, say what memory this container may use, and uses."""
SEARCH_BYTES = 1_500_000_000
"""What the search itself takes beside its trials: its own process, and Ray's."""
PROCESS_BYTES = 700_000_000
"""What a process holds on a CPU beside models and activations: libraries, and gaps between blocks of memory."""
ACTIVATIONS = 32
"""Numbers that a layer keeps for its backward pass, for each token and unit of its width."""


def fitting(request: SearchRequest, resources: Resources, plans: Sequence[StudyPlan]) -> Resources:
    """Returns the slots that a search uses of those it was given.

    On a CPU: one for each core, unless there are fewer trials, or less memory. On GPUs: as many trials share one as it
    has room for, unless that was asked for; a machine without a GPU, such as a cluster's head node, cannot measure
    that, so that there each has a GPU of its own.

    Args:
        request: Says what is trained.
        slots: Of this machine, or of a cluster.
        plans: Of its studies.
    """
    if resources.device == "cpu":
        if request.options.address is not None:
            return resources
        trials = max(sum(plan.quota for plan in plans), request.config.seeds * len(plans))
        fitted = share_cores(resources, trials, cpu_bytes(request.config), free_bytes())
        if fitted.count < min(resources.count, trials):
            log.info("note: memory has room for %s at once", plural(fitted.count, "trial"))
        return fitted
    if request.options.trials_per_gpu is not None:
        return resources
    if not torch.cuda.is_available():
        log.info("note: no GPU here to measure on, so each trial has a GPU of its own; --trials-per-gpu changes that")
        return resources
    config, task = request.config, request.config.data.task
    features = load_features(task, config.data.data_dir, config.data.student_dir, config.data.max_length)
    splits = selection_splits(task, features, config.data.select_on)
    cores = len(os.sched_getaffinity(0)) // torch.cuda.device_count()
    share = measured_per_gpu(config, splits, cores)
    return replace(resources, trials_per_gpu=share)


def cpu_bytes(config: SearchConfig) -> int:
    """Returns about how many bytes a trial takes on a CPU: of the model that students are cut from, its weights; of the
    deepest student, weights, gradients, two moments and the best weights; and activations.

    Measured: at most 1.3 GB for 3 layers of a BERT of 6 that is 384 wide, and 1.4 GB for all 6; this says 1.3 and 1.5.
    """
    shape = sizes(config.data.student_dir)
    width, layers, depth = shape["hidden_size"], shape["num_hidden_layers"], max(config.depths)
    embeddings = (shape["vocab_size"] + shape["max_position_embeddings"]) * width
    layer = 4 * width**2 + 2 * width * shape["intermediate_size"]
    weights = 4 * (embeddings + layers * layer)
    of_student = 5 * 4 * (embeddings + depth * layer)
    return int(PROCESS_BYTES + weights + of_student + 4 * ACTIVATIONS * depth * CPU_TOKENS * width)


def free_bytes(groups: Sequence[Path] = CONTAINER_GROUPS) -> int:
    """Returns the bytes of memory that trials may fill: a share of what no other program uses, and of what is left to
    this container, without what the search takes itself.

    Args:
        groups: Folders of control groups; one that is not there, or sets no limit, is passed over.
    """
    left = [found for group in groups if (found := container_bytes(group)) is not None]
    return int(USED_SHARE * min([psutil.virtual_memory().available, *left])) - SEARCH_BYTES


def container_bytes(group: Path) -> int | None:
    """Returns the bytes of memory that a control group has left; None where it sets no limit.

    What it holds of files counts as left: the system gives that up when it is asked for memory.

    Args:
        group: Its folder, in the words of version 2 (`memory.max`) or 1 (`memory.limit_in_bytes`).
    """
    for limit, used, total in (
        ("memory.max", "memory.current", ""),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        if (group / limit).exists() and (allowed := (group / limit).read_text().strip()).isdigit():
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            files = int(held[f"{total}active_file"]) + int(held[f"{total}inactive_file"])
            return int(allowed) - int((group / used).read_text()) + files
    return None


def concurrency_text(resources: Resources) -> str:
    """Returns how many trials run at once, in words."""
    cores = f", {resources.threads} cores each" if resources.threads > 1 else ""
    return f"{plural(resources.count, 'trial')} at once on {resources.device}{cores}"


def measured_per_gpu(config: SearchConfig, splits: Mapping[str, Split], cores: int) -> int:
    """Returns how many trials a GPU has room for, from the memory of students of all depths on the longest examples.

    Args:
        config: Of the search.
        splits: Of the task.
        cores: CPU cores for each GPU; a trial needs one.
    """
    device = torch.device("cuda")
    release_memory()
    torch.cuda.reset_peak_memory_stats(device)
    with graphs_of_a_training(device) as graphs:
        train_as_a_trial(config, splits, device, ModelPool(graphs=graphs))
    peak = torch.cuda.max_memory_reserved(device)
    release_memory()
    free, _ = torch.cuda.mem_get_info(device)  # without what other programs use, and this one's own context
    data = resident_bytes(splits["train"], outputs_to_come(config, len(splits["train"])))
    return per_gpu(free, peak, data, cores)


def train_as_a_trial(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, model_pool: ModelPool
) -> None:
    """Trains students of all depths as a trial's process does in time, with as much memory as any training may take.

    All examples are the longest one: of two whole batches of one length, the second is captured. A smaller one is done
    eagerly; the second time round that happens beside the graphs of all depths.

    Args:
        config: Of the search.
        splits: Of the task.
        device: Where it is done.
        model pool: Keeps a model of each depth, as that of a trial's process does.
    """
    longest = int(splits["train"].lengths.argmax())
    part = take(splits["train"], "train", np.full(3 * config.student_training.batch_size - 1, longest))
    for depth in 2 * config.depths:
        train_student(config, splits, part, depth, device, model_pool)


def outputs_to_come(config: SearchConfig, examples: int) -> TeacherOutputs:
    """Returns tensors like what the teacher will say of so many examples, which have shapes but take no memory."""
    shape = sizes(config.data.teacher_dir)
    layers, width = shape["num_hidden_layers"], shape["hidden_size"]
    with torch.device("meta"):
        return TeacherOutputs(
            logits_NC=torch.empty(examples, config.data.task.outputs),
            cls_NLH=torch.empty(examples, layers, width, dtype=torch.float16),
            row_of_example_N=torch.empty(examples, dtype=torch.int64),
        )


def per_gpu(free: int, peak: int, data: int, cores: int) -> int:
    """Returns how many trials fit on a GPU, each with its own CUDA context, at least 1.

    Args:
        free: Bytes of its memory that no other program uses.
        peak: What one trial takes of it, besides examples and the teacher's outputs.
        data: What these take, in trials few enough to keep them there.
        cores: CPU cores for each GPU.
    """
    return max(
        (
            trials
            for trials in range(1, min(cores, MOST_PER_GPU) + 1)
            if trials * (peak + CONTEXT_BYTES + data * may_be_resident(data, free, trials)) <= USED_SHARE * free
        ),
        default=1,
    )


def check_disk(totals: Mapping[Path, int]) -> None:
    """Refuses to begin where the files of a run might not fit on their disks.

    What a continued run has already is not asked for again. Not counted are the teacher and its outputs, which are made
    before, below --data-dir, and a run's journal, events and reports.

    Args:
        totals: The most bytes that each folder will hold; it need not exist yet.

    Raises:
        UserError: With what is needed and what is free.
    """
    more = {folder: max(0, total - _held(folder)) for folder, total in totals.items()}
    for folder in totals:
        needed, free = sum(more[other] for other in totals if _disk(other) == _disk(folder)), _free(folder)
        if needed > free:
            raise UserError(
                f"{folder}: trials and students may need {needed / 1e9:.1f} GB more on its disk, and "
                f"{free / 1e9:.1f} GB are free; give --storage, or --out, on a larger disk"
            )


def _held(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
