"""What a search would cost, from a few steps at every depth, timed on this machine. Nothing is trained or kept."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from pkd_tune.config import DataConfig, SearchConfig
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.distillation.train_step import graphs_of_a_training
from pkd_tune.encoders.folder import family_of, layer_count, weight_bytes
from pkd_tune.files import RAY_LOG
from pkd_tune.reporting.document import Table, markdown
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning import cluster
from pkd_tune.tuning.plan import StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.runner import KEEP_BEST, disk_bytes
from pkd_tune.tuning.sampling import REDUCTION, WARM_UP_TRIALS
from pkd_tune.workflows.capacity import concurrency_text, limit_concurrency
from pkd_tune.workflows.inputs import load_examples
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.search import plan_search
from pkd_tune.workflows.timing import TIMED_STEPS, Cost, time_student, time_teacher

log = logging.getLogger(__name__)


def plan(request: SearchRequest) -> str:
    """Returns what a search would do and cost, as text for a terminal.

    Raises:
        UserError: When a cluster that it would join is out of reach, or has too few GPUs.
    """
    with ExitStack() as stack:
        if request.options.address is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(cluster.connected_cluster(request.options.address, folder / RAY_LOG))
        return _plan(request)


def _plan(request: SearchRequest) -> str:
    config = request.config
    data, task = config.data, config.data.task
    plans = plan_search(request)
    options = request.options
    resources = request.resources or cluster.cluster_resources(options.gpus, options.trials_per_gpu)
    device = torch.device(resources.device if torch.cuda.is_available() else "cpu")
    load_examples(task, data.data_dir, demo=request.options.demo)
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    splits = selection_splits(task, features, data.select_on)
    resources = limit_concurrency(request, resources, plans)
    torch.set_num_threads(resources.threads if device.type == "cpu" else torch.get_num_threads())
    costs = {}
    for depth in config.depths:
        log.info("timing a student of %s", plural(depth, "layer"))
        with graphs_of_a_training(device, captured=resources.eager is None) as graphs:
            costs[depth] = time_student(config, splits, depth, device, graphs)
    log.info("timing the teacher, %s", plural(layer_count(data.teacher_dir), "layer"))
    of_teacher = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    teacher_splits = selection_splits(task, of_teacher, data.select_on)
    with graphs_of_a_training(device, captured=resources.eager is None) as graphs:
        teacher_seconds = time_teacher(config, teacher_splits, device, graphs)
    weights = weight_bytes(data.student_dir)
    disk = disk_bytes(weights, len(plans), resources) + len(plans) * weights
    text = plan_text(config, plans, resources, costs, teacher_seconds, disk, timed_on=device.type)
    return f"{text}\n{forward_pass_text(data)}"


def forward_pass_text(data: DataConfig) -> str:
    """Returns which forward pass teacher and students run, and what the slower one costs; the plan is timed with it."""
    families = {"teacher": family_of(data.teacher_dir), "students": family_of(data.student_dir)}
    ways = [
        f"{who} ({family.title}) {'transformers' if family.paths is None else 'fast'}"
        for who, family in families.items()
    ]
    text = f"Forward pass: {', '.join(ways)}."
    if all(family.paths is not None for family in families.values()):
        return text
    return (
        f"{text} A step with that of transformers took about 1.5 times as long for 3 or 6 layers, and nearly 5 times "
        "for one, with BERT on a CPU."
    )


def expected_evaluations(trials: int, evaluations: int, *, early_stopping: bool) -> float:
    """Returns how many evaluations the trials of one study get, when half of those that reach a rung go on.

    The first few pass a rung in any case; the best are never stopped.
    """
    if not early_stopping:
        return float(trials * evaluations)
    total, reaching, done, rung = 0.0, float(trials), 0, 1
    while rung < evaluations:
        total += reaching * (rung - done)
        reaching = min(reaching, WARM_UP_TRIALS) + max(0.0, reaching - WARM_UP_TRIALS) / REDUCTION
        done, rung = rung, rung * 2
    return total + reaching * (evaluations - done)


def plan_text(
    config: SearchConfig,
    plans: Sequence[StudyPlan],
    resources: Resources,
    costs: Mapping[int, Cost],
    teacher: float,
    disk: int,
    *,
    timed_on: str,
) -> str:
    """Returns the plan as a person reads it.

    Args:
        config: Of the search.
        plans: Of its studies.
        resources: Where its trials would run.
        costs: By depth.
        teacher: Seconds that the teacher takes.
        disk: Bytes that the files of trials and the exported students take.
        timed_on: `cpu` or `cuda`: what the costs are of, which is the CPU where a cluster's GPUs are far away.
    """
    training = config.student_training
    evaluations = training.epochs * training.evaluations_per_epoch
    rows, expected, most = [], 0.0, 0.0
    for plan in plans:
        cost = costs[plan.study_key.depth]
        each = cost.epoch / training.evaluations_per_epoch + cost.evaluation
        likely = expected_evaluations(plan.quota, evaluations, early_stopping=config.early_stopping)
        confirming = config.seeds * evaluations
        epochs = (likely + confirming) / training.evaluations_per_epoch
        expected += (likely + confirming) * each
        most += (plan.quota * evaluations + confirming) * each
        rows.append(
            [
                plural(plan.study_key.depth, "layer"),
                plan.study_key.method,
                plan.quota,
                config.seeds,
                f"{epochs:.0f} of {(plan.quota + config.seeds) * training.epochs}",
                f"{cost.epoch:.1f} s",
                f"{(likely + confirming) * each / 60:.1f} min",
            ]
        )
    rungs = [2**i for i in range(evaluations.bit_length()) if 2**i < evaluations] if config.early_stopping else []
    of_slots = timed_on == resources.device
    unit = {"cuda": "GPU-hours", "cpu": "core-hours"}[resources.device] if of_slots else "hours of this machine's CPU"
    share = 1.0 if not of_slots else resources.threads if resources.device == "cpu" else 1 / resources.trials_per_gpu
    elsewhere = "" if of_slots else " on this machine's CPU, for it has no GPU: on GPUs all times are shorter"
    header = ["student", "method", "trials", "seeds", "epochs expected", "time per epoch", "slot time"]
    return "\n".join(
        [
            _table(header, rows),
            "",
            f"{concurrency_text(resources)}. "
            f"Rungs at evaluations {', '.join(map(str, rungs)) or 'none'} of {evaluations}.",
            f"Teacher, unless it is cached: {teacher / 60:.1f} min.",
            f"Search and confirmation: about {expected / resources.count / 60:.1f} min, at most "
            f"{most / resources.count / 60:.1f} min if nothing is stopped early.",
            f"That is {expected / 3600 * share:.2f} {unit}, at most {most / 3600 * share:.2f}.",
            f"Disk: at most {disk / 1e9:.2f} GB for the files of trials, of which the best {KEEP_BEST} a row stay, "
            "and for exported students.",
            f"Timed alone, {TIMED_STEPS} steps a depth{elsewhere}; trials that run at once share the machine "
            "and may be slower.",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
