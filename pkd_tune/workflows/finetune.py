"""Fine-tunes a classifier for one task: a teacher with all layers, or a student without a teacher."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pkd_tune.config import DataConfig, SearchConfig, TrainingConfig
from pkd_tune.data.loading import load_features
from pkd_tune.encoders.folder import layer_count, model_name, weights_key
from pkd_tune.files import RESULT, write_json
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.tuning.resources import gpu_names
from pkd_tune.workflows.checks import Problems, check_choices, check_positive, check_seed
from pkd_tune.workflows.inputs import check_length, find_data, find_device, find_encoder, load_examples
from pkd_tune.workflows.options import FinetuneOptions
from pkd_tune.workflows.progress import training_progress
from pkd_tune.workflows.request import default_space


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model that was trained: its folder and its scores on dev."""

    task: str
    folder: Path
    metrics: dict[str, float]
    """The task's metrics on dev by name, times 100, and their `score`."""
    score: str
    """Whether the score is the `first` of the task's metrics or the `mean` of all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FinetuneRequest:
    """A fine-tuning, resolved and checked."""

    data: DataConfig
    layers: int
    trainings: tuple[TrainingConfig, ...]
    device: str
    cuda_graphs: bool
    """Whether training steps are captured on a GPU."""
    demo: bool
    command: str


def finetune(request: FinetuneRequest) -> TrainedModel:
    """Fine-tunes a model unless that was done before; with all layers, computes its outputs for every split too.

    Raises:
        UserError: When the loss is not finite.
    """
    import torch  # takes seconds, which a refused request need not wait for

    from pkd_tune.distillation import teacher as teachers
    from pkd_tune.distillation.student import compute_teacher_outputs
    from pkd_tune.workflows.gpu_check import may_capture

    limit_threads()
    data, device, task = request.data, torch.device(request.device), request.data.task
    load_examples(task, data.data_dir, demo=request.demo)
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    folder = teachers.finetuned_cache(data)
    compared = SearchConfig(
        data=data,
        teacher_trainings=request.trainings,
        student_training=request.trainings[0],
        depths=(),
        stages=(),
        trials=None,
    )
    captured = may_capture(compared, asked=request.cuda_graphs, device=request.device, layers=request.layers)
    with training_progress(f"{task.name}, {plural(request.layers, 'layer')}") as show:
        model_dir = teachers.finetune(
            task,
            splits,
            data.teacher_dir,
            request.layers,
            folder,
            request.trainings,
            device,
            show,
            max_length=data.max_length,
            captured=captured,
        )
    key, metrics = weights_key(model_dir), teachers.dev_metrics(task, model_dir, splits, device)
    if not (model_dir / RESULT).exists():  # it says when the weights were made
        record = {
            "data": asdict(data),
            "layers": request.layers,
            "trainings": [asdict(training) for training in request.trainings],
            "metrics": metrics,
            "content": {"weights": key, "train": splits["train"].key, "dev": splits["dev"].key},
            "provenance": provenance(request.command, gpu_names()),
        }
        write_json(model_dir / RESULT, record)
    if request.layers == layer_count(data.teacher_dir):
        compute_teacher_outputs(data, model_dir, key, device)
    return TrainedModel(task.name, model_dir, metrics, task.score)


def resolve_finetune(options: FinetuneOptions, command: str) -> FinetuneRequest:
    """Returns the request that the options describe.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_choices(options, problems)
    space = default_space(options)
    check_positive(options, problems, "--epochs", "--batch-size", "--max-length", "--learning-rate")
    check_seed(options.seed, problems)
    precision = options.precision or space.training.precision
    resources = find_device(options.gpus, precision, problems)
    task, data_dir = find_data(options, problems)
    folder = find_encoder(options.model, "--model", options, task, data_dir, problems)
    max_length = options.max_length or space.max_length
    check_length(folder, "--model", max_length, problems)
    depth = layer_count(folder) if folder is not None else 0
    if folder is not None and options.layers is not None and not 1 <= options.layers <= depth:
        problems.add(f"--layers {options.layers}: {model_name(folder)} has 1 to {depth} layers to use")
    problems.raise_any()
    assert task is not None and folder is not None and resources is not None  # noqa: PT018 - for the type checker
    rates = options.learning_rate or [training.learning_rate for training in space.teacher]
    training = replace(
        space.teacher[0],
        epochs=options.epochs or space.teacher[0].epochs,
        batch_size=options.batch_size or space.teacher[0].batch_size,
        seed=options.seed,
        precision=precision,
    )
    data = DataConfig(task=task, data_dir=data_dir, teacher_dir=folder, student_dir=folder, max_length=max_length)
    return FinetuneRequest(
        data=data,
        layers=options.layers or depth,
        trainings=tuple(replace(training, learning_rate=rate) for rate in rates),
        device=resources.device,
        cuda_graphs=options.cuda_graphs,
        demo=options.demo,
        command=command,
    )
