"""Fine-tuning of classifiers, and the teacher of a task, which must beat the majority baseline."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from pkd_tune.config import DataConfig, Task, TrainingConfig, UserError
from pkd_tune.data.metrics import constant_score, majority_score
from pkd_tune.data.tokens import Split, used_tokens
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.checkpoint import Checkpoint, write_tensors
from pkd_tune.distillation.inference import evaluate
from pkd_tune.distillation.loop import Evaluation, TrainingDivergedError, fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.train_step import TrainStep, graphs_of_a_training
from pkd_tune.encoders.folder import (
    changed_files,
    class_names,
    class_order,
    classifier_key,
    classifier_problems,
    has_classifier,
    layer_count,
    model_name,
    weights_key,
)
from pkd_tune.encoders.modeling import cut_to_layers, load_classifier, save_classifier
from pkd_tune.files import LOCK_MODE, TRAINING, read_json, write_json

logger = logging.getLogger(__name__)

SCORES_FORMAT = "1"
"""Version of how a teacher is run and scored; part of the name of files with dev scores."""

DEV_SCORE = "dev_score"
"""Name of the dev score in the header of a training's weights, and in training.json."""

SQUARED_ERROR = "squared_error"
"""Name of the mean squared error on the dev splits among the scores of a regression's teacher."""

MIN_TEACHER_MARGIN = 2.0
"""Points by which a teacher's score must exceed that of always predicting the most frequent class or mean label, unless
it makes at most half the errors."""

Train = Callable[[Sequence[Path]], Sequence[float]]
"""Fine-tunes with every configuration, on other nodes: takes the file of each, and returns the dev score of each, as
`finetune_once()` does."""

Score = Callable[[Path], dict[str, float]]
"""Scores the classifier in a folder, on another node; returns what `teacher_scores()` does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Teacher:
    """A fine-tuned classifier on disk that is good enough to distil."""

    folder: Path
    key: str
    """Its `classifier_key()`."""
    layers: int
    """Its depth N."""
    metrics: dict[str, float] = field(hash=False)
    """On the dev splits in fp32: the task's metrics times 100, and their `score`."""
    majority: dict[str, float] = field(hash=False)
    """The same metrics of always predicting the most frequent class of the dev splits, or the mean label."""
    finetuned_here: bool
    """False if the user gave a fine-tuned classifier."""
    training_scores: tuple[float, ...] = ()
    """The best score of each training on the examples that select, times 100; empty if it was not fine-tuned here."""


def prepare_teacher(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    folder: Path,
    configs: Sequence[TrainingConfig],
    device: torch.device,
    report: Callable[[Evaluation], None],
    *,
    captured: bool = True,
    max_length: int | None = None,
    train: Train | None = None,
    score: Score | None = None,
) -> Teacher:
    """Returns the teacher of a task, fine-tuning it first unless that was done before.

    Args:
        task: The task to classify.
        splits: `train` and the task's dev splits, with labels.
        pretrained_dir: The encoder to fine-tune; a folder with a fine-tuned classifier is used unchanged.
        folder: Cache of this task's fine-tuned models, as in `finetune()`, and of the dev scores of teachers.
        configs: Training configurations; the model with the highest dev score is kept.
        device: Where it is trained.
        report: Called after each evaluation of a training.
        captured: Whether steps are captured on a GPU.
        max_length: Of the splits, in tokens: where the saved tokenizer truncates; None: at its own limit.
        train: Trains on other nodes; None: in this process.
        score: Scores on another node; None: in this process.

    Raises:
        UserError: When its classifier is not the task's, when its dev score does not exceed the majority baseline by
            `MIN_TEACHER_MARGIN` or half of what is left to 100, when the values that a given one predicts are further
            from the labels than their mean is, or when a loss is not finite.
    """
    finetuned_here = not has_classifier(pretrained_dir)
    if finetuned_here:
        layers = layer_count(pretrained_dir)
        model_dir = finetune(
            task,
            splits,
            pretrained_dir,
            layers,
            folder,
            configs,
            device,
            report,
            captured=captured,
            max_length=max_length,
            train=train,
        )
    else:
        model_dir = pretrained_dir
        if wrong := classifier_problems(model_dir, "--teacher", task):
            raise UserError(*wrong)
        if class_order(model_dir, task.labels) != tuple(range(task.outputs)):
            logger.info(
                "note: the classes of %s are %s; its outputs are put in the order of %s: %s",
                model_dir,
                ", ".join(class_names(model_dir)),
                task.name,
                ", ".join(task.labels),
            )
    key = classifier_key(model_dir, task.labels)
    score_it = score or (lambda model_dir: teacher_scores(task, model_dir, splits, device))
    scores = _recorded_scores(task, model_dir, key, splits, folder, score_it)
    metrics = {name: value for name, value in scores.items() if name != SQUARED_ERROR}
    majority = majority_score(task, {name: splits[name].labels for name in task.dev_splits})
    constant = constant_score(task, {name: splits[name].labels for name in task.dev_splits})
    # Above 98 points nothing can be better by the margin; there, and from 96 on, half the errors are less than it.
    required = constant + min(MIN_TEACHER_MARGIN, (100 - constant) / 2)
    if metrics["score"] < required:
        raise UserError(
            f"the teacher scores {metrics['score']:.1f} on {task.name} dev, but must exceed always predicting the "
            f"{task.baseline if constant == majority['score'] else 'rarer class'}, which scores {constant:.1f}, and "
            f"reach {required:.1f}; "
            + (
                "fine-tune it with more --epochs or another --learning-rate by pkd_tune.finetune, and give its folder "
                "as --teacher"
                if finetuned_here
                else f"give another --teacher than {model_dir}, or check the order of its labels"
            )
        )
    if task.regression and not finetuned_here:
        _check_scale(task, model_dir, scores[SQUARED_ERROR], splits)
    return Teacher(
        folder=model_dir,
        key=key,
        layers=layer_count(model_dir),
        metrics=metrics,
        majority=majority,
        finetuned_here=finetuned_here,
        training_scores=_training_scores(model_dir) if finetuned_here else (),
    )


def _check_scale(task: Task, model_dir: Path, squared_error: float, splits: dict[str, Split]) -> None:
    """Refuses a teacher of another scale than the labels have: correlations ignore it, but the loss does not.

    Raises:
        UserError: When the mean label is closer to the labels of the dev splits than what the teacher predicts.
    """
    variance = float(_dev_labels(task, splits).var())
    if squared_error > variance:
        raise UserError(
            f"--teacher {model_dir}: the values that it predicts are further from the labels of {task.name} dev (mean "
            f"squared error {squared_error:.3g}) than the mean label is ({variance:.3g}), as on another scale; give a "
            "teacher of the labels' scale, or a pretrained model as --teacher, which is fine-tuned here"
        )


def _dev_labels(task: Task, splits: dict[str, Split]) -> npt.NDArray[np.float64]:
    """Returns the labels of all dev splits of a regression: (N,)."""
    return np.concatenate([np.asarray(splits[name].labels, dtype=np.float64) for name in task.dev_splits])


def finetune(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    layers: int,
    folder: Path,
    configs: Sequence[TrainingConfig],
    device: torch.device,
    report: Callable[[Evaluation], None],
    *,
    captured: bool = True,
    max_length: int | None = None,
    train: Train | None = None,
) -> Path:
    """Returns the folder of a fine-tuned classifier, training it unless the cache has it.

    Processes that need the same model wait for the one that trains it. An interrupted training resumes from its last
    epoch, and one that had ended is not repeated.

    Args:
        task: The task to classify.
        splits: `train` and the task's dev splits, with labels.
        pretrained_dir: The encoder to fine-tune.
        layers: Number of its first layers to use: all for a teacher, fewer for a student without a teacher.
        folder: Cache of this task's fine-tuned models: one folder per encoder, depth, data and configurations.
        configs: Training configurations; the model with the highest dev score is kept.
        device: Where it is trained.
        report: Called after each evaluation of a training.
        captured: Whether steps are captured on a GPU.
        max_length: Of the splits, in tokens: where the saved tokenizer truncates; None: at its own limit.
        train: Trains on other nodes; None: one configuration after the other, in this process.

    Raises:
        UserError: When a loss is not finite.
    """
    content = _training_content(task, splits, pretrained_dir, layers, configs, max_length)
    finished = finetuned_folder(task, splits, pretrained_dir, layers, folder, configs, max_length)
    if is_finetuned(finished):
        return finished  # without a lock, which only those who may write there can take
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{finished}.lock", mode=LOCK_MODE):
        if finished.is_dir():
            if not (changed := changed_files(finished)):
                return finished
            logger.warning("%s: %s changed or gone; fine-tuning again", finished, ", ".join(changed))
        trainings = finished.with_name(f".{finished.name}.trainings")
        paths = [trainings / f"{i}.safetensors" for i in range(len(configs))]
        if train is not None:
            scores = train(paths)
        else:
            scores = [
                finetune_once(
                    task, splits, pretrained_dir, layers, config, device, report, path=path, captured=captured
                )
                for config, path in zip(configs, paths, strict=True)
            ]
        best = scores.index(max(scores))
        tried = [{**asdict(config), DEV_SCORE: dev_score} for config, dev_score in zip(configs, scores, strict=True)]
        model = cut_to_layers(load_classifier(pretrained_dir, task.labels, seed=0), range(1, layers + 1))
        model.load_state_dict(load_file(paths[best]))
        record = {**content, "trainings": tried, "kept": tried[best]}
        save_classifier(model, pretrained_dir, finished, record, max_length=max_length, replace=True)
        shutil.rmtree(trainings)  # with what processes left there that were killed while they wrote
        return finished


def finetuned_cache(data: DataConfig) -> Path:
    """Returns the folder below the data folder that holds the fine-tuned models of a task."""
    return data.data_dir / "models" / "finetuned" / data.task.name


def finetuned_folder(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    layers: int,
    folder: Path,
    configs: Sequence[TrainingConfig],
    max_length: int | None,
) -> Path:
    """Returns the folder in the cache that `finetune()` returns for these arguments, whether it is there or not."""
    content = _training_content(task, splits, pretrained_dir, layers, configs, max_length)
    key = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{model_name(pretrained_dir)}-{layers}-layer-{key}"


def _training_scores(folder: Path) -> tuple[float, ...]:
    """Returns the dev score of each training that a fine-tuned model was chosen from."""
    return tuple(training[DEV_SCORE] for training in read_json(folder / TRAINING)["trainings"])


def is_finetuned(folder: Path) -> bool:
    """Returns whether a folder of the cache holds a fine-tuned model, as it was written."""
    return folder.is_dir() and not changed_files(folder)


def _training_content(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    layers: int,
    configs: Sequence[TrainingConfig],
    max_length: int | None,
) -> dict[str, object]:
    """Returns all that decides what a fine-tuned model is, and which of several is kept."""
    return {
        "layers": layers,
        "pretrained": weights_key(pretrained_dir),
        **{name: splits[name].key for name in ("train", *task.dev_splits)},
        "labels": task.labels,
        "score": task.scored,
        "max_length": max_length,
        "trainings": [asdict(config) for config in configs],
    }


def finetune_once(
    task: Task,
    splits: dict[str, Split],
    pretrained_dir: Path,
    layers: int,
    config: TrainingConfig,
    device: torch.device,
    report: Callable[[Evaluation], None],
    *,
    path: Path,
    captured: bool = True,
) -> float:
    """Fine-tunes a classifier with one configuration and leaves its best weights in a file; returns their dev score.

    Where the file is there already, nothing is trained. The state of an interrupted training is beside it.

    Args:
        task: The task to classify.
        splits: `train` and the task's dev splits, with labels.
        pretrained_dir: The encoder to fine-tune.
        layers: Number of its first layers to use.
        config: How it is trained.
        device: Where it is trained.
        report: Called after each evaluation.
        path: The file, of which the name says what is trained.
        captured: Whether steps are captured on a GPU.

    Raises:
        UserError: When a loss is not finite.
    """
    if (found := _recorded_dev_score(path)) is not None:
        return found
    checkpoint = Checkpoint(path.with_suffix(".training"))
    whole = load_classifier(pretrained_dir, task.labels, seed=config.seed)
    model = cut_to_layers(whole, range(1, layers + 1)).to(device)
    dev = {name: splits[name] for name in task.dev_splits}
    try:
        with graphs_of_a_training(device, captured=captured) as graphs:
            fitted = fit(  # which alone refers to optimiser, graphs and resident data
                TrainStep(model, tokens=used_tokens([splits["train"], *dev.values()]), graphs=graphs),
                Loss(),
                open_source(splits["train"], model),
                dev,
                task,
                config,
                report,
                checkpoint=checkpoint,
            )
    except TrainingDivergedError as error:
        raise UserError(
            f"{model_name(pretrained_dir)}: fine-tuning with learning rate {config.learning_rate:g} diverged: "
            f"{error}; give a lower learning rate"
        ) from error
    dev_score = fitted.best.best_score
    write_tensors(path, model.state_dict(), {DEV_SCORE: json.dumps(dev_score)})
    checkpoint.delete()
    return dev_score


def _recorded_dev_score(path: Path) -> float | None:
    """Returns the dev score in the header of a training's file; None where there is no such file, or a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return float(json.loads(file.metadata()[DEV_SCORE]))
    except FileNotFoundError:
        return None
    except SafetensorError as error:
        logger.warning("%s is damaged (%s): fine-tuning again", path, error)
        return None


def dev_metrics(task: Task, model_dir: Path, splits: dict[str, Split], device: torch.device) -> dict[str, float]:
    """Returns the metrics of a saved classifier on the task's dev splits, times 100, in fp32."""
    return _evaluated(task, model_dir, splits, device)[0]


def teacher_scores(task: Task, model_dir: Path, splits: dict[str, Split], device: torch.device) -> dict[str, float]:
    """Returns `dev_metrics()`, and for a regression the `SQUARED_ERROR` of what the model predicts."""
    metrics, predicted = _evaluated(task, model_dir, splits, device)
    if not task.regression:
        return metrics
    errors_N = np.concatenate([predicted[name] for name in task.dev_splits]) - _dev_labels(task, splits)
    return {**metrics, SQUARED_ERROR: float((errors_N**2).mean())}


def _evaluated(
    task: Task, model_dir: Path, splits: dict[str, Split], device: torch.device
) -> tuple[dict[str, float], dict[str, npt.NDArray[Any]]]:
    """Returns the metrics of a saved classifier on the task's dev splits, and its predictions, in fp32."""
    model = load_classifier(model_dir, task.labels, seed=0).to(device)  # no weight is missing, so the seed is not used
    return evaluate(model, {name: splits[name] for name in task.dev_splits}, task, precision="fp32")


def _recorded_scores(
    task: Task, model_dir: Path, key: str, splits: dict[str, Split], folder: Path, score: Score
) -> dict[str, float]:
    """Returns a teacher's scores from the cache in `folder`, where they are stored by weights and dev splits."""
    needed = ["score", *([SQUARED_ERROR] if task.regression else [])]
    measured = [*(splits[name].key for name in task.dev_splits), *task.metrics, task.score, *needed[1:]]
    content = " ".join([SCORES_FORMAT, key, *measured])
    path = folder / f"dev-scores-{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"
    if path.exists():
        try:
            found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
            if all(name in found for name in needed):
                return found
        except ValueError:
            pass
        logger.warning("%s is damaged; scoring the teacher again", path)
    metrics = score(model_dir)
    write_json(path, metrics)
    return metrics
