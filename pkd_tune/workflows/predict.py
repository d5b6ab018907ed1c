"""A model's predictions: scores, Parquet files, and the files that the GLUE benchmark takes."""

import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pkd_tune.config import Task, UserError
from pkd_tune.data.demo import demo_task
from pkd_tune.data.glue import TASKS
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_features
from pkd_tune.data.metrics import predictions, split_metrics
from pkd_tune.data.submission import row_problems, write_submission
from pkd_tune.data.task import find_split, find_task, task_of_files, with_files
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.folder import (
    class_names,
    classifier_problems,
    encoder_problems,
    has_classifier,
    length_limit,
    weights_key,
)
from pkd_tune.files import write_file, write_json
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.tuning.resources import gpu_names
from pkd_tune.workflows.checks import Problems, check_positive, check_writable
from pkd_tune.workflows.inputs import find_one_device
from pkd_tune.workflows.options import PredictOptions
from pkd_tune.workflows.progress import prediction_progress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prediction:
    """The predictions for one split."""

    task: str
    split: str
    metrics: dict[str, float]
    """By name, times 100; empty for a split without labels."""
    path: Path
    """A Parquet file with one row per example: example_id, prediction, class, label (where known), logits."""


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Predictions, resolved and checked."""

    options: PredictOptions
    jobs: tuple[tuple[Task, Path], ...]
    """Each task with the folder of its model."""
    device: str
    command: str

    @property
    def data_dir(self) -> Path:
        """The data folder; the demo's lies below the user's own."""
        return data_folder(self.options)


def predict(request: PredictRequest) -> list[Prediction]:
    """Predicts every split asked for, scores those with labels, and writes Parquet files, and a GLUE zip if asked for.

    Raises:
        UserError: When a test split cannot become part of a submission; nothing is predicted then.
    """
    import torch  # takes seconds, which a refused request need not wait for

    from pkd_tune.distillation import inference
    from pkd_tune.encoders.modeling import load_classifier

    limit_threads()
    options = request.options
    examples = []
    for task, folder in request.jobs:
        max_length = options.max_length or length_limit(folder)
        examples.append(load_features(task, request.data_dir, folder, max_length))
    if options.glue_zip is not None:
        check_official(request.jobs, examples)
    made = provenance(request.command, gpu_names())
    submitted: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    found: list[Prediction] = []
    for (task, folder), splits in zip(request.jobs, examples, strict=True):
        metrics: dict[str, dict[str, float]] = {}
        model = load_classifier(folder, task.labels, seed=0).to(torch.device(request.device))
        wanted = wanted_splits(task, options)
        for name in wanted:
            with prediction_progress(f"{task.name} {name}", len(splits[name])) as show:
                logits_NC = inference.predict(model, splits[name], precision="fp32", show=show).numpy()
            predicted_N = predictions(task, logits_NC)
            path = table_path(options, task, name)
            table = as_table(task, logits_NC, predicted_N, splits[name].labels)
            write_file(path, partial(table.to_parquet, index=False))
            if task.split(name).submission:
                submitted.setdefault(task.name, {})[name] = predicted_N
            if splits[name].labels is not None:
                metrics[name] = split_metrics(task, name, predicted_N, splits[name].labels)
            found.append(Prediction(task.name, name, metrics.get(name, {}), path))
            log.info("%s %s: %s predicted", task.name, name, f"{len(predicted_N):,} examples")
        content = {"weights": weights_key(folder), **{name: splits[name].key for name in wanted}}
        record = {"task": task.name, "model": str(folder), "metrics": metrics, "content": content, "provenance": made}
        write_json(options.out / f"{task.name}.json", record)
    if options.glue_zip is not None:
        wanted = list(TASKS) if options.fill_missing else [task.name for task, _ in request.jobs]
        for note in write_submission(options.glue_zip, submitted, wanted=wanted, fill_missing=options.fill_missing):
            log.info("note: %s", note)
    return found


def check_official(jobs: tuple[tuple[Task, Path], ...], examples: list[dict[str, Split]]) -> None:
    """Refuses test splits that cannot be submitted.

    Raises:
        UserError: One line for each that has not the official number of rows.
    """
    problems = [
        problem
        for (task, _), splits in zip(jobs, examples, strict=True)
        for name in task.test_splits
        for problem in row_problems(task, name, len(splits[name]))
    ]
    if problems:
        raise UserError(*problems)


def as_table(
    task: Task,
    logits_NC: npt.NDArray[np.float32],
    predicted_N: npt.NDArray[np.generic],
    labels_N: npt.NDArray[np.generic] | None,
) -> pd.DataFrame:
    """Returns one row per example: its id, the prediction (as a class name too), the label if known, the logits."""
    columns: dict[str, object] = {"example_id": np.arange(len(predicted_N)), "prediction": predicted_N}
    if not task.regression:
        columns["class"] = [task.labels[int(class_id)] for class_id in predicted_N]
    if labels_N is not None:
        columns["label"] = labels_N
    columns |= {f"logit_{i}": logits_NC[:, i] for i in range(logits_NC.shape[1])}
    return pd.DataFrame(columns)


def table_path(options: PredictOptions, task: Task, split: str) -> Path:
    """Returns the Parquet file of a split's predictions."""
    return options.out / f"{task.name}-{split}.parquet"


def wanted_splits(task: Task, options: PredictOptions) -> list[str]:
    """Returns the splits to predict: those asked for, and for a submission the test splits. `validation` is dev.

    Raises:
        UserError: When the task has no split of that name.
    """
    if options.file:
        return [split.name for split in task.splits]
    known = [split.name for split in task.splits]
    given = [find_split(task, name).name for name in options.splits or ()]
    submits = options.glue_zip is not None
    asked = set(given or (() if submits else task.dev_splits or task.test_splits))
    return [name for name in known if name in asked or (submits and name in task.test_splits)]


def resolve_predict(options: PredictOptions, command: str) -> PredictRequest:
    """Returns the request that the options describe.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_positive(options, problems, "--max-length")
    resources = find_one_device(options.gpus, problems)
    check_writable(options.out.resolve(), "--out", problems)
    if options.glue_zip is not None:
        check_writable(options.glue_zip.resolve().parent, "--glue-zip", problems)
        if options.glue_zip.is_dir():
            problems.add(f"--glue-zip {options.glue_zip}: is a folder; give a file")
    elif options.fill_missing:
        problems.add("--fill-missing belongs to --glue-zip; leave it out, or name a zip")
    if len(options.task) != len(options.model):
        problems.add(f"--model: {len(options.model)} given for {len(options.task)} tasks; give one for each task")
    if options.file and (options.splits or options.glue_zip is not None or len(options.task) > 1):
        problems.add(
            "--file: predicts files with one model of one task; leave out --splits, --glue-zip and other tasks"
        )
    data_dir, jobs = data_folder(options), list[tuple[Task, Path]]()
    if options.demo:
        check_writable(data_dir, "--data-dir", problems)
    for name, model in zip(options.task, options.model, strict=False):
        if options.demo and problems.found:
            break  # where nothing can be written
        folder = problems.attempt(partial(find_pretrained, model, data_dir))
        unusable = [] if folder is None else folder_problems(folder)
        if options.file and (folder is None or unusable):
            problems.found += unusable
            continue  # the classes are the model's
        task = problems.attempt(partial(task_of, options, name, data_dir, folder))
        if task is not None and task.name in [earlier.name for earlier, _ in jobs]:
            problems.add(f"--task {name}: given twice; predict it with one model, or in another --out")
        if task is None:
            continue
        if options.glue_zip is not None and not task.submitted:
            problems.add(f"--glue-zip: {task.name} is not a task of GLUE, whose server takes no other; leave it out")
        wanted = problems.attempt(partial(wanted_splits, task, options)) or []
        problems.found += check_source(task, data_dir, needed=wanted)
        for split in wanted:
            path = table_path(options, task, split)
            if path.is_dir():
                problems.add(f"{path} is a folder; move it, or give another --out")
        if folder is not None:
            problems.found += unusable or model_problems(folder, task, options.max_length)
            jobs.append((task, folder.resolve()))
    problems.raise_any()
    assert resources is not None
    return PredictRequest(options, tuple(jobs), resources.device, command)


def task_of(options: PredictOptions, name: str, data_dir: Path, folder: Path | None) -> Task:
    """Returns the task of this name; where files are predicted, with these as its splits.

    Raises:
        UserError: There is no such task, or its data or a file is wrong.
    """
    if options.demo:
        task = demo_task(data_dir, name)
        return with_files(task, options.file) if options.file else task
    if options.file:
        assert folder is not None
        return task_of_files(name, options.file, class_names(folder))
    return find_task(name)


def data_folder(options: PredictOptions) -> Path:
    """Returns the data folder; the demo's lies below the user's own, not among its files."""
    folder = options.data_dir.resolve()
    return folder / "demo" if options.demo else folder


def folder_problems(folder: Path) -> list[str]:
    """Returns why there is no classifier in a folder, one line each."""
    if wrong := encoder_problems(folder, "--model"):
        return wrong
    if has_classifier(folder):
        return []
    return [f"--model {folder}: has no fine-tuned classifier; fine-tune it with pkd_tune.finetune, or distil a student"]


def model_problems(folder: Path, task: Task, max_length: int | None) -> list[str]:
    """Returns why the classifier in a folder cannot predict a task, one line each."""
    found = classifier_problems(folder, "--model", task)
    if max_length is not None and max_length > length_limit(folder):
        found.append(f"--model {folder}: reads at most {length_limit(folder)} tokens, not {max_length}")
    return found
