"""The model card (README.md) of an exported student."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData, metadata_load
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup
from yaml import YAMLError

from pkd_tune.config import Task
from pkd_tune.deployment.formats import FORMATS, INT8, ONNX, PYTORCH
from pkd_tune.encoders.folder import family_of, hub_name
from pkd_tune.files import MODEL_CARD, write_text
from pkd_tune.reporting.document import Table, Text, code, markdown, markdown_literal
from pkd_tune.reporting.formatting import metric_titles, millions, number_text, setting_text, spread_text
from pkd_tune.reporting.methods import unused_settings

METRIC_TYPES = {
    "accuracy": "accuracy",
    "f1": "f1",
    "macro_f1": "f1",
    "matthews": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
}
"""Names of the metrics in the library `evaluate`, which the Hugging Face hub knows."""


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
    verdict: str = "",
    formats: Sequence[dict[str, Any]] = (),
    latency_on: str = "",
    start: Path | None = None,
) -> None:
    """Writes the model card of a student.

    Args:
        student: Student of summary.json.
        teacher: Teacher of summary.json.
        task: The task of the student.
        command: The command that trained the student.
        target: The student's model folder.
        seed: Seed of its training.
        demo: Whether the data is the synthetic demo corpus, which must not be taken for GLUE.
        select_on: The examples that selected trial and epoch, `dev` or `holdout`.
        verdict: What the search says of the student, as a text of a report, where it is the one to ship.
        formats: The measured formats in the folder, as `formats_table` takes them; empty for PyTorch alone, which
            `student` describes.
        latency_on: The device on which the latencies of `formats` were measured.
        start: Folder of the pretrained model that the student was cut from; names it, and its licence, for the hub
            where it comes from there.
    """
    titles = metric_titles(student["metrics"], task.score)
    rows = [
        [title, f"{student['metrics'][name]:.1f}", f"{teacher['metrics'][name]:.1f}"] for name, title in titles.items()
    ]
    unused = unused_settings(
        student["method"], student["layers"], regression=task.regression, settings=student["settings"]
    )
    corpus = (
        f"a synthetic demo corpus in the format of {task.name}" if task.benchmark else f"the demo's task {task.name}"
    )
    held = {measured["format"] for measured in formats} or {PYTORCH}
    card = _template().render(
        metadata=Markup(_metadata(student, task, demo=demo, onnx=held != {PYTORCH}, start=start).to_yaml() + "\n"),
        student=student,
        family=family_of(target).title,
        teacher=teacher,
        task=task,
        verdict=Markup(markdown([Text(verdict)])) if verdict else "",
        data=corpus if demo else task.title,
        scores=Markup(_table(["dev split, × 100", "this model", "teacher"], rows)),
        select_on=select_on,
        seed=seed,
        settings={name: value for name, value in student["settings"].items() if name not in unused},
        formats_table=Markup(formats_table(formats, titles)) if formats else "",
        latency_on=latency_on,
        pair=task.pair,
        onnx_files=[FORMATS[name].file for name in (ONNX, INT8) if name in held],
        command=command,
    )
    write_text(target / MODEL_CARD, card)


def formats_table(formats: Sequence[dict[str, Any]], titles: dict[str, str]) -> str:
    """Returns a Markdown table of measured formats: file, size, scores, latency.

    Args:
        formats: Of each, its name as `format`, and what `measurement.measure` returns with `latency_ms`.
        titles: Titles of the metrics.
    """
    rows = [
        [
            FORMATS[measured["format"]].title,
            code(FORMATS[measured["format"]].file),
            f"{measured['size_mb']:.1f} MB",
            *(f"{measured['metrics'][name]:.1f}" for name in titles),
            f"{measured['latency_ms']:.1f} ms",
        ]
        for measured in formats
    ]
    return _table(["format", "file", "size", *titles.values(), "latency"], rows)


@cache
def _template() -> Template:
    """Returns the template; values are escaped for Markdown unless they are marked safe."""

    def escape(value: object) -> object:
        return value if isinstance(value, Markup) else markdown_literal(value)

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"number": number_text, "setting": setting_text, "code": lambda value: Markup(code(value))}
    environment.globals |= {"millions": millions, "spread": spread_text}
    return environment.get_template("model_card.md.j2")


def _metadata(student: dict[str, Any], task: Task, *, demo: bool, onnx: bool, start: Path | None) -> ModelCardData:
    """Returns the metadata for the Hugging Face hub; a demo has neither data set nor scores there."""
    tags = ["knowledge-distillation", "patient-knowledge-distillation", "pkd_tune", *(["onnx"] if onnx else [])]
    public = task.hub is not None and not Path(task.hub.repository).is_dir()
    repository = task.hub.repository if task.hub is not None and public else None
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=repository or task.name,
            dataset_name=task.title,
            dataset_config=task.hub.config if task.hub is not None and public else None,
            dataset_split=split.hub or split.name,
            metric_type=METRIC_TYPES[name],
            metric_value=round(student["metrics"][name + split.suffix], 2),
        )
        for split in map(task.split, task.dev_splits)
        for name in task.metrics
    ]
    base = None if start is None else hub_name(start)
    return ModelCardData(
        base_model=base,
        license=None if start is None or base is None else licence(start),
        language="en" if task.benchmark else None,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=tags,
        datasets=None if demo or repository is None else [repository],
        model_name=None if demo else f"{task.name}-{student['layers']}-layer",
        eval_results=None if demo else results,
    )


def licence(folder: Path) -> str | None:
    """Returns the licence that the model card in a folder states; None where it states none that can be read."""
    card = folder / MODEL_CARD
    if not card.is_file():
        return None
    try:
        stated = (metadata_load(card) or {}).get("license")
    except (YAMLError, ValueError, RecursionError):  # ValueError: no mapping, or not UTF-8
        return None
    return stated if isinstance(stated, str) else None


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
