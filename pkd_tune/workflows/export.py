"""Exports a student of a search: its Hugging Face folder, and ONNX and int8, each loaded and scored again."""

import logging
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pkd_tune.config import Task, UserError
from pkd_tune.data.loading import check_source, load_raw
from pkd_tune.data.task import find_task, task_of_record
from pkd_tune.encoders.folder import WEIGHTS
from pkd_tune.files import MODEL_CARD, atomic_folder
from pkd_tune.reporting.document import plain
from pkd_tune.reporting.formatting import metric_titles
from pkd_tune.reporting.methods import METHOD_INFO
from pkd_tune.reporting.run import (
    continuing_command,
    data_folder,
    find_student,
    finished_run,
    students_text,
    verdict_of,
)
from pkd_tune.reporting.verdict import Verdict, verdict_text
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.workflows.checks import Problems, check_choices, check_new_folder, check_not_negative, check_onnx
from pkd_tune.workflows.options import ExportOptions

log = logging.getLogger(__name__)


class ExportCheckError(UserError):
    """An exported model scores differently from the student it was made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportRequest:
    """An export, resolved and checked."""

    run: dict[str, Any]
    """The run's run.json."""
    teacher: dict[str, Any]
    """As in summary.json."""
    student: dict[str, Any]
    """As in summary.json."""
    verdict: str
    """What the search says of the student, where it is the one to ship."""
    folder: Path
    """The student's folder in the run."""
    task: Task
    data_dir: Path
    """Holds the dev split."""
    target: Path
    """The folder to write."""
    push: str | None
    """The repository on the hub that the folder is uploaded to; None: to none."""
    public: bool
    """Whether that repository is public."""
    formats: tuple[str, ...]
    """What is written: PyTorch's format always, and first."""


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported model."""

    folder: Path
    formats: list[dict[str, Any]]
    """For each format: `format`, `metrics`, `parameters`, `size_mb`, `latency_ms`."""
    score: str
    """Whether the score is the `first` of the task's metrics or the `mean` of all."""
    address: str | None = None
    """Of the repository on the hub, where the folder was uploaded."""

    @property
    def table(self) -> str:
        """The formats as a Markdown table."""
        from pkd_tune.deployment.model_card import formats_table

        return formats_table(self.formats, metric_titles(self.formats[0]["metrics"], self.score))


def export(request: ExportRequest) -> Exported:
    """Writes the folder of a student, scores each format in a fresh process, and writes the model card.

    Raises:
        ExportCheckError: When a format scores differently from the student; nothing is written then.
        UserError: When the hub refuses an upload.
    """
    # These take seconds to import, which a refused request need not wait for.
    from pkd_tune.deployment.conversion import write_formats
    from pkd_tune.deployment.formats import PYTORCH, refusals
    from pkd_tune.deployment.hub_upload import prepare_repository, push_folder
    from pkd_tune.deployment.measurement import in_fresh_process, latencies_ms, latency_machine, measure
    from pkd_tune.deployment.model_card import write_card

    limit_threads()
    if request.push is not None:
        prepare_repository(request.push, public=request.public)
    task, max_length = request.task, request.run["search"]["data"]["max_length"]
    raw = load_raw(task, request.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    with atomic_folder(request.target) as folder:
        ignored = shutil.ignore_patterns(MODEL_CARD)
        shutil.copytree(request.folder, folder, ignore=ignored, dirs_exist_ok=True)
        log.info("writing %s", ", ".join(request.formats))
        write_formats(folder, request.formats)
        log.info("loading and scoring each in a fresh process")
        formats = [
            {"format": name, **in_fresh_process(measure, folder, dev, task, max_length, name)}
            for name in request.formats
        ]
        sizes = {name: len(split) for name, split in dev.items()}
        if refused := refusals(formats, request.student["metrics"]["score"], sizes):
            moved = f"is {request.folder} or the data in {request.data_dir} not what the search had?"
            raise ExportCheckError(
                *(
                    f"refused: {reason}; {moved if name == PYTORCH else f'leave out --{name}'}"
                    for name, reason in refused.items()
                )
            )
        models = [(folder, name) for name in request.formats]
        latencies = latencies_ms(models, dev[task.dev_splits[0]], max_length)
        for measured, latency in zip(formats, latencies, strict=True):
            measured["latency_ms"] = latency
        write_card(
            request.student,
            request.teacher,
            task,
            request.run["provenance"]["command"],
            folder,
            seed=request.run["search"]["student_training"]["seed"],
            demo=request.run["demo"],
            select_on=request.run["search"]["data"]["select_on"],
            verdict=request.verdict,
            formats=formats,
            latency_on=latency_machine(),
            start=student_start(request),
        )
    if request.push is None:
        return Exported(request.target, formats, task.score)
    log.info("uploading to %s", request.push)
    return Exported(request.target, formats, task.score, push_folder(request.target, request.push))


def student_start(request: ExportRequest) -> Path:
    """Returns the folder of the pretrained model that the student was cut from, which may be gone."""
    return Path(str(request.run["search"]["data"]["student_dir"]))


def verdict_for(options: ExportOptions, summary: dict[str, Any]) -> Verdict | None:
    """Returns the verdict of a run; without a depth, that on the students of the method, if one is named.

    Raises:
        UserError: When the tolerance is none, or the run has no student to choose.
    """
    problems = Problems()
    check_not_negative(options, problems, "--tolerance")
    problems.raise_any()
    if options.layers is not None:
        return verdict_of(summary)
    students = [student for student in summary["students"] if options.method in (None, student["method"])]
    verdict = verdict_of({**summary, "students": students}, options.tolerance)
    if verdict is None:
        of_method = f" for --method {options.method}" if options.method else ""
        there = students_text(summary["students"])
        raise UserError(f"{options.run} has no student{of_method}; it has {there}")
    return verdict


def resolve_export(options: ExportOptions) -> ExportRequest:
    """Returns the request that the options describe.

    Raises:
        UserError: With all problems found.
    """
    problems = Problems()
    check_choices(options, problems)
    formats = ["pytorch", *(name for name in ("onnx", "int8") if getattr(options, name))]
    if len(formats) > 1:
        check_onnx(f"--{formats[1]}", problems)
    if options.push is not None:
        from pkd_tune.deployment.hub_upload import push_problem

        if problem := push_problem(options.push):
            problems.add(problem)
    elif options.public:
        problems.add("--public belongs to --push; leave it out, or name a repository")
    target = options.to.resolve()
    check_new_folder(target, problems)
    if options.layers is not None and options.tolerance is not None:
        problems.add("--tolerance chooses a student, and --layers names one; leave out one of them")
    records = problems.attempt(lambda: finished_run(options.run))
    if records is None:
        raise UserError(*problems.found)
    run, summary = records
    verdict = problems.attempt(lambda: verdict_for(options, summary))
    student = verdict.student if verdict else None
    if (layers := options.layers) is not None:
        student = problems.attempt(lambda: find_student(options.run, summary, layers, options.method or "pkd"))
    data_dir = data_folder(options.run, run)
    if options.data_dir is not None:
        data_dir = options.data_dir.resolve() / "demo" if run["demo"] else options.data_dir.resolve()
    task = problems.attempt(lambda: task_of_run(options, run)) or task_of_record(run["search"]["data"]["task"])
    if task.folder is not None and not task.folder.is_dir():
        problems.add(f"{task.folder}, which holds the dev split, is not there; say where the task is with --task")
    elif data_dir.is_dir() or task.folder is not None:
        problems.found += check_source(task, data_dir)
    elif not problems.found and (run["demo"] or task.hub is None or check_source(task, data_dir)):
        problems.add(f"{data_dir}, which holds the dev split, is not there; say where it is with --data-dir")
    problems.raise_any()
    assert student is not None
    folder = options.run.resolve() / student["folder"]
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder}: no {WEIGHTS} there; this command writes it again: {continuing_command(run)}")
    of = METHOD_INFO[options.method].title if options.method is not None and layers is None else ""
    if layers is None and verdict is not None:
        log.info("%s", plain(verdict_text(verdict, of=of)))
    return ExportRequest(
        run=run,
        teacher=summary["teacher"],
        student=student,
        verdict=verdict_text(verdict, "this student", of=of) if verdict and verdict.student is student else "",
        folder=folder,
        task=task,
        data_dir=data_dir,
        target=target,
        push=options.push,
        public=options.public,
        formats=tuple(formats),
    )


def task_of_run(options: ExportOptions, run: dict[str, Any]) -> Task:
    """Returns the task of a run, as recorded, with its files where they are now.

    Raises:
        UserError: When --task names another task, or one with other classes.
    """
    recorded = task_of_record(run["search"]["data"]["task"])
    if options.task is not None:
        given = find_task(options.task)
        if (given.name, given.labels, given.text) != (recorded.name, recorded.labels, recorded.text):
            raise UserError(f"--task {options.task}: is not {recorded.name} as {options.run} had it; give that task")
        return given
    if recorded.folder is None:
        return recorded
    return replace(recorded, folder=(options.run.resolve() / str(run["task_from_here"])).resolve())
