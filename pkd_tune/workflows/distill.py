"""Distils one student at given settings, without a search: vanilla KD or Patient KD."""

import hashlib
import json
import logging
import math
import os
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pkd_tune.config import DataConfig, DistillConfig, Method, SearchConfig, SearchStage, TrainingConfig, UserError
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import file_hash
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.distillation.published_settings import Published, published
from pkd_tune.encoders.folder import layer_count, model_name, weights_key
from pkd_tune.files import RESULT, write_json
from pkd_tune.reporting.formatting import metrics_text
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.tuning.resources import gpu_names
from pkd_tune.tuning.space import Float
from pkd_tune.tuning.space_file import Space
from pkd_tune.workflows.checks import (
    Problems,
    check_choices,
    check_positive,
    check_seed,
    check_student_folder,
    is_distill_output,
)
from pkd_tune.workflows.finetune import TrainedModel
from pkd_tune.workflows.inputs import (
    ONE_LAYER_TEACHER,
    check_length,
    check_pretrained,
    find_data,
    find_device,
    find_encoder,
    find_unlabeled,
    load_examples,
    student_init,
)
from pkd_tune.workflows.options import DistillOptions
from pkd_tune.workflows.progress import training_progress
from pkd_tune.workflows.request import default_space

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that decides what a student computes."""

    data: DataConfig
    teacher_trainings: tuple[TrainingConfig, ...]
    distillation: DistillConfig
    training: TrainingConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillRequest:
    """One student, resolved and checked."""

    settings: Settings
    method: Method
    target: Path
    device: str
    cuda_graphs: bool
    """Whether training steps are captured on a GPU."""
    demo: bool
    command: str


def distill(request: DistillRequest) -> TrainedModel:
    """Trains one student and writes its folder; the teacher is fine-tuned first unless that was done before.

    Raises:
        UserError: When the teacher is not good enough or its [CLS] states are too large, or the loss is not finite.
    """
    import torch  # takes seconds, which a refused request need not wait for

    from pkd_tune.distillation import student as students
    from pkd_tune.distillation import teacher as teachers
    from pkd_tune.distillation.loop import TrainingDivergedError
    from pkd_tune.distillation.plain import check_plain
    from pkd_tune.distillation.teacher_outputs import check_states
    from pkd_tune.distillation.train_step import graphs_of_a_training
    from pkd_tune.encoders.modeling import save_classifier
    from pkd_tune.workflows.gpu_check import may_capture

    limit_threads()
    settings, target = request.settings, request.target
    data, config, device = settings.data, settings.distillation, torch.device(request.device)
    task, name = data.task, f"{request.method} {config.student_layers}-layer student"
    raw = load_examples(task, data.data_dir, demo=request.demo)
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    finetuned = data.data_dir / "models" / "finetuned" / task.name
    compared = SearchConfig(
        data=data,
        teacher_trainings=settings.teacher_trainings,
        student_training=settings.training,
        depths=(config.student_layers,),
        stages=(SearchStage(method=request.method),),
        trials=None,
    )
    captured = may_capture(compared, asked=request.cuda_graphs, device=request.device)
    with training_progress("teacher") as show:
        teacher = teachers.prepare_teacher(
            task,
            splits,
            data.teacher_dir,
            finetuned,
            settings.teacher_trainings,
            device,
            show,
            max_length=data.max_length,
            captured=captured,
        )
    if not teacher.finetuned_here:
        check_plain(task, teacher.folder, raw, splits, data.max_length, device)
    scores = metrics_text(teacher.metrics, task.score)
    log.info("teacher: %s, %d layers, %s dev %s", model_name(data.teacher_dir), teacher.layers, task.name, scores)
    imitated = teacher_layers(config.strategy, config.student_layers, teacher.layers) if config.beta > 0 else ()
    if imitated:
        pairs = ", ".join(f"{i}→{layer}" for i, layer in enumerate(imitated, start=1))
        log.info("student layers imitate teacher layers: %s", pairs)
    elif config.beta > 0:
        log.warning("a student of one layer has no intermediate layer to imitate with; beta has no effect")

    student_data = students.open_student_data(data, teacher, device)
    if imitated:
        check_states([student_data.teacher_train, *student_data.teacher_dev.values()], teacher.folder)
    with training_progress(name) as show, graphs_of_a_training(device, captured=captured) as graphs:
        model_pool = students.ModelPool(graphs=graphs)
        try:
            student, _ = students.distill(student_data, config, settings.training, show, model_pool=model_pool)
        except TrainingDivergedError as error:
            remedy = f"give a lower --learning-rate than {settings.training.learning_rate:g}"
            raise UserError(f"{name}: {error}; {remedy}{' or a lower --beta' if imitated else ''}") from error
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.unfinished")
    save_classifier(student, data.student_dir, unfinished, max_length=data.max_length, replace=True)
    student_splits = load_features(task, data.data_dir, data.student_dir, data.max_length)
    metrics = teachers.dev_metrics(task, unfinished, student_splits, device)
    record = {
        **asdict(settings),
        "method": request.method,
        "imitated_layers": imitated,
        "metrics": metrics,
        "teacher": {"weights": teacher.key, "layers": teacher.layers, "metrics": teacher.metrics},
        "content": {"weights": weights_key(unfinished), "train": splits["train"].key, "dev": splits["dev"].key}
        | ({"unlabeled": file_hash(data.unlabeled)[:16]} if data.unlabeled is not None else {}),
        "provenance": provenance(request.command, gpu_names()),
    }
    write_json(unfinished / RESULT, record)
    publish(unfinished, target)
    return TrainedModel(task.name, target, metrics, task.score)


def publish(unfinished: Path, target: Path) -> None:
    """Renames a student's finished folder to its name; replaces a folder that `distill` wrote, and nothing else.

    Raises:
        OSError: When something else is there by now; the finished folder stays where it is.
    """
    if is_distill_output(target):
        shutil.rmtree(target)
    os.replace(unfinished, target)  # onto an empty folder at most


def resolve_distill(options: DistillOptions, command: str) -> DistillRequest:
    """Returns the request that the options describe.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_choices(options, problems)
    space = default_space(options)
    check_positive(options, problems, "--epochs", "--batch-size", "--max-length", "--learning-rate", "--layers")
    check_seed(options.seed, problems)
    precision = options.precision or space.training.precision
    resources = find_device(options.gpus, precision, problems)
    if options.to is not None:
        check_student_folder(options.to.resolve(), problems)
    task, data_dir = find_data(options, problems)
    max_length = options.max_length or space.max_length
    teacher_dir = find_encoder(options.teacher, "--teacher", options, task, data_dir, problems)
    check_length(teacher_dir, "--teacher", max_length, problems)
    unlabeled = find_unlabeled(options.unlabeled, task, problems)
    student_dir = teacher_dir
    if options.student:
        student_dir = find_encoder(options.student, "--student", options, task, data_dir, problems)
        check_length(student_dir, "--student", max_length, problems)
        check_pretrained(student_dir, problems)
    if teacher_dir is not None and student_dir is not None and options.layers > 0:
        check_depth(options, teacher_dir, student_dir, problems)
    if options.method == "kd":
        for flag in ("beta", "strategy", "normalize"):
            if getattr(options, flag) is not None:
                problems.add(f"--{flag} belongs to --method pkd; leave it out, or change the method")
    if options.temperature is not None and task is not None and task.regression:
        problems.add("--temperature has no effect on a regression; leave it out")
    start = Published(learning_rate=middle_rate(space), temperature=10, alpha=0.5, beta=100)
    if options.preset is not None and task is not None:
        start = problems.attempt(lambda: published(options.method, options.layers, task.name)) or start
    config = problems.attempt(lambda: loss_settings(options, start))
    if unlabeled is not None and config is not None and not config.alpha and (not config.beta or options.layers == 1):
        problems.add("--unlabeled: without the teacher's outputs nothing is learnt from texts; leave it out")
    problems.raise_any()
    assert task is not None and teacher_dir is not None and student_dir is not None  # noqa: PT018 - for the type checker
    assert resources is not None and config is not None  # noqa: PT018
    training = replace(
        space.training,
        learning_rate=options.learning_rate or start.learning_rate,
        epochs=options.epochs or space.training.epochs,
        batch_size=options.batch_size or space.training.batch_size,
        seed=options.seed,
        precision=precision,
    )
    settings = Settings(
        data=DataConfig(
            task=task,
            data_dir=data_dir,
            teacher_dir=teacher_dir,
            student_dir=student_dir,
            max_length=max_length,
            unlabeled=unlabeled,
        ),
        teacher_trainings=tuple(replace(training, precision=precision) for training in space.teacher),
        distillation=replace(config, init=student_init(options.init, student_dir)),
        training=training,
    )
    target = options.to.resolve() if options.to else default_folder(settings, options.method)
    check_student_folder(target, problems)
    problems.raise_any()
    return DistillRequest(
        settings=settings,
        method=options.method,
        target=target,
        device=resources.device,
        cuda_graphs=options.cuda_graphs,
        demo=options.demo,
        command=command,
    )


def loss_settings(options: DistillOptions, start: Published) -> DistillConfig:
    """Returns the settings of the loss: those that were given, and the start's for the others.

    Raises:
        UserError: When a value is impossible.
    """

    def chosen(name: str) -> Any:
        given = getattr(options, name)
        return getattr(start, name) if given is None else given

    return DistillConfig(
        student_layers=options.layers,
        alpha=chosen("alpha"),
        beta=chosen("beta") if options.method == "pkd" else 0.0,
        temperature=chosen("temperature"),
        strategy=chosen("strategy"),
        normalize=chosen("normalize"),
    )


def check_depth(options: DistillOptions, teacher_dir: Path, student_dir: Path, problems: Problems) -> None:
    """Records a problem when there is no student of the depth asked for."""
    teacher_depth, start_depth = layer_count(teacher_dir), layer_count(student_dir)
    if teacher_depth < 2:
        problems.add(ONE_LAYER_TEACHER)
    elif options.layers >= teacher_depth:
        problems.add(
            f"--layers {options.layers}: a student of a {teacher_depth}-layer teacher has 1 to {teacher_depth - 1} "
            "layers"
        )
    elif options.layers > start_depth and options.init == "pretrained":
        problems.add(
            f"--layers {options.layers}: {model_name(student_dir)} has only {start_depth} layers to start from"
        )
    if options.init != "pretrained" and options.student:
        problems.add(f"--init {options.init} starts from the teacher; leave out --student")


def middle_rate(space: Space) -> float:
    """Returns the geometric mean of the lowest and the highest learning rate of a space."""
    rates = space.parameters["learning_rate"]
    assert isinstance(rates, Float)
    return float(f"{math.sqrt(rates.low * rates.high):.2g}")


def default_folder(settings: Settings, method: str) -> Path:
    """Returns the folder of a student for which none was given; its settings decide the name."""
    text = json.dumps(asdict(settings), sort_keys=True, default=str)
    key = hashlib.sha256(text.encode()).hexdigest()[:12]
    data, layers = settings.data, settings.distillation.student_layers
    name = f"{model_name(data.student_dir)}-{method}-{layers}-layer-{key}"
    return data.data_dir / "models" / "distilled" / data.task.name / name
