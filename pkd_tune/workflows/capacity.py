"""What this machine has room for: trials at once, by its memory and cores, and their files, by its disks."""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from pkd_tune.config import SearchConfig, UserError
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import Split, used_tokens
from pkd_tune.distillation.batch_source import may_be_resident, resident_bytes
from pkd_tune.distillation.student import training_split
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import CPU_TOKENS
from pkd_tune.encoders.folder import sizes, weight_bytes
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning import cluster
from pkd_tune.tuning.jobs import Job, JobPlace, run_jobs
from pkd_tune.tuning.limits import free_memory, usable_cores
from pkd_tune.tuning.plan import StudyPlan
from pkd_tune.tuning.resources import Resources, gpu_names, share_cores, share_gpus
from pkd_tune.tuning.space import Parameters, inits, largest
from pkd_tune.workflows.gpu_check import (
    LIMIT_SECONDS,
    TrialMemory,
    compare_on_gpu,
    failure_text,
    measure_on_gpu,
    measure_trial,
    warn_of_eager_steps,
    why_not_captured,
    within_limit,
)
from pkd_tune.workflows.inputs import load_examples
from pkd_tune.workflows.request import SearchRequest

log = logging.getLogger(__name__)

T = TypeVar("T")

USED_FRACTION = 0.9
"""Share of what is free of memory, a GPU's or the machine's, that trials may fill."""
MAX_TRIALS_PER_GPU = 4
"""Trials that share a GPU at most: more only take each other's time."""

SEARCH_BYTES = 1_500_000_000
"""What the search itself takes beside its trials: its own process, and Ray's."""
PROCESS_BYTES = 1_000_000_000
"""What a process holds on a CPU beside models and activations: libraries, and gaps between blocks of memory."""
ACTIVATIONS = 32
"""Numbers that a layer keeps for its backward pass, for each token and unit of its width."""


def limit_concurrency(
    request: SearchRequest,
    resources: Resources,
    plans: Sequence[StudyPlan],
    work: list[dict[str, str]] | None = None,
) -> Resources:
    """Returns the resources that a search uses of those it was given, and whether its steps are captured.

    On a CPU: a concurrent trial for each core, unless there are fewer trials, or less memory. On GPUs: a trial on each;
    where there are more trials, as many share one as it has room for, or as was asked for. That is measured on one GPU
    of every kind, with the largest batches that a trial may have, and the smallest room decides; on a cluster, which
    this process is connected to, on a node with each kind.

    Args:
        request: Says what is trained.
        resources: Of this machine, or of a cluster.
        plans: Of its studies.
        work: Receives what nodes of a cluster did for it, as run.json has it.
    """
    trials = max(sum(plan.quota for plan in plans), request.config.seeds * len(plans))
    training = request.config.student_training
    training = replace(training, batch_size=largest(request.parameters, "batch_size", training.batch_size))
    request = replace(request, config=replace(request.config, student_training=training))
    if resources.device == "cuda":
        if request.options.address is not None:
            return _fitting_cluster(request, resources, trials, [] if work is None else work)
        return _fitting_gpus(request, resources, trials)
    if request.options.address is not None:
        return resources
    starts, free = start_models(request.parameters), free_bytes()
    fitted = share_cores(resources, trials, cpu_bytes(request.config, starts), free)
    if fitted.count < min(resources.count, trials):  # a closer look, for which the task's tokens are needed
        load_examples(request.config.data.task, request.config.data.data_dir, demo=request.options.demo)
        fitted = share_cores(resources, trials, cpu_bytes(request.config, starts, _tokens(request.config)), free)
    if fitted.count < min(resources.count, trials):
        log.info("note: memory has room for %s at once", plural(fitted.count, "trial"))
    return fitted


def _fitting_gpus(request: SearchRequest, resources: Resources, trials: int) -> Resources:
    config, asked = request.config, request.options.trials_per_gpu
    load_examples(config.data.task, config.data.data_dir, demo=request.options.demo)
    names = gpu_names()[: resources.gpus]
    one_of_kind = {name: names.index(name) for name in names}

    def compared(config: SearchConfig) -> str | None:
        return next(filter(None, (why_not_captured(config, gpu=gpu) for gpu in one_of_kind.values())), None)

    resources = replace(resources, eager=_reason_for_eager(request, compared))
    if asked is not None:
        return _with_requested_share(resources, trials, asked)
    captured = resources.eager is None
    try:
        memories = {name: measure_trial(config, captured=captured, gpu=gpu) for name, gpu in one_of_kind.items()}
    except Exception as error:
        return _unmeasured(resources, trials, error)
    of_host = max(1, free_bytes() // max(memory.host for memory in memories.values()))
    if of_host < resources.gpus:
        log.info("note: the machine's memory has room for %s at once", plural(of_host, "trial"))
        resources = replace(resources, gpus=of_host)
    cores = usable_cores() // resources.gpus
    room = _smallest({name: _trials_that_fit(request, memory, cores) for name, memory in memories.items()})
    return share_gpus(resources, trials, min(room, of_host // resources.gpus))


def _fitting_cluster(
    request: SearchRequest, resources: Resources, trials: int, work: list[dict[str, str]]
) -> Resources:
    """Returns the resources on GPUs of a cluster; a node of each kind of GPU is asked, which is added to `work`."""
    config, asked = request.config, request.options.trials_per_gpu
    load_examples(config.data.task, config.data.data_dir, demo=request.options.demo)
    load_features(config.data.task, config.data.data_dir, config.data.student_dir, config.data.max_length)
    nodes = [node for node in cluster.nodes() if node.gpus]
    one_of_kind = {node.kind: node for node in nodes}
    place = JobPlace(cores=1, gpus=1, at_once=len(one_of_kind))

    def on_each(name: str, function: Callable[..., T], *arguments: object) -> list[T]:
        limited = (LIMIT_SECONDS, function, *arguments)
        jobs = [Job(name=name, function=within_limit, arguments=limited, node=node.id) for node in one_of_kind.values()]
        done = run_jobs(jobs, place, restarts=0)
        work.extend({"job": name, "node": each.node} for each in done)
        return [each.result for each in done]

    def compared(config: SearchConfig) -> str | None:
        try:
            return next(filter(None, on_each("comparison of captured steps", compare_on_gpu, config)), None)
        except Exception as error:  # whatever goes wrong there, eager steps do without it
            return failure_text(error)

    resources = replace(resources, eager=_reason_for_eager(request, compared))
    if asked is not None:
        return _with_requested_share(resources, trials, asked)
    rooms = {}
    try:
        memories = on_each("memory of a trial", measure_on_gpu, config, resources.eager is None)
    except Exception as error:
        return _unmeasured(resources, trials, error)
    for kind, memory in zip(one_of_kind, memories, strict=True):
        alike = [node for node in nodes if node.kind == kind]
        of_host = int(USED_FRACTION * memory.host_free) // memory.host // one_of_kind[kind].gpus
        cores = min(node.cores // node.gpus for node in alike)
        rooms[kind] = max(1, min(_trials_that_fit(request, memory, cores), of_host))
    return share_gpus(resources, trials, _smallest(rooms))


def _unmeasured(resources: Resources, trials: int, error: Exception) -> Resources:
    """Returns a GPU for each trial where its memory could not be measured, as where other programs fill a GPU."""
    log.warning(
        "the memory of a trial could not be measured (%s): each trial has a GPU of its own; --trials-per-gpu says how "
        "many share one",
        failure_text(error),
    )
    return share_gpus(resources, trials, 1)


def _smallest(rooms: Mapping[str, int]) -> int:
    """Returns how many trials every GPU has room for, of each kind of them; says so where there are several kinds."""
    if len(rooms) > 1:
        text = ", ".join(f"{plural(room, 'trial')} on {kind or 'others'}" for kind, room in rooms.items())
        log.info("note: the GPUs differ, and have room for %s; the smallest decides for all", text)
    return min(rooms.values())


def _reason_for_eager(request: SearchRequest, check: Callable[[SearchConfig], str | None]) -> str | None:
    """Returns why training steps are not captured: that was asked for, or a check finds a reason; None: they are."""
    if not request.options.cuda_graphs:
        return "--no-cuda-graphs"
    if (why := check(request.config)) is not None:
        warn_of_eager_steps(why)
    return why


def _with_requested_share(resources: Resources, trials: int, asked: int) -> Resources:
    fitted = share_gpus(resources, trials, asked)
    if fitted.trials_per_gpu < asked:
        log.info("note: %s on %s: %s on each", trials, plural(resources.gpus, "GPU"), fitted.trials_per_gpu)
    return fitted


def _trials_that_fit(request: SearchRequest, memory: TrialMemory, cores: int) -> int:
    """Returns how many trials a GPU has room for, with so many CPU cores for each GPU."""
    config = request.config
    split = _training_split(config)
    return per_gpu(
        free=memory.gpu_free,
        peak=memory.gpu + (start_models(request.parameters) - 1) * weight_bytes(config.data.student_dir),
        data=resident_bytes(split, meta_teacher_outputs(config, len(split))),
        cores=cores,
    )


def _training_split(config: SearchConfig) -> Split:
    task, data = config.data.task, config.data
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    return training_split(data, selection_splits(task, features, data.select_on)["train"], data.student_dir)


def _tokens(config: SearchConfig) -> int:
    """Returns how many tokens occur in the task's training and dev splits."""
    task, data = config.data.task, config.data
    splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    train = training_split(data, splits["train"], data.student_dir)
    return len(used_tokens([train, *(splits[name] for name in task.dev_splits)]))


def start_models(parameters: Parameters) -> int:
    """Returns how many models a trial's process keeps that students start from: the pretrained one, the teacher."""
    return len({init == "pretrained" for init in inits(parameters)})


def cpu_bytes(config: SearchConfig, starts: int = 1, tokens: int | None = None) -> int:
    """Returns about how many bytes a trial takes on a CPU.

    These are the weights of the models that students are initialised from; weights, gradients, two moments and the best
    weights of the deepest student, which has the embeddings of used tokens while it is trained, and all of them beside
    it; and activations.

    Args:
        config: Of the search.
        starts: How many models students are initialised from.
        tokens: How many tokens the task uses; None: the whole vocabulary.

    Measured in searches with a BERT of 6 layers that is 384 wide and students of up to 3: 1.0 GB on average and 1.3 GB
    at most on CoLA, 1.4 and 1.9 GB on MRPC; this says 1.6 GB.
    """
    shape = sizes(config.data.student_dir)
    width, layers, depth = shape["hidden_size"], shape["num_hidden_layers"], max(config.depths)
    positions, whole = shape["max_position_embeddings"] * width, shape["vocab_size"] * width
    layer = 4 * width**2 + 2 * width * shape["intermediate_size"]
    weights = starts * 4 * (whole + positions + layers * layer)
    used = whole if tokens is None else tokens * width
    of_student = 4 * whole + 5 * 4 * (used + positions + depth * layer)
    return int(PROCESS_BYTES + weights + of_student + 4 * ACTIVATIONS * depth * CPU_TOKENS * width)


def free_bytes() -> int:
    """Returns the bytes of memory that trials may fill: a share of what is free, less what the search itself takes."""
    return int(USED_FRACTION * free_memory()) - SEARCH_BYTES


def concurrency_text(resources: Resources) -> str:
    """Returns how many trials run at once, in words."""
    cores = f", {resources.threads} cores each" if resources.threads > 1 else ""
    return f"{plural(resources.count, 'trial')} at once on {resources.device}{cores}"


def meta_teacher_outputs(config: SearchConfig, examples: int) -> TeacherOutputs:
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
    """Returns how many trials fit on a GPU, at least 1.

    Args:
        free: Bytes of its memory that no other program uses.
        peak: What one trial takes of it, its context included, besides examples and the teacher's outputs.
        data: What these take, in trials few enough to keep them there.
        cores: CPU cores for each GPU.
    """
    return max(
        (
            trials
            for trials in range(1, min(cores, MAX_TRIALS_PER_GPU) + 1)
            if trials * (peak + data * may_be_resident(data, free, trials)) <= USED_FRACTION * free
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
    more = {folder: max(0, total - _existing_bytes(folder)) for folder, total in totals.items()}
    for folder in totals:
        needed, free = sum(more[other] for other in totals if _disk(other) == _disk(folder)), _free(folder)
        if needed > free:
            raise UserError(
                f"{folder}: trials and students may need {needed / 1e9:.1f} GB more on its disk, and "
                f"{free / 1e9:.1f} GB are free; give --storage, or --out, on a larger disk"
            )


def _existing_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())
