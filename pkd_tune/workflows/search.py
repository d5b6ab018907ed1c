"""One search from start to end: teacher, teacher outputs, trials, exported students, comparisons, report."""

import importlib.util
import json
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pkd_tune.config import UserError
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.data.tokens import tokenizer_key
from pkd_tune.data.unlabeled import load_unlabeled
from pkd_tune.distillation.published_settings import PUBLISHED, PUBLISHED_TRAINING, PUBLISHED_WIDTH
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.encoders.folder import family_of, model_name, sizes, weight_bytes, weights_key
from pkd_tune.files import (
    BEST,
    DASHBOARD,
    EVALUATIONS,
    JOURNAL,
    LOCK_MODE,
    RAY_LOG,
    RUN,
    RUN_LOCK,
    SUMMARY,
    TRIALS,
    json_value,
    read_json,
    write_json,
)
from pkd_tune.reporting.formatting import plural
from pkd_tune.reporting.provenance import provenance
from pkd_tune.reporting.run import write_rows
from pkd_tune.reporting.run_report import write_report
from pkd_tune.tuning import cluster
from pkd_tune.tuning.artifacts import location_of_run, open_artifacts
from pkd_tune.tuning.jobs import Done, Job, job_place, run_jobs
from pkd_tune.tuning.journal import finished_trials
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.tuning.plan import StudyPlan, plan_studies
from pkd_tune.tuning.resources import Resources, gpu_names
from pkd_tune.tuning.runner import disk_bytes, run_search
from pkd_tune.tuning.space import description
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.time_limit import TimeLimit
from pkd_tune.tuning.trial import TrialContext
from pkd_tune.tuning.trial_tables import evaluation_rows, most_common_failure, trial_rows
from pkd_tune.workflows.capacity import check_disk, concurrency_text, limit_concurrency
from pkd_tune.workflows.environment import check_environment
from pkd_tune.workflows.finalists import export_finalists
from pkd_tune.workflows.finished_run import SearchRun
from pkd_tune.workflows.free_slots import free_slots_text
from pkd_tune.workflows.inputs import forward_pass_text, load_examples
from pkd_tune.workflows.report_time import time_report
from pkd_tune.workflows.request import SearchRequest, with_trials
from pkd_tune.workflows.run_folder import (
    begin_run_folder,
    check_same_search,
    choose_run_folder,
    read_record,
    relative_path,
    run_id,
)
from pkd_tune.workflows.teaching import Nodes, make_teacher, make_teacher_outputs

log = logging.getLogger(__name__)


def search(request: SearchRequest) -> SearchRun:
    """Runs a search, or continues the one that was begun with the same request.

    Raises:
        UserError: When something that the user gave turns out not to fit.
    """
    limit_threads()
    cluster.check_not_connected()
    options, data = request.options, request.config.data
    ends = None if request.time_limit is None else time.monotonic() + request.time_limit
    plans = plan_search(request)
    check_loggers(options.log)
    if options.ray_dashboard:
        cluster.check_dashboard()
    place = choose_run_folder(request.out / data.task.name, run_name(request), new=options.new)
    if own := [source for source in options.warm_start if source.resolve() == place.resolve()]:
        raise UserError(f"--warm-start {own[0]}: is the run itself, which has its trials already; leave it out")
    earlier = {source: finished_trials(source.resolve(), data.task.name, plans) for source in options.warm_start}
    check_environment({"--data-dir": data.data_dir, "--out": request.out})
    record = settings_record(request)
    run_dir = begin_run_folder(request.out / data.task.name, run_name(request), record, new=options.new)
    with locked(run_dir), ExitStack() as stack:
        work: list[dict[str, str]] = []
        given = request.resources or join_cluster(request, run_dir, stack)
        resources = limit_concurrency(request, given, plans, work)
        if note := free_slots_note(request, plans, resources.count):
            log.info(note)
        made = provenance(request.command, gpu_names())
        record |= {
            "id": secrets.token_hex(4),
            "name": run_name(request),
            "resources": resources.record,
            "provenance": made,
        }
        record |= {"data_from_here": relative_path(run_dir, data.data_dir)}
        if data.task.folder is not None:
            record |= {"task_from_here": relative_path(run_dir, data.task.folder)}

        def start_ray() -> None:
            if not cluster.is_connected():
                own = cluster.local_cluster(resources, run_dir / RAY_LOG, dashboard=options.ray_dashboard)
                stack.enter_context(dashboard_address(run_dir, stack.enter_context(own)))

        def run(jobs: Sequence[Job]) -> list[Done]:
            start_ray()
            place = job_place(resources, len(jobs), [node.cores for node in cluster.nodes()])
            with (run_dir / RAY_LOG).open("a", encoding="utf-8") as file, redirect_stdout(file):  # what Ray prints
                return run_jobs(jobs, place)

        # On this machine's CPU nothing is gained by other processes, which take seconds to start.
        in_this_process = options.address is None and resources.device == "cpu"
        teacher = prepare(request, resources, run_dir, record, None if in_this_process else Nodes(run, work))
        time_limit = None if ends is None else limit_trials(request, ends, teacher, plans, resources)
        studies = open_studies(request, plans, run_dir, time_limit)
        for source, trials_of in earlier.items():
            added = sum(studies.warm_start(key, run_id(source), trials) for key, trials in trials_of.items())
            log.info("%s: %s are added to the sampler's history", source, plural(added, "trial"))
        location = location_of_run(run_dir, options.storage, record["id"])
        context = TrialContext(
            search=request.config,
            teacher=teacher,
            resources=resources,
            artifacts=stack.enter_context(open_artifacts(location)),
            timeout=options.trial_timeout,
        )
        if studies.remaining() and time_limit is not None and not time_limit.left():
            log.info("the time limit left no time for trials")
        elif studies.remaining():
            weights = weight_bytes(teacher.folder)  # a student is smaller
            of_trials = disk_bytes(weights, len(plans), resources)
            check_disk({context.artifacts.folder: of_trials, run_dir / BEST: len(plans) * weights})
            start_ray()
            if (run_dir / SUMMARY).exists():  # of an earlier ending, which is none any more
                before = {"status": "interrupted", "remaining": studies.remaining(), "reason": None}
                write_json(run_dir / SUMMARY, read_json(run_dir / SUMMARY) | before)
            run_search(
                context,
                studies,
                run_dir,
                location=location,
                loggers=options.log,
                quiet=options.quiet,
                verbose=options.verbose,
            )
        else:
            log.info("all trials of this search are done; a larger --trials adds to them, --new starts another run")
        return finish(request, context, studies, run_dir, record)


def limit_trials(
    request: SearchRequest, ends: float, teacher: Teacher, plans: Sequence[StudyPlan], resources: Resources
) -> TimeLimit:
    """Returns when trials end so that the report is written in time; `ends` is as `time.monotonic()` counts."""
    kept = time_report(request, teacher, plans)
    log.info("time limit: %.1f of %.1f min are kept for the report", kept / 60, (request.time_limit or 0.0) / 60)
    return TimeLimit(ends - kept, resources.count)


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Keeps other searches out of a run's folder.

    Raises:
        UserError: When one is there.
    """
    lock = FileLock(run_dir / RUN_LOCK, blocking=False, mode=LOCK_MODE)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{run_dir}: another search is running there; wait, or start another with --new") from error
    try:
        yield
    finally:
        lock.release()


def run_name(request: SearchRequest) -> str:
    """Returns what the runs of a search are called."""
    options = request.options
    return options.name or ("demo" if options.demo else model_name(request.config.data.teacher_dir))


def settings_record(request: SearchRequest) -> dict[str, Any]:
    """Returns the part of run.json that is known at once: what decides which trials there are."""
    record = {
        "demo": request.options.demo,
        "search": asdict(request.config),
        "space": {name: description(parameter) for name, parameter in request.parameters.items()},
    }
    return dict(json.loads(json.dumps(record, default=json_value)))


def free_slots_note(request: SearchRequest, plans: Sequence[StudyPlan], slots: int) -> str | None:
    """Returns a line that says how many trials would make use of free slots; None where hardly any slot is free."""

    def plan_of(trials: int) -> list[StudyPlan]:
        return plan_search(with_trials(request, trials))

    return free_slots_text(request.config, plans, slots, plan_of)


def plan_search(request: SearchRequest) -> list[StudyPlan]:
    """Returns the plan of every study; the published winners of the task are tried first, but not by narrower students.

    Raises:
        UserError: When a grid is asked for and the space is not finite.
    """
    data = request.config.data
    published = [
        (method, depth, asdict(winner))
        for (method, depth, task), winner in PUBLISHED.items()
        if task == data.task.name and sizes(data.student_dir)["hidden_size"] >= PUBLISHED_WIDTH
    ]
    return plan_studies(request.config, request.parameters, published, PUBLISHED_TRAINING)


def open_studies(
    request: SearchRequest, plans: list[StudyPlan], run_dir: Path, time_limit: TimeLimit | None = None
) -> Studies:
    """Opens the studies in a run's journal, or creates them."""
    config = request.config
    return Studies(
        run_dir / JOURNAL,
        plans,
        sampler=config.sampler,
        seed=config.seed,
        seeds=[config.seed + i for i in range(1, config.seeds + 1)],
        early_stopping=config.early_stopping,
        first_rung=1 / config.student_training.evaluations_per_epoch,
        max_pending=config.max_pending,
        time_limit=time_limit,
    )


def join_cluster(request: SearchRequest, run_dir: Path, stack: ExitStack) -> Resources:
    """Joins the cluster that was asked for until the stack closes, and returns its resources.

    Raises:
        UserError: When no cluster answers, or a node has another pkd_tune or does not see the shared folders.
    """
    options = request.options
    assert options.address is not None
    stack.enter_context(cluster.connected_cluster(options.address, run_dir / RAY_LOG))
    for note in cluster.check_versions():
        log.warning("%s", note)
    data_dir = request.config.data.data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    task_folder, unlabeled = request.config.data.task.folder, request.config.data.unlabeled
    storage = ("--storage", options.storage) if options.storage else ("--out", str(run_dir))
    cluster.check_shared(
        [
            ("--data-dir", str(data_dir)),
            *([("--task", str(task_folder))] if task_folder is not None else []),
            *([("--unlabeled", str(unlabeled.parent))] if unlabeled is not None else []),
            storage,
        ]
    )
    return cluster.cluster_resources(options.gpus, options.trials_per_gpu)


def prepare(
    request: SearchRequest, resources: Resources, run_dir: Path, record: dict[str, Any], nodes: Nodes | None = None
) -> Teacher:
    """Makes the teacher and its outputs, and records what the run is made of.

    Args:
        request: What is searched.
        resources: Of its trials.
        run_dir: Receives the record.
        record: Of the run so far.
        nodes: Make the teacher; None: this process does.

    Raises:
        UserError: When the teacher is not good enough, or the run was begun with other settings.
    """
    config, data, task = request.config, request.config.data, request.config.data.task
    load_examples(task, data.data_dir, demo=request.options.demo)
    depths = ", ".join(map(str, config.depths))
    methods = ", ".join(stage.method for stage in config.stages)
    log.info("%s: %s at depths %s; %s", task.name, methods, depths, concurrency_text(resources))
    if not all(family_of(folder).paths for folder in (data.teacher_dir, data.student_dir)):
        log.info("%s", forward_pass_text(data))
    with_pkd = any(stage.method.startswith("pkd") for stage in config.stages)
    if 1 in config.depths and with_pkd:
        log.warning(
            "a student of one layer has no intermediate layer that could imitate; beta has no effect at that depth"
        )
    splits = load_features(task, data.data_dir, data.teacher_dir, data.max_length)
    chosen = selection_splits(task, splits, data.select_on)
    teacher = make_teacher(config, chosen, resources, nodes=nodes, quiet=request.options.quiet)
    log.info(
        "teacher: %s, %d layers, %s %s score %.1f (%s: %.1f)",
        model_name(data.teacher_dir),
        teacher.layers,
        task.name,
        data.select_on,
        teacher.metrics["score"],
        task.baseline,
        teacher.majority["score"],
    )
    record["content"] = {"teacher": teacher.key, **{name: split.key for name, split in chosen.items()}}
    if data.student_dir != data.teacher_dir:
        record["content"]["student"] = f"{weights_key(data.student_dir)}-{tokenizer_key(data.student_dir)}"
    if data.unlabeled is not None:
        texts = load_unlabeled(task, data.data_dir, data.unlabeled, data.teacher_dir, data.max_length)
        record["content"]["unlabeled"] = texts.key
        record["unlabeled"] = {"file": data.unlabeled.name, "examples": len(texts)}
        log.info(
            "%s: %s, which the teacher labels for distilled students; fine-tuning does not use them",
            data.unlabeled,
            plural(len(texts), "text"),
        )
    if (run_dir / RUN).exists():
        before = read_record(run_dir)
        check_same_search(run_dir, before, record)
        record |= continued(before, record)
    record["work"] = [*record.get("work", []), *(nodes.work if nodes is not None else [])]
    write_json(run_dir / RUN, record)
    imitated = with_pkd and max(config.depths) > 1
    if of_outputs := make_teacher_outputs(data, teacher, resources, nodes, imitated=imitated):
        record["work"] += of_outputs
        write_json(run_dir / RUN, record)
    return teacher


def finish(
    request: SearchRequest, context: TrialContext, studies: Studies, run_dir: Path, record: dict[str, Any]
) -> SearchRun:
    """Exports and compares the best students and writes the report of what there is."""
    write_rows(run_dir / TRIALS, trial_rows(studies))
    write_rows(run_dir / EVALUATIONS, evaluation_rows(studies))
    options = request.options
    out_of_time = studies.is_out_of_time()
    interrupted = bool(studies.unfinished()) and not out_of_time
    if out_of_time:
        log.info("time limit: writing a report of the trials so far")
    elif interrupted:
        left_out = "ONNX, int8 and plots for papers" if options.onnx else "plots for papers"
        log.info(
            "interrupted: writing a report of the trials so far, without %s; Ctrl-C again stops immediately", left_out
        )
    log.info("exporting the best student of each depth, and scoring the exported students")
    summary = export_finalists(
        context,
        studies,
        run_dir,
        record["provenance"]["command"],
        demo=options.demo,
        tolerance=options.tolerance,
        onnx=options.onnx and not interrupted,
    )
    run = SearchRun(run_dir)
    if studies.unfinished():
        run = SearchRun(run_dir, "time limit" if out_of_time else "interrupted", remaining=studies.unfinished())
    elif not summary["students"]:
        run = SearchRun(run_dir, "no student", reason=most_common_failure(studies) or "all were stopped early")
    ending = {"status": run.status, "remaining": run.remaining, "reason": run.reason}
    write_json(run_dir / SUMMARY, summary | ending)
    write_report(run_dir, with_plots=not interrupted)
    return run


def continued(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Returns the record of a continued run: its first provenance and resources stay, and later ones are listed beside.

    Args:
        before: The run's run.json.
        now: What it would be if the run began now.
    """
    later = [*before.get("continued_with", []), now["provenance"]["command"]]
    others = [*before.get("continued_on", []), now["resources"]]
    return {
        **now,
        **{name: before[name] for name in ("name", "work") if name in before},
        "id": before["id"],
        "resources": before["resources"],
        "continued_on": [each for n, each in enumerate(others) if each not in (before["resources"], *others[:n])],
        "provenance": before["provenance"],
        "continued_with": [command for command in dict.fromkeys(later) if command != before["provenance"]["command"]],
    }


def check_loggers(names: tuple[str, ...]) -> None:
    """Refuses a logging service whose library is not installed.

    Raises:
        UserError: One line for each.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            *(f'--log {name}: its library is not installed; pip install "pkd_tune[{name}]"' for name in missing)
        )


@contextmanager
def dashboard_address(run_dir: Path, address: str | None) -> Iterator[None]:
    """Leaves the address of Ray's dashboard, and its token, in the run's folder for as long as the dashboard runs."""
    path = run_dir / DASHBOARD
    if address is not None:
        write_json(path, {"ray": address, "token": os.environ[cluster.AUTH_TOKEN]}, private=True)
        log.info("Ray's dashboard: %s (the token that it asks for is in %s)", address, path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
