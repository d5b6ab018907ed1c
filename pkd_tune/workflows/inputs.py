"""From names to what lies behind them: the task and its data folder, model folders, the device."""

import logging
from pathlib import Path

from pkd_tune.config import DataConfig, Init, Precision, Task
from pkd_tune.data.demo import demo_task
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.hub import find_pretrained
from pkd_tune.data.loading import check_source, load_raw, source_notes
from pkd_tune.data.task import find_trainable
from pkd_tune.data.unlabeled import read_unlabeled
from pkd_tune.encoders.families import Family
from pkd_tune.encoders.folder import classifier_problems, encoder_problems, family_of, has_classifier, length_limit
from pkd_tune.encoders.precision import check_precision
from pkd_tune.tuning.resources import Resources, choose_resources
from pkd_tune.workflows.checks import Problems, check_writable
from pkd_tune.workflows.options import DEFAULT_MODEL, DataOptions

log = logging.getLogger(__name__)

WRITTEN_FOLDERS = ("data_feat", "models/finetuned", "teacher_cache")
"""Folders below --data-dir that training runs write to."""

ONE_LAYER_TEACHER = "--teacher: a student has fewer layers than its teacher; give one of 2 layers or more"


def find_data(options: DataOptions, problems: Problems) -> tuple[Task | None, Path]:
    """Returns the task and the data folder after checking the task's files; with `demo`, writes those files first.

    Training runs write into the data folder too, so that must be possible.
    """
    if options.demo:
        return _find_demo(options, problems)
    task = problems.attempt(lambda: find_trainable(options.task))
    data_dir = options.data_dir.resolve()
    if task is not None:
        problems.found += check_source(task, data_dir)
    before = len(problems.found)
    for folder in WRITTEN_FOLDERS:
        if len(problems.found) == before:
            check_writable(data_dir / folder, "--data-dir", problems)
    return task, data_dir


def _find_demo(options: DataOptions, problems: Problems) -> tuple[Task | None, Path]:
    data_dir = options.data_dir.resolve() / "demo"
    check_writable(data_dir, "--data-dir", problems)
    if problems.found:
        return None, data_dir
    return problems.attempt(lambda: demo_task(data_dir, options.task)), data_dir


def find_encoder(
    name: str, flag: str, options: DataOptions, task: Task | None, data_dir: Path, problems: Problems
) -> Path | None:
    """Returns the folder of a model that can be a teacher, or that students can be initialised from.

    Args:
        name: Of the model; with `demo` it must be the default, and the demo's model is taken.
        flag: Names it in messages, for example `--teacher`.
        options: Say whether the demo is run.
        task: Whose classifier it may have.
        data_dir: From `find_data()`.
        problems: Receives what is wrong.
    """
    if options.demo and name != DEFAULT_MODEL:
        problems.add(f"--demo has its own model; leave out {flag}")
    if options.demo and problems.found:
        return None  # the demo was not written
    folder = problems.attempt(lambda: find_pretrained("demo" if options.demo else name, data_dir).resolve())
    if folder is None:
        return None
    if wrong := encoder_problems(folder, flag):
        problems.found += wrong
        return None
    if task is not None:
        problems.found += classifier_problems(folder, flag, task)
    return folder


def check_length(folder: Path | None, flag: str, max_length: int, problems: Problems, *, demo_asked: str = "") -> None:
    """Records a problem when a model cannot read examples of this many tokens.

    Args:
        folder: Of the model.
        flag: What names the model.
        max_length: In tokens.
        problems: Receives what is wrong.
        demo_asked: With the demo's model, which no flag names: the flag that decides the length.
    """
    if folder is not None and max_length > length_limit(folder):
        model = f"{demo_asked}: the demo's model" if demo_asked else f"{flag} {folder}:"
        problems.add(
            f"{model} reads at most {length_limit(folder)} tokens, not {max_length}; "
            f"give --max-length {length_limit(folder)}"
        )


def check_pretrained(folder: Path | None, problems: Problems) -> None:
    """Records a problem when the model that --student names is fine-tuned already."""
    if folder is not None and has_classifier(folder):
        problems.add(f"--student {folder}: is fine-tuned already; give a pretrained encoder, or leave it out")


def student_init(init: Init, student_dir: Path) -> Init:
    """Returns how students are initialised, and logs a note where that is not what was asked for.

    Args:
        init: What was asked for, or is the default.
        student_dir: The model students are initialised from. A fine-tuned one is the teacher itself; what it was before
            fine-tuning is not known, so that students start from the teacher's layers.
    """
    if init != "pretrained" or not has_classifier(student_dir):
        return init
    log.info(
        "note: the teacher given is fine-tuned already, and students start from its first layers (init teacher); "
        "--student names a pretrained model to start from, as published"
    )
    return "teacher"


def forward_pass_text(data: DataConfig) -> str:
    """Returns which forward pass teacher and students run, and what that of transformers costs."""
    families = {"teacher": family_of(data.teacher_dir), "students": family_of(data.student_dir)}
    ways = [f"{who} ({family.title}) {_forward_pass_name(family)}" for who, family in families.items()]
    return f"Forward pass: {', '.join(ways)}."


def _forward_pass_name(family: Family) -> str:
    if family.slowdown is None:
        return "fast"
    return f"transformers, about {family.slowdown:g} x slower per example than BERT's fast one"


def find_one_device(gpus: int | None, problems: Problems) -> Resources | None:
    """Returns the resources of this machine for a command that runs one model, which takes one GPU."""
    if gpus is not None and gpus > 1:
        problems.add(f"--gpus {gpus}: this command runs one model, on one GPU; give --gpus 1")
        return None
    return problems.attempt(lambda: choose_resources(gpus))


def find_device(gpus: int | None, precision: Precision, problems: Problems) -> Resources | None:
    """Returns the resources of this machine, whose device must support the precision."""
    resources = find_one_device(gpus, problems)
    if resources is not None:
        device = resources.device
        problems.attempt(lambda: check_precision(precision, device))
    return resources


def find_unlabeled(path: Path | None, task: Task | None, problems: Problems) -> Path | None:
    """Returns the file of texts without labels, absolute, after reading it; None where none was given."""
    if path is not None and task is not None:
        problems.attempt(lambda: read_unlabeled(task, path.resolve()))
    return None if path is None else path.resolve()


def load_examples(task: Task, data_dir: Path, *, demo: bool) -> dict[str, RawSplit]:
    """Reads a task's splits, and logs a note for each whose size is not the official one; the demo's are not."""
    raw = load_raw(task, data_dir)
    for note in [] if demo else source_notes(task, raw):
        log.info("note: %s", note)
    return raw
