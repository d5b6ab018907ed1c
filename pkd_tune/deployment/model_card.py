"""The model card (README.md) of a shipped student."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pkd_tune.data.task import Task, TaskSplit
from pkd_tune.deployment.formats import FORMATS, INT8, ONNX, PYTORCH
from pkd_tune.files import write_text
from pkd_tune.reporting.document import Table, markdown
from pkd_tune.reporting.formatting import metric_titles, setting_text
from pkd_tune.reporting.methods import unused_settings

PKD = "with Patient Knowledge Distillation (Sun et al., EMNLP 2019, https://arxiv.org/abs/1908.09355)"
KD = "with vanilla knowledge distillation (Hinton et al., 2015, https://arxiv.org/abs/1503.02531)"
ORIGINS = {
    "pkd": f"distilled from {{teacher}}\n{PKD}",
    "kd": f"distilled from {{teacher}}\n{KD}",
    "finetuned": "fine-tuned without a teacher",
}
"""How a student came to be, by the first word of its method."""
CHOSEN = {
    "dev": "These scores are of the best of several trials, chosen on this very split, so they are optimistic.",
    "holdout": "The best of several trials, chosen on a part of the training split, not on dev.",
}
"""What the scores are worth, by what chose the trial."""


def write_card(
    student: dict[str, Any],
    teacher: dict[str, Any],
    task: Task,
    command: str,
    target: Path,
    *,
    seed: int,
    demo: bool,
    select_on: str = "dev",
    formats: Sequence[dict[str, Any]] = (),
    latency_on: str = "",
) -> None:
    """Writes the model card of a student's folder.

    Args:
        student: As summary.json has it.
        teacher: As summary.json has it.
        task: What it predicts.
        command: What was run to get it.
        target: The student's folder.
        seed: Of its training.
        demo: Whether the data was the made-up corpus, which must not pass for GLUE's.
        select_on: The examples that chose trial and epoch, `dev` or `holdout`.
        forms: What the folder holds, each measured: `format_name`, `metrics`, `size_mb`, `latency_ms`; by default PyTorch's
            alone, which `student` describes.
        latency_on: What the forms' latencies were measured on.
    """
    titles = metric_titles(student["metrics"])
    results = _table(
        ["dev split, × 100", "this model", "teacher"],
        [
            [title, f"{student['metrics'][name]:.1f}", f"{teacher['metrics'][name]:.1f}"]
            for name, title in titles.items()
        ],
    )
    method = student.get("method", "pkd")
    idle = unused_settings(method, student["layers"])
    settings = "".join(
        f"\n- {name}: {setting_text(value)}" for name, value in student["settings"].items() if name not in idle
    )
    imitated = ", ".join(map(str, student["imitated_layers"])) or "none"
    data = f"a made-up demo corpus in the format of {task.name}" if demo else f"GLUE {task.name}"
    of_teacher = f"a {teacher['layers']}-layer teacher ({teacher['name']})"
    origin = ORIGINS[method.split("-")[0]].format(teacher=of_teacher)
    held = {measured["form"] for measured in formats} or {PYTORCH}
    tags = "\n- onnx" if held - {PYTORCH} else ""
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
- pkd_tune{tags}
{"" if demo else index}---

# {student["layers"]}-layer BERT for {data}

A BERT model for {data}, {origin}.
{_meaning(task)}

{results}

{CHOSEN[select_on]}
{_confirmed(student)}
{student["parameters"] / 1e6:.1f} M parameters, {student["parameters"] / teacher["parameters"]:.0%} of the teacher's;
{student["latency_ms"]:.1f} ms per example against {teacher["latency_ms"]:.1f} ms.

Settings of trial {student["trial"]} (seed {seed}; teacher layers imitated: {imitated}):
{settings}
{_formats(formats, titles, latency_on)}
Use:

{_use(task, held)}
Made with `{command}`.
"""
    write_text(target / "README.md", card)


def formats_table(formats: Sequence[dict[str, Any]], titles: dict[str, str]) -> str:
    """Returns a Markdown table of measured forms: file, size, scores, latency."""
    rows = [
        [
            FORMATS[measured["form"]].title,
            f"`{FORMATS[measured['format_name']].file}`",
            f"{measured['size_mb']:.1f} MB",
            *(f"{measured['metrics'][name]:.1f}" for name in titles),
            f"{measured['latency_ms']:.1f} ms",
        ]
        for measured in formats
    ]
    return _table(["form", "file", "size", *titles.values(), "latency"], rows)


def _formats(formats: Sequence[dict[str, Any]], titles: dict[str, str], latency_on: str) -> str:
    """Returns the section on the forms in the folder; empty when there is nothing to say."""
    if not formats:
        return ""
    return f"""
The forms in this folder, each loaded again and scored on the dev split. Latency is the median of one forward pass for a
single example on {latency_on}, tokenising left out, the forms taking turns:

{formats_table(formats, titles)}
"""


def _confirmed(student: dict[str, Any]) -> str:
    """Returns a line on the trainings that confirmed the student's settings; empty when there were none."""
    if not (confirmed := student.get("confirmed")):
        return ""
    spread = "" if confirmed["sd"] is None else f" ± {confirmed['sd']:.1f} (mean ± sd)"
    seeds = ", ".join(map(str, confirmed["seeds"]))
    return f"Its settings trained again with other seeds ({seeds}) score {confirmed['mean']:.1f}{spread}."


def _use(task: Task, held: set[str]) -> str:
    """Returns code that runs the forms in a folder, indented as Markdown wants it."""
    pair = task.splits[0].layout.sentence2 is not None
    example = '{"text": "First sentence .", "text_pair": "Second sentence ."}' if pair else '"A sentence ."'
    sentences = '"First sentence .", "Second sentence ."' if pair else '"A sentence ."'
    code = f"""    from transformers import pipeline

    classify = pipeline("text-classification", "PATH OR NAME OF THIS FOLDER")
    print(classify({example}))
"""
    files = [FORMATS[format_name].file for format_name in (ONNX, INT8) if format_name in held]
    if files:
        code += f"""
With onnxruntime, which takes any number of examples of any length{", in fp32 or int8" if len(files) == 2 else ""}:

    from onnxruntime import InferenceSession
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained("PATH OF THIS FOLDER")
    session = InferenceSession("PATH OF THIS FOLDER/{files[-1]}")
    (logits,) = session.run(["logits"], dict(tokenizer({sentences}, return_tensors="np")))
    print(logits)
"""
    return code


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


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
