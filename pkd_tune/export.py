"""Turns the best trial of a depth into a Hugging Face folder, loads it again, and measures what was loaded.

A folder holds safetensors weights, configuration, tokenizer and a model card; `transformers` needs nothing of ours.
"""

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune.comparison import against_controls, confirmed
from pkd_tune.config import UserError
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.distillation.model_folder import WEIGHTS, model_name
from pkd_tune.distillation.modeling import cut_to_layers, load_classifier
from pkd_tune.distillation.teacher import save_classifier
from pkd_tune.glue.data import RawSplit, load_raw
from pkd_tune.glue.tasks import TASKS, Task, TaskSplit, majority_score, predictions, score
from pkd_tune.reporting.records import write_text
from pkd_tune.reporting.tables import metric_titles, setting_text
from pkd_tune.tuning.arms import Assignment
from pkd_tune.tuning.study import Studies, evaluations
from pkd_tune.tuning.trial import Workplace, weights_path

LATENCY_EXAMPLES = 50
"""Single examples timed for a latency."""


def export_best(workplace: Workplace, studies: Studies, run_dir: Path, command: str, *, demo: bool) -> dict[str, Any]:
    """Exports the best trial of each depth and method below `best/`, and measures teacher and students alike.

    Args:
        workplace: Of the search; holds the weights of trials.
        studies: Say which trial is best.
        run_dir: Receives the folders.
        command: What was run, for the model card.
        demo: Whether the data is the made-up corpus.

    Returns:
        What summary.json holds.
    """
    config, teacher = workplace.search, workplace.teacher
    data, task = config.data, TASKS[config.data.task]
    raw = load_raw(task, data.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    start = data.student_dir if data.init == "pretrained" else teacher.folder
    teacher_record: dict[str, Any] = {
        "name": model_name(data.teacher_dir),
        "layers": teacher.layers,
        "finetuned_here": teacher.finetuned_here,
        "majority": majority_score(task, {name: split.labels for name, split in dev.items()}),
        "baseline": task.baseline,
        **measure(teacher.folder, dev, task, data.max_length),
    }
    students: list[dict[str, Any]] = []
    for arm in sorted(studies.plans, key=lambda arm: arm.depth):
        best = studies.best(arm)
        if best is None:
            continue
        settings = studies.settings(arm, best)
        target = run_dir / "best" / (f"{arm.depth}-layer" + ("" if arm.method == "pkd" else f"-{arm.method}"))
        weights = weights_path(workplace.folder, Assignment(arm, "search", best.number))
        if not weights.exists():
            raise UserError(f"{weights} is gone, and with it the best {arm.name} student; start another run with --new")
        export_student(weights, arm.depth, start, task, config.student_training.seed, target)
        scores = best.intermediate_values
        best_step = max(scores, key=lambda step: (scores[step], -step))
        student: dict[str, Any] = {
            "layers": arm.depth,
            "method": arm.method,
            "trial": best.number,
            "trials_ended": sum(trial.state.is_finished() for trial in studies.trials(arm)),
            "search_score": best.value,
            "epoch": evaluations(best)[best_step]["epoch"],
            "settings": settings,
            "imitated_layers": teacher_layers(settings["strategy"], arm.depth, teacher.layers)
            if settings["beta"]
            else (),
            "confirmed": confirmed(studies, arm),
            "folder": target.relative_to(run_dir).as_posix(),
            **measure(target, dev, task, data.max_length),
        }
        if data.select_on == "dev":
            check_reproduced(student, {name: len(split) for name, split in dev.items()})
        students.append(student)
    folders = [teacher.folder, *(run_dir / student["folder"] for student in students)]
    timed = latencies_ms(folders, dev[task.dev_splits[0]], data.max_length)
    for model, latency in zip([teacher_record, *students], timed, strict=True):
        model["latency_ms"] = latency
    labels = {name: np.asarray(split.labels) for name, split in dev.items()}
    for student in students:
        student["against"] = against_controls(workplace, studies, student, labels)
        write_card(student, teacher_record, task, command, run_dir / student["folder"], demo=demo)
    return {"teacher": teacher_record, "students": students, "latency_on": latency_machine()}


def check_reproduced(student: dict[str, Any], sizes: Mapping[str, int]) -> None:
    """Refuses an exported student whose score is not its trial's.

    Trials score in bf16 where the hardware has it and the export in fp32, which can move an example across the
    boundary; so three examples of the smallest dev split, or one point, are let pass.

    Raises:
        RuntimeError: When the scores are further apart: what was exported is not what was searched.
    """
    exported, searched = student["metrics"]["score"], student["search_score"]
    if abs(exported - searched) > max(1.0, 300 / min(sizes.values())):
        raise RuntimeError(f"{student['folder']} scores {exported:.2f}, but its trial scored {searched:.2f}")


def export_student(weights: Path, layers: int, pretrained_dir: Path, task: Task, seed: int, target: Path) -> None:
    """Writes a student's folder from the weights its trial saved; replaces an older one.

    Args:
        weights: The safetensors file of the trial.
        layers: The student's depth.
        pretrained_dir: The encoder it was cut from, and its tokenizer.
        task: Gives the class names.
        seed: Only fills weights that `weights` then overwrites.
        target: The folder.
    """
    student = cut_to_layers(load_classifier(pretrained_dir, task.labels, seed), range(1, layers + 1))
    student.load_state_dict(load_file(weights))
    target.parent.mkdir(parents=True, exist_ok=True)
    save_classifier(student, pretrained_dir, target)


def measure(model_dir: Path, dev: Mapping[str, RawSplit], task: Task, max_length: int) -> dict[str, Any]:
    """Loads a folder as any user of `transformers` would, in fp32 on the CPU, and scores it.

    Args:
        model_dir: A classifier's folder.
        dev: The task's dev splits by name.
        task: Says how to score.
        max_length: Longest example in word pieces.

    Returns:
        `metrics` (times 100), `parameters`, and `size_mb` of the weight file.
    """
    encode, model = _load_plain(model_dir, max_length)
    predicted = {}
    with torch.inference_mode():
        for name, split in dev.items():
            slices = [slice(start, start + 32) for start in range(0, len(split), 32)]
            logits_NC = torch.cat([model(**encode(split, rows)).logits for rows in slices])
            predicted[name] = predictions(task, logits_NC.numpy())
    return {
        "metrics": score(task, predicted, {name: split.labels for name, split in dev.items()}),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "size_mb": (model_dir / WEIGHTS).stat().st_size / 1e6,
    }


def latencies_ms(folders: Sequence[Path], split: RawSplit, max_length: int) -> list[float]:
    """Returns each model's median time for a single example in fp32 on the CPU, tokenising left out.

    The models take turns at every example, so that whatever else the machine does strikes them alike.

    Args:
        folders: Of the models.
        split: Its first `LATENCY_EXAMPLES` examples are timed.
        max_length: Longest example in word pieces.
    """
    loaded = [_load_plain(folder, max_length) for folder in folders]
    seconds: list[list[float]] = [[] for _ in loaded]
    with torch.inference_mode():
        for i in range(min(LATENCY_EXAMPLES, len(split))):
            for (encode, model), times in zip(loaded, seconds, strict=True):
                single = encode(split, slice(i, i + 1))
                model(**single)  # brings the model's weights back into the processor's caches
                started = time.perf_counter()
                model(**single)
                times.append(time.perf_counter() - started)
    return [1000 * statistics.median(times) for times in seconds]


def _load_plain(model_dir: Path, max_length: int) -> tuple[Callable[[RawSplit, slice], Any], Any]:
    """Returns what turns examples into a padded batch, and the model, as plain `transformers` loads them."""
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True)
    model = AutoModelForSequenceClassification.from_pretrained(
        model_dir, local_files_only=True, use_safetensors=True, dtype=torch.float32
    )

    def encode(split: RawSplit, rows: slice) -> Any:
        second = None if split.sentence2 is None else split.sentence2[rows]
        texts = split.sentence1[rows]
        return tokenizer(texts, second, truncation=True, max_length=max_length, padding=True, return_tensors="pt")

    return encode, model.eval()


def latency_machine() -> str:
    """Returns on what latencies are measured."""
    return f"{torch.get_num_threads()} threads of {platform.machine()}"


def write_card(
    student: dict[str, Any], teacher: dict[str, Any], task: Task, command: str, target: Path, *, demo: bool
) -> None:
    """Writes the model card (README.md) of an exported student.

    Args:
        student: As summary.json has it.
        teacher: As summary.json has it.
        task: What it predicts.
        command: What was run to get it.
        target: The student's folder.
        demo: Whether the data was the made-up corpus, which must not pass for GLUE's.
    """
    titles = metric_titles(student["metrics"])
    results = "\n".join(
        f"| {title} | {student['metrics'][name]:.1f} | {teacher['metrics'][name]:.1f} |"
        for name, title in titles.items()
    )
    settings = "\n".join(f"- {name}: {setting_text(value)}" for name, value in student["settings"].items())
    imitated = ", ".join(map(str, student["imitated_layers"])) or "none"
    pair = task.splits[0].layout.sentence2 is not None
    example = '{"text": "First sentence .", "text_pair": "Second sentence ."}' if pair else '"A sentence ."'
    data = f"a made-up demo corpus in the format of {task.name}" if demo else f"GLUE {task.name}"
    index = f"""datasets:
- nyu-mll/glue
model-index:
- name: {task.name}-{student["layers"]}-layer
  results:
{"".join(_index_entry(student["metrics"], task, task.split(name)) for name in task.dev_splits)}"""
    card = f"""---
library_name: transformers
pipeline_tag: text-classification
language: en
tags:
- knowledge-distillation
- patient-knowledge-distillation
- pkd_tune
{"" if demo else index}---

# {student["layers"]}-layer BERT for {data}

A BERT model for {data}, distilled from a {teacher["layers"]}-layer teacher ({teacher["name"]}) with
Patient Knowledge Distillation (Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355).
{_meaning(task)}

| dev split, × 100 | this model | teacher |
| :-- | --: | --: |
{results}

The score is the best evaluation of the best of several trials on the split that selected it, so it is optimistic.
{student["parameters"] / 1e6:.1f} M parameters, {student["parameters"] / teacher["parameters"]:.0%} of the teacher's;
{student["latency_ms"]:.1f} ms per example against {teacher["latency_ms"]:.1f} ms.

Settings of trial {student["trial"]} (teacher layers imitated: {imitated}):

{settings}

Use:

    from transformers import pipeline

    classify = pipeline("text-classification", "PATH OR NAME OF THIS FOLDER")
    print(classify({example}))

Made with `{command}`.
"""
    write_text(target / "README.md", card)


def _meaning(task: Task) -> str:
    """Returns what the model's outputs mean."""
    if task.value_range is not None:
        low, high = task.value_range
        return f"Its one output is a score from {low:g} to {high:g}."
    return f"Classes: {', '.join(f'{i} {label}' for i, label in enumerate(task.labels))}."


def _index_entry(metrics: dict[str, float], task: Task, split: TaskSplit) -> str:
    """Returns what the hub's index of results gets for one dev split."""
    values = "\n".join(f"    - type: {name}\n      value: {metrics[name + split.suffix]:.2f}" for name in task.metrics)
    return f"""  - task:
      type: text-classification
    dataset:
      name: GLUE {task.name}
      type: nyu-mll/glue
      config: {task.hub_name}
      split: {split.hub}
    metrics:
{values}
"""
