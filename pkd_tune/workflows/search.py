"""What a search does, step by step: teacher, teacher outputs, trials, exported students, comparisons, report."""

import importlib.util
import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from pkd_tune.cli.command_line import load_examples, say, training_bar
from pkd_tune.cli.summary import summary_lines
from pkd_tune.config import UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.distillation.memory import release_memory
from pkd_tune.distillation.published import PUBLISHED
from pkd_tune.distillation.student import checked_teacher_outputs
from pkd_tune.distillation.teacher import Teacher, prepare_teacher
from pkd_tune.encoders.folder import WEIGHTS, model_name
from pkd_tune.files import EVALUATIONS, RUN, SUMMARY, TRIALS, json_value, read_json, write_json
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.reporting.records import write_rows
from pkd_tune.reporting.run_report import write_report
from pkd_tune.tuning import cluster
from pkd_tune.tuning.artifacts import location_of_run, open_artifacts
from pkd_tune.tuning.plan import StudyPlan, plan_studies
from pkd_tune.tuning.resources import Resources, gpu_names
from pkd_tune.tuning.runner import disk_bytes, run_search
from pkd_tune.tuning.space import description
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext
from pkd_tune.tuning.trial_tables import commonest_failure, evaluation_rows, trial_rows
from pkd_tune.tuning.warm_start import finished_trials
from pkd_tune.workflows.capacity import at_once, fitting
from pkd_tune.workflows.disk import check_disk
from pkd_tune.workflows.finalists import export_finalists
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.run_folder import begin_run_folder, check_same_search, way


def run(request: SearchRequest) -> int:
    """Does the work of a search; returns its exit code.

    Raises:
        UserError: When something that the user gave turns out not to fit.
    """
    data = request.config.data
    plans = plan_search(request)
    check_loggers(request.loggers)
    earlier = {source: finished_trials(source, data.task, plans) for source in request.warm_start}
    name = request.name or ("demo" if request.demo else model_name(data.teacher_dir))
    record = {
        "demo": request.demo,
        "search": asdict(request.config),
        "space": {name: description(parameter) for name, parameter in request.parameters.items()},
    }
    record = json.loads(json.dumps(record, default=json_value))
    run_dir = begin_run_folder(request.out / data.task, name, record, new=request.new)
    with alone_in(run_dir), ExitStack() as stack:
        resources = fitting(request, request.resources or join(request, run_dir, stack), plans)
        made = provenance("pkd_tune.search", list(request.argv), gpu_names())
        record |= {"id": secrets.token_hex(4), "resources": asdict(resources), "provenance": made}
        record |= {"data_from_here": way(run_dir, data.data_dir)}
        teacher = prepare(request, resources, run_dir, record)
        studies = open_studies(request, plans, run_dir)
        for source, found in earlier.items():
            taken = sum(studies.warm_start(study_key, str(source), trials) for study_key, trials in found.items())
            say(f"{source}: {plural(taken, 'trial')} inform the search")
        location = location_of_run(run_dir, request.storage, record["id"])
        context = TrialContext(
            search=request.config,
            teacher=teacher,
            resources=resources,
            artifacts=open_artifacts(location),
            timeout=request.trial_timeout,
        )
        stack.callback(context.artifacts.forget_all)
        if studies.remaining():
            weights = (teacher.folder / WEIGHTS).stat().st_size  # a student is smaller
            of_trials = disk_bytes(weights, len(plans), resources)
            check_disk({context.artifacts.folder: of_trials, run_dir / "best": len(plans) * weights})
            if request.address is None:
                own = cluster.own_cluster(resources, run_dir / "ray-start.log", dashboard=request.ray_dashboard)
                stack.enter_context(dashboard_file(run_dir, stack.enter_context(own)))
            run_search(
                context,
                studies,
                run_dir,
                location=location,
                loggers=request.loggers,
                quiet=request.quiet,
                verbose=request.verbose,
            )
        else:
            say("all its trials are done; a larger --trials adds to them, --new starts another run")
        return finish(request, context, studies, run_dir, record)


@contextmanager
def alone_in(run_dir: Path) -> Iterator[None]:
    """Keeps other searches out of a run's folder.

    Raises:
        UserError: When one is there.
    """
    lock = FileLock(run_dir / "run.lock", blocking=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{run_dir}: another search is running there; wait, or start another with --new") from error
    try:
        yield
    finally:
        lock.release()


def plan_search(request: SearchRequest) -> list[StudyPlan]:
    """Returns what is to be done for every depth and method; the published winners of the task are tried first.

    Raises:
        UserError: When a grid is asked for and the space is not finite.
    """
    known = [
        (method, depth, asdict(winner))
        for (method, depth, task), winner in PUBLISHED.items()
        if task == request.config.data.task
    ]
    return plan_studies(request.config, request.parameters, known)


def open_studies(request: SearchRequest, plans: list[StudyPlan], run_dir: Path) -> Studies:
    """Opens the studies in a run's journal, or begins them."""
    config = request.config
    return Studies(
        run_dir / "study.log",
        plans,
        sampler=config.sampler,
        seed=config.seed,
        seeds=[config.seed + i for i in range(1, config.seeds + 1)],
        early_stopping=config.early_stopping,
    )


def join(request: SearchRequest, run_dir: Path, stack: ExitStack) -> Resources:
    """Joins the cluster that was asked for until the stack closes, and returns its slots.

    Raises:
        UserError: When it is out of reach, or a node does not see the folders.
    """
    assert request.address is not None
    stack.enter_context(cluster.joined_cluster(request.address, run_dir / "ray-start.log"))
    data_dir = request.config.data.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    storage = ("--storage", request.storage) if request.storage else ("--out", str(run_dir))
    cluster.check_shared([("--data-dir", str(data_dir)), storage])
    return cluster.cluster_resources(request.gpus, request.trials_per_gpu)


def prepare(request: SearchRequest, resources: Resources, run_dir: Path, record: dict[str, Any]) -> Teacher:
    """Makes everything that trials need, and writes down what the run is made of."""
    config, data, task = request.config, request.config.data, TASKS[request.config.data.task]
    device = torch.device(resources.device if torch.cuda.is_available() else "cpu")
    load_examples(task, data.data_dir, demo=request.demo)
    depths = ", ".join(map(str, config.depths))
    methods = ", ".join(stage.method for stage in config.stages)
    say(f"{task.name}: {methods} at depths {depths}; {at_once(resources)}")
    if 1 in config.depths and any(stage.method.startswith("pkd") for stage in config.stages):
        say("warning: one layer has no inner layer to imitate with; beta has no effect there")
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    chosen = selection_splits(task, splits, data.select_on)
    with training_bar("teacher", data.select_on) as show:
        finetuned = data.data_dir / "models" / "finetuned" / task.name
        teacher = prepare_teacher(task, chosen, data.teacher_dir, finetuned, config.teacher_trainings, device, show)
    say(
        f"teacher: {model_name(data.teacher_dir)}, {teacher.layers} layers, {task.name} {data.select_on} score "
        f"{teacher.metrics['score']:.1f} ({task.baseline}: {teacher.majority['score']:.1f})"
    )
    record["content"] = {"teacher": teacher.key, **{name: split.key for name, split in chosen.items()}}
    if (run_dir / RUN).exists():
        before = read_json(run_dir / RUN)
        check_same_search(run_dir, before, record)
        record |= continued(before, record)
    write_json(run_dir / RUN, record)
    checked_teacher_outputs(data, teacher, device)
    release_memory()  # the trials need what teachers took
    return teacher


def finish(
    request: SearchRequest, context: TrialContext, studies: Studies, run_dir: Path, record: dict[str, Any]
) -> int:
    """Exports and compares the winners, writes the report and says where everything is; returns the exit code."""
    write_rows(run_dir / TRIALS, trial_rows(studies))
    write_rows(run_dir / EVALUATIONS, evaluation_rows(studies))
    if studies.unfinished():
        say("interrupted: writing the report of what there is; Ctrl-C again stops now")
    say("exporting the best student of each depth, and scoring what was exported")
    summary = export_finalists(context, studies, run_dir, record["provenance"]["command"], demo=request.demo)
    write_json(run_dir / SUMMARY, summary)
    report = write_report(run_dir)
    for line in summary_lines(summary, run_dir, report):
        say(line, always=True)
    if studies.unfinished():
        again = "the same command without --new" if request.new else "the same command"
        say(f"stopped with {plural(studies.unfinished(), 'trial')} to go; {again} continues", always=True)
        return 130
    if not summary["students"]:
        reason = commonest_failure(studies) or "all were stopped early"
        say(f"no trial was completed; most often because: {reason}", always=True)
        return 1
    return 0


def continued(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a run that goes on: begun when and as it was, with the later commands beside it.

    Args:
        before: The run's run.json.
        now: What it would be if the run began now.
    """
    later = [*before.get("continued_with", []), now["provenance"]["command"]]
    return {
        **now,
        "id": before.get("id", now["id"]),  # earlier releases gave none
        "provenance": before["provenance"],
        "continued_with": [command for command in dict.fromkeys(later) if command != before["provenance"]["command"]],
    }


def check_loggers(names: tuple[str, ...]) -> None:
    """Refuses a logging service whose library is not there.

    Raises:
        UserError: One line for each.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            *(f'--log {name}: its library is not installed; pip install "pkd_tune[{name}]"' for name in missing)
        )


@contextmanager
def dashboard_file(run_dir: Path, address: str | None) -> Iterator[None]:
    """Leaves the address of Ray's dashboard in the run's folder for as long as it is there."""
    path = run_dir / "dashboard.json"
    if address is not None:
        write_json(path, {"ray": address})
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
