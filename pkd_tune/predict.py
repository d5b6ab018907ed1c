"""A model's predictions: scores, Parquet files, and the files the GLUE benchmark takes.

python -m pkd_tune.predict --task RTE --model DIR --splits train dev test
python -m pkd_tune.predict --task MNLI --model DIR --glue-zip submission.zip
python -m pkd_tune.predict --task MNLI AX RTE --model MNLI_DIR MNLI_DIR RTE_DIR --glue-zip submission.zip
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pkd_tune.cli.command_line import Parser, Problems, check_positive, check_writable, run_command, say
from pkd_tune.config import UserError
from pkd_tune.data.demo import write_demo
from pkd_tune.data.glue import TASKS, find_task
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_features
from pkd_tune.data.metrics import predictions, split_metrics
from pkd_tune.data.submission import row_problems, write_submission
from pkd_tune.data.task import Task
from pkd_tune.data.tokens import Split
from pkd_tune.encoders.folder import classifier_problems, encoder_problems, has_classifier, length_limit, weights_key
from pkd_tune.files import write_file, write_json
from pkd_tune.reporting.formatting import METRIC_TITLES
from pkd_tune.reporting.provenance import provenance
from pkd_tune.tuning.resources import choose_resources, gpu_names
from pkd_tune.tuning.space_file import find_space, load_space

Logits = dict[str, npt.NDArray[np.float32]]


def make_parser() -> Parser:
    """Returns the command's flags."""
    parser = Parser(
        prog="python -m pkd_tune.predict",
        description="Scores fine-tuned models, writes their predictions as Parquet, and makes GLUE benchmark files.",
        epilog="AX has no model of its own: give it a model of MNLI.",
    )
    add = parser.add_argument
    add("--task", required=True, nargs="+", help=f"GLUE tasks, in any usual spelling: {', '.join(TASKS)}")
    add("--model", required=True, nargs="+", metavar="DIR", help="one fine-tuned model per task, in the same order")
    add(
        "--splits",
        nargs="+",
        metavar="SPLIT",
        help="train, dev, test; for MNLI also dev_mm, test_mm (default: dev; with --glue-zip the test splits)",
    )
    add("--demo", action="store_true", help="predict the made-up corpus, for models trained on it")
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="as of the other commands (default: data)")
    add("--max-length", type=int, metavar="N", help="longest example in word pieces (default: what a search uses)")
    add("--gpus", type=int, metavar="N", help="0: the CPU; 1: a GPU (default: a GPU when there is one)")
    add(
        "--out",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="Parquet files are written there, <TASK>-<split>.parquet (default: %(default)s)",
    )
    add("--glue-zip", type=Path, metavar="FILE", help="also write the tasks' files for the GLUE benchmark")
    add("--fill-missing", action="store_true", help="make the zip whole: other tasks get their most frequent class")
    return parser


def predict(args: argparse.Namespace, argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    jobs, device_name = resolve(args)
    import torch  # takes seconds, which --help need not wait for

    from pkd_tune.distillation import inference
    from pkd_tune.encoders.modeling import load_classifier

    examples = []
    for task, folder in jobs:
        max_length = args.max_length or min(load_space(find_space("default")).max_length, length_limit(folder))
        examples.append(load_features(task, data_folder(args), folder, max_length))
    if args.glue_zip is not None:
        check_official(jobs, examples)
    made = provenance("pkd_tune.predict", argv, gpu_names())
    submitted: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    for (task, folder), splits in zip(jobs, examples, strict=True):
        found: dict[str, dict[str, float]] = {}
        model = load_classifier(folder, task.labels, seed=0).to(torch.device(device_name))
        for name in wanted_splits(task, args):
            logits_NC = inference.predict(model, splits[name], precision="fp32").numpy()
            predicted_N = predictions(task, logits_NC)
            path = table_path(args, task, name)
            table = as_table(task, logits_NC, predicted_N, splits[name].labels)
            write_file(path, partial(table.to_parquet, index=False))
            if name in task.test_splits:
                submitted.setdefault(task.name, {})[name] = predicted_N
                scores = "no labels to score"
            else:
                found[name] = split_metrics(task, name, predicted_N, splits[name].labels)
                scores = ", ".join(f"{METRIC_TITLES[metric]} {value:.1f}" for metric, value in found[name].items())
            print(f"{task.name} {name}: {scores} → {path}")
        content = {"weights": weights_key(folder), **{name: splits[name].key for name in wanted_splits(task, args)}}
        record = {"task": task.name, "model": str(folder), "metrics": found, "content": content, "provenance": made}
        write_json(args.out / f"{task.name}.json", record)
    if args.glue_zip is not None:
        wanted = list(TASKS) if args.fill_missing else [task.name for task, _ in jobs]
        notes = write_submission(args.glue_zip, submitted, wanted=wanted, fill_missing=args.fill_missing)
        for note in notes:
            say(f"note: {note}")
        print(args.glue_zip)
    return 0


def check_official(jobs: list[tuple[Task, Path]], examples: list[dict[str, Split]]) -> None:
    """Refuses test splits that cannot be submitted, before anything is predicted.

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


def table_path(args: argparse.Namespace, task: Task, split: str) -> Path:
    """Returns where a split's predictions are written."""
    path: Path = args.out / f"{task.name}-{split}.parquet"
    return path


def wanted_splits(task: Task, args: argparse.Namespace) -> list[str]:
    """Returns the splits to predict: those asked for, and for a zip the test splits.

    Raises:
        UserError: When the task has no split of that name.
    """
    known = [split.name for split in task.splits]
    if wrong := [name for name in args.splits or [] if name not in known]:
        raise UserError(f"--splits {wrong[0]}: {task.name} has {', '.join(known)}")
    asked = set(args.splits or ([] if args.glue_zip is not None else task.dev_splits or task.test_splits))
    return [name for name in known if name in asked or (args.glue_zip is not None and name in task.test_splits)]


def resolve(args: argparse.Namespace) -> tuple[list[tuple[Task, Path]], str]:
    """Turns flags into settings: each task with its model's folder, and the device.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_positive(args, problems, "--max-length")
    resources = problems.attempt(lambda: choose_resources(args.gpus))
    check_writable(args.out.resolve(), "--out", problems)
    if args.glue_zip is not None:
        check_writable(args.glue_zip.resolve().parent, "--glue-zip", problems)
        if args.glue_zip.is_dir():
            problems.found.append(f"--glue-zip {args.glue_zip}: is a folder; give a file")
    elif args.fill_missing:
        problems.found.append("--fill-missing belongs to --glue-zip; leave it out, or name a zip")
    if len(args.task) != len(args.model):
        problems.found.append(f"--model: {len(args.model)} given for {len(args.task)} tasks; give one for each task")
    data_dir, jobs = data_folder(args), list[tuple[Task, Path]]()
    if args.demo:
        check_writable(data_dir, "--data-dir", problems)
    for name, model in zip(args.task, args.model, strict=False):
        task = problems.attempt(partial(find_task, name))
        folder = problems.attempt(partial(find_pretrained, model, data_dir))
        if task is not None and task.name in [earlier.name for earlier, _ in jobs]:
            problems.found.append(f"--task {name}: given twice; predict it with one model, or in another --out")
        if task is None or (args.demo and problems.found):
            continue  # there are no files to look at
        if args.demo:
            problems.attempt(partial(write_demo, data_dir, task.name))
        wanted = problems.attempt(partial(wanted_splits, task, args)) or []
        problems.found += check_source(task, data_dir, needed=wanted)
        for split in wanted:
            if table_path(args, task, split).is_dir():
                problems.found.append(f"{table_path(args, task, split)} is a folder; move it, or give another --out")
        if folder is not None:
            problems.found += model_problems(folder, task, args.max_length)
            jobs.append((task, folder.resolve()))
    problems.raise_any()
    assert resources is not None
    return jobs, resources.device


def data_folder(args: argparse.Namespace) -> Path:
    """Returns the data folder; the demo's is beside the user's own data, not among it."""
    folder: Path = args.data_dir.resolve()
    return folder / "demo" if args.demo else folder


def model_problems(folder: Path, task: Task, max_length: int | None) -> list[str]:
    """Returns why a folder's model cannot predict a task, one line each."""
    if wrong := encoder_problems(folder, "--model"):
        return wrong
    found = []
    if not has_classifier(folder):
        found.append(f"--model {folder}: is pretrained only; fine-tune it with pkd_tune.finetune, or distil a student")
    found += classifier_problems(folder, "--model", task)
    if max_length is not None and max_length > length_limit(folder):
        found.append(f"--model {folder}: reads at most {length_limit(folder)} word pieces, not {max_length}")
    return found


if __name__ == "__main__":
    sys.exit(run_command(make_parser(), predict))
