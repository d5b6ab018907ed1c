"""Fine-tune the teacher, once, and let it teach only when it is good enough."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from filelock import FileLock
from transformers import AutoTokenizer, BertForSequenceClassification

from pkd_tune.config import TrainingConfig, UserError
from pkd_tune.distillation.batches import Batch
from pkd_tune.distillation.loop import Evaluation, evaluate, fit
from pkd_tune.distillation.losses import LossParts, finetune_loss
from pkd_tune.distillation.model_folder import WEIGHTS, class_count, has_classifier
from pkd_tune.distillation.modeling import load_classifier, run
from pkd_tune.distillation.teacher_cache import teacher_key
from pkd_tune.glue.data import Split
from pkd_tune.glue.tasks import Task, majority_score

GATE_MARGIN = 2.0
"""Points by which a teacher's score must beat always predicting the most frequent class, or the mean label."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A fine-tuned classifier on disk, good enough to learn from."""

    folder: Path
    key: str
    """Hash of its weights."""
    layers: int
    """Its depth N."""
    metrics: dict[str, float] = field(hash=False)
    """On the dev splits in fp32: each of the task's metrics times 100, and their `score`."""
    majority: dict[str, float] = field(hash=False)
    """The same metrics of always predicting the most frequent class, or the mean label, of the dev splits."""
    finetuned_here: bool
    """False where the user's folder already held a classifier for this task."""


def prepare_teacher(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    folder: Path,
    config: TrainingConfig,
    device: torch.device,
    report: Callable[[Evaluation], None],
) -> Teacher:
    """Returns the teacher of a task, fine-tuning it first unless that was done before.

    Args:
        task: What it must classify.
        splits: `train` and the task's dev splits, with labels.
        pretrained_dir: The encoder to start from. A folder that already holds a classifier is used as it is.
        folder: Where fine-tuned teachers of this task are kept, one folder per start, data and configuration.
        config: How it is trained.
        device: Where it is trained.
        report: Called after each evaluation of a training.

    Raises:
        UserError: When its classes are not the task's, or when it does not clearly beat the majority class.
    """
    finetune = not has_classifier(pretrained_dir)
    if finetune:
        model_dir = _finetuned(task, splits, pretrained_dir, folder, config, device, report)
    else:
        model_dir = pretrained_dir
        if class_count(model_dir) != task.outputs:
            raise UserError(
                f"--teacher {model_dir}: its classifier has {class_count(model_dir)} outputs, but {task.name} needs "
                f"{task.outputs}; give a pretrained encoder or a model fine-tuned for {task.name}"
            )
    teacher = load_classifier(model_dir, task.labels, seed=config.seed).to(device)
    dev = {name: splits[name] for name in task.dev_splits}
    metrics, _ = evaluate(teacher, dev, task, full_precision=True)
    majority = majority_score(task, {name: split.labels for name, split in dev.items()})
    if metrics["score"] < majority["score"] + GATE_MARGIN:
        raise UserError(
            f"the teacher scores {metrics['score']:.1f} on {task.name} dev, and always predicting the "
            f"{task.baseline} scores {majority['score']:.1f}: nothing can be learned from it; "
            + (
                "raise epochs or learning_rate under [teacher] in the file given as --space"
                if finetune
                else f"give another --teacher than {model_dir}, or check the order of its labels"
            )
        )
    return Teacher(
        folder=model_dir,
        key=teacher_key(model_dir / WEIGHTS),
        layers=teacher.config.num_hidden_layers,
        metrics=metrics,
        majority=majority,
        finetuned_here=finetune,
    )


def _finetuned(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    folder: Path,
    config: TrainingConfig,
    device: torch.device,
    report: Callable[[Evaluation], None],
) -> Path:
    """Returns the folder of the fine-tuned teacher, training it where no process has done so yet."""
    what = {
        "pretrained": teacher_key(pretrained_dir / WEIGHTS),
        **{name: splits[name].key for name in ("train", *task.dev_splits)},
        "labels": task.labels,
        "training": asdict(config),
    }
    key = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]
    finished = folder / f"{pretrained_dir.name}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{finished}.lock"):
        if finished.is_dir():
            return finished
        model = load_classifier(pretrained_dir, task.labels, seed=config.seed).to(device)

        def step(batch: Batch) -> LossParts:
            return finetune_loss(run(model, batch).logits_BC, batch.labels_B)

        fit(model, step, splits["train"], {name: splits[name] for name in task.dev_splits}, task, config, report)
        save_classifier(model, pretrained_dir, finished)
        return finished


def save_classifier(model: BertForSequenceClassification, tokenizer_dir: Path, target: Path) -> None:
    """Writes a standard Hugging Face folder with weights, configuration and tokenizer; whole or not at all.

    Raises:
        OSError: When the target cannot be written; nothing is left there then.
    """
    temporary = target.with_name(f".{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(tokenizer_dir, local_files_only=True).save_pretrained(temporary)
    if target.exists():
        shutil.rmtree(target)
    os.replace(temporary, target)
