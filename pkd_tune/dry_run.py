"""What a search would cost, from a few steps at every depth, timed on this machine. Nothing is trained or kept."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from pkd_tune.capacity import at_once, fitting
from pkd_tune.command_line import load_examples, say
from pkd_tune.config import SearchConfig
from pkd_tune.distillation.model_folder import WEIGHTS, layer_count
from pkd_tune.glue.data import load_features, selection_splits
from pkd_tune.glue.tasks import TASKS
from pkd_tune.pipeline import plan_search
from pkd_tune.reporting.blocks import Table, markdown
from pkd_tune.reporting.words import plural
from pkd_tune.request import Request
from pkd_tune.timing import TIMED_STEPS, Cost, time_student, time_teacher
from pkd_tune.tuning import cluster
from pkd_tune.tuning.arms import Plan
from pkd_tune.tuning.engine import KEPT_WEIGHTS, disk_bytes
from pkd_tune.tuning.sampling import REDUCTION, WARM_UP_TRIALS
from pkd_tune.tuning.slots import Slots


def dry_run(request: Request) -> int:
    """Prints the plan of a search; returns the exit code."""
    config = request.config
    data, task = config.data, TASKS[config.data.task]
    plans = plan_search(request)
    slots = request.slots or cluster_slots(request)
    device = torch.device(slots.device if torch.cuda.is_available() else "cpu")
    load_examples(task, data.data_dir, demo=request.demo)
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    splits = selection_splits(task, features, data.select_on)
    slots = fitting(request, slots, plans)
    torch.set_num_threads(slots.threads if device.type == "cpu" else torch.get_num_threads())
    costs = {}
    for depth in config.depths:
        say(f"timing a student of {plural(depth, 'layer')}")
        costs[depth] = time_student(config, splits, depth, device)
    say(f"timing the teacher, {plural(layer_count(data.teacher_dir), 'layer')}")
    teacher_seconds = time_teacher(config, splits, device)
    weights = (data.student_dir / WEIGHTS).stat().st_size
    disk = disk_bytes(weights, len(plans), slots) + len(plans) * weights
    print(plan_text(config, plans, slots, costs, teacher_seconds, disk, timed_on=device.type))
    return 0


def cluster_slots(request: Request) -> Slots:
    """Returns the slots of the cluster that a search would join.

    Raises:
        UserError: When it is out of reach, or has too few GPUs.
    """
    assert request.address is not None
    with (
        tempfile.TemporaryDirectory() as folder,
        cluster.joined_cluster(request.address, Path(folder) / "ray-start.log"),
    ):
        return cluster.cluster_slots(request.gpus, request.trials_per_gpu)


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
    plans: Sequence[Plan],
    slots: Slots,
    costs: Mapping[int, Cost],
    teacher: float,
    disk: int,
    *,
    timed_on: str,
) -> str:
    """Returns the plan as a person reads it.

    Args:
        config: Of the search.
        plans: Of its arms.
        slots: Where its trials would run.
        costs: By depth.
        teacher: Seconds that the teacher takes.
        disk: Bytes that the files of trials and the exported students take.
        timed_on: `cpu` or `cuda`: what the costs are of, which is the CPU where a cluster's GPUs are far away.
    """
    training = config.student_training
    evaluations = training.epochs * training.evaluations_per_epoch
    rows, expected, most = [], 0.0, 0.0
    for plan in plans:
        cost = costs[plan.arm.depth]
        each = cost.epoch / training.evaluations_per_epoch + cost.evaluation
        likely = expected_evaluations(plan.quota, evaluations, early_stopping=config.early_stopping)
        confirming = config.seeds * evaluations
        epochs = (likely + confirming) / training.evaluations_per_epoch
        expected += (likely + confirming) * each
        most += (plan.quota * evaluations + confirming) * each
        rows.append(
            [
                plural(plan.arm.depth, "layer"),
                plan.arm.method,
                plan.quota,
                config.seeds,
                f"{epochs:.0f} of {(plan.quota + config.seeds) * training.epochs}",
                f"{cost.epoch:.1f} s",
                f"{(likely + confirming) * each / 60:.1f} min",
            ]
        )
    rungs = [2**i for i in range(evaluations.bit_length()) if 2**i < evaluations] if config.early_stopping else []
    of_slots = timed_on == slots.device
    unit = {"cuda": "GPU-hours", "cpu": "core-hours"}[slots.device] if of_slots else "hours of this machine's CPU"
    share = 1.0 if not of_slots else slots.threads if slots.device == "cpu" else 1 / slots.per_gpu
    elsewhere = "" if of_slots else " on this machine's CPU, for it has no GPU: on GPUs all times are shorter"
    header = ["student", "method", "trials", "seeds", "epochs expected", "an epoch takes", "slot time"]
    return "\n".join(
        [
            _table(header, rows),
            "",
            f"{at_once(slots)}. Rungs at evaluations {', '.join(map(str, rungs)) or 'none'} of {evaluations}.",
            f"Teacher, unless it is there already: {teacher / 60:.1f} min.",
            f"Search and confirmation: about {expected / slots.count / 60:.1f} min, at most "
            f"{most / slots.count / 60:.1f} min if nothing is stopped early.",
            f"That is {expected / 3600 * share:.2f} {unit}, at most {most / 3600 * share:.2f}.",
            f"Disk: at most {disk / 1e9:.2f} GB for the files of trials, of which the best {KEPT_WEIGHTS} a row stay, "
            "and for exported students.",
            f"Timed alone, {TIMED_STEPS} steps a depth{elsewhere}; trials that run at once share the machine "
            "and may be slower.",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
