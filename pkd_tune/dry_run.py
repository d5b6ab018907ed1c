"""What a search would cost on this machine, from a few timed steps at every depth. Nothing is trained or kept."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from transformers import BertForSequenceClassification

from pkd_tune.command_line import load_examples, say
from pkd_tune.config import DistillConfig, SearchConfig, TrainingConfig
from pkd_tune.distillation.batches import Batch
from pkd_tune.distillation.inference import evaluate, predict
from pkd_tune.distillation.loop import fit
from pkd_tune.distillation.losses import LossParts, finetune_loss
from pkd_tune.distillation.model_folder import WEIGHTS, has_classifier, layer_count
from pkd_tune.distillation.modeling import load_classifier, run
from pkd_tune.distillation.student import Classroom, distill
from pkd_tune.distillation.teacher_cache import TeacherOutputs
from pkd_tune.glue.data import Split, load_features, selection_splits
from pkd_tune.glue.features import take
from pkd_tune.glue.tasks import TASKS
from pkd_tune.pipeline import plan_search
from pkd_tune.reporting.blocks import Table, markdown
from pkd_tune.reporting.words import plural
from pkd_tune.request import Request
from pkd_tune.tuning.arms import Plan
from pkd_tune.tuning.engine import KEPT_WEIGHTS, disk_bytes
from pkd_tune.tuning.sampling import REDUCTION, WARM_UP_TRIALS
from pkd_tune.tuning.slots import Slots

T = TypeVar("T")

TIMED_STEPS = 12
"""Steps that are timed at each depth, after a quarter as many that are not."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one model costs, in seconds on one slot."""

    epoch: float
    """An epoch of training."""
    evaluation: float
    """A look at the splits that choose."""


def dry_run(request: Request) -> int:
    """Prints the plan of a search; returns the exit code."""
    config = request.config
    data, task = config.data, TASKS[config.data.task]
    plans = plan_search(request)
    slots = request.slots or Slots(
        device="cuda", count=(request.gpus or 1) * request.trials_per_gpu, per_gpu=request.trials_per_gpu
    )
    device = torch.device(slots.device if torch.cuda.is_available() else "cpu")
    load_examples(task, data.data_dir, demo=request.demo)
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    splits = selection_splits(task, features, data.select_on)
    torch.set_num_threads(1 if device.type == "cpu" else torch.get_num_threads())
    costs = {}
    for depth in config.depths:
        say(f"timing a student of {plural(depth, 'layer')}")
        costs[depth] = time_student(config, splits, depth, device)
    say(f"timing the teacher, {plural(layer_count(data.teacher_dir), 'layer')}")
    teacher_seconds = time_teacher(config, splits, device)
    weights = (data.student_dir / WEIGHTS).stat().st_size
    print(plan_text(config, plans, slots, costs, teacher_seconds, disk_bytes(weights, len(plans), slots)))
    return 0


def time_student(config: SearchConfig, splits: Mapping[str, Split], depth: int, device: torch.device) -> Cost:
    """Times some training steps, and an evaluation, of a student whose teacher says random things."""
    task, data = TASKS[config.data.task], config.data
    start = load_classifier(data.student_dir, task.labels, seed=0)
    layers, width = layer_count(data.teacher_dir), start.config.hidden_size

    def random(split: Split) -> TeacherOutputs:
        n = len(split)
        return TeacherOutputs(torch.randn(n, task.outputs), torch.randn(n, layers, width).half(), torch.arange(n))

    def train(steps: int) -> BertForSequenceClassification:
        part = some(splits["train"], steps * config.student_training.batch_size)
        dev = {name: some(splits[name], task.outputs) for name in task.dev_splits}
        classroom = Classroom(
            task=task,
            train=part,
            dev=dev,
            official_dev=dev,
            start=start,
            init="pretrained",
            teacher_train=random(part),
            teacher_dev={name: random(split) for name, split in dev.items()},
            device=device,
        )
        loss = DistillConfig(student_layers=depth, alpha=0.5, beta=100, temperature=10, strategy="skip", normalize=True)
        training = replace(config.student_training, epochs=1, evaluations_per_epoch=1)
        return distill(classroom, loss, training, lambda evaluation: None)[0]

    train(TIMED_STEPS // 4)
    seconds, student = timed(lambda: train(TIMED_STEPS), device)
    examples = min(len(splits["train"]), TIMED_STEPS * config.student_training.batch_size)
    evaluation, _ = timed(lambda: evaluate(student, {n: splits[n] for n in task.dev_splits}, task), device)
    return Cost(epoch=seconds * len(splits["train"]) / examples, evaluation=evaluation)


def time_teacher(config: SearchConfig, splits: Mapping[str, Split], device: torch.device) -> float:
    """Returns how many seconds the teacher would take: its trainings, where it needs any, and its outputs."""
    task, data = TASKS[config.data.task], config.data
    model = load_classifier(data.teacher_dir, task.labels, seed=0).to(device)
    part = some(splits["train"], TIMED_STEPS // 2 * 32)
    whole = len(splits["train"]) / len(part)
    dev = {name: some(splits[name], task.outputs) for name in task.dev_splits}

    def step(batch: Batch) -> LossParts:
        return finetune_loss(run(model, batch).logits_BC, batch.labels_B)

    once = TrainingConfig(epochs=1, evaluations_per_epoch=1)
    training, _ = timed(lambda: fit(model, step, part, dev, task, once, lambda evaluation: None), device)
    outputs, _ = timed(lambda: predict(model, part, full_precision=True), device)
    epochs = 0 if has_classifier(data.teacher_dir) else sum(each.epochs for each in config.teacher_trainings)
    return whole * (epochs * training + outputs)


def some(split: Split, examples: int) -> Split:
    """Returns a part of a split, of examples as long as its own are."""
    order = np.random.default_rng(0).permutation(len(split))
    return take(split, split.name, order[:examples])


def timed(work: Callable[[], T], device: torch.device) -> tuple[float, T]:
    """Returns the seconds that something takes, and what it returns."""
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


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
    config: SearchConfig, plans: Sequence[Plan], slots: Slots, costs: Mapping[int, Cost], teacher: float, disk: int
) -> str:
    """Returns the plan as a person reads it."""
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
    unit = "GPU-hours" if slots.device == "cuda" else "core-hours"
    hours = expected / 3600 / slots.per_gpu
    header = ["student", "method", "trials", "seeds", "epochs expected", "an epoch takes", "slot time"]
    return "\n".join(
        [
            _table(header, rows),
            "",
            f"{plural(slots.count, 'trial')} at once on {slots.device}. Rungs at evaluations "
            f"{', '.join(map(str, rungs)) or 'none'} of {evaluations}.",
            f"Teacher, unless it is there already: {teacher / 60:.1f} min.",
            f"Search and confirmation: about {expected / slots.count / 60:.1f} min, at most "
            f"{most / slots.count / 60:.1f} min if nothing is stopped early.",
            f"That is {hours:.2f} {unit}, at most {most / 3600 / slots.per_gpu:.2f}.",
            f"Disk: at most {disk / 1e9:.2f} GB for the files of trials, of which the best {KEPT_WEIGHTS} a row stay.",
            f"Timed alone, {TIMED_STEPS} steps a depth; trials that run at once share the machine and may be slower.",
        ]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
