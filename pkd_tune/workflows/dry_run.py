"""What a search would cost, from a few steps at every depth, timed on this machine. Nothing is trained or kept."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from pkd_tune.config import SearchConfig
from pkd_tune.data.loading import load_features, selection_splits
from pkd_tune.distillation.student import training_split
from pkd_tune.distillation.teacher import finetuned_cache, finetuned_folder, is_finetuned
from pkd_tune.distillation.train_step import graphs_of_a_training
from pkd_tune.encoders.folder import has_classifier, layer_count, model_name, weight_bytes
from pkd_tune.files import JOURNAL, RAY_LOG, RUN
from pkd_tune.reporting.document import Table, markdown
from pkd_tune.reporting.formatting import plural
from pkd_tune.tuning import cluster
from pkd_tune.tuning.journal import recorded_trials, was_started
from pkd_tune.tuning.limits import limit_threads
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.runner import KEEP_BEST, disk_bytes
from pkd_tune.tuning.sampling import REDUCTION, WARM_UP_TRIALS
from pkd_tune.tuning.space import epoch_shares
from pkd_tune.tuning.studies import STUDY_NAMES
from pkd_tune.workflows.capacity import concurrency_text, limit_concurrency
from pkd_tune.workflows.inputs import forward_pass_text, load_examples
from pkd_tune.workflows.request import SearchRequest
from pkd_tune.workflows.run_folder import check_same_search, choose_run_folder, read_record
from pkd_tune.workflows.search import free_slots_note, plan_search, run_name, settings_record
from pkd_tune.workflows.timing import TIMED_STEPS, Cost, time_student, time_teacher

log = logging.getLogger(__name__)


def plan(request: SearchRequest) -> str:
    """Returns what a search would do and cost, as text for a terminal.

    Raises:
        UserError: When a cluster that it would join is out of reach, or has too few GPUs.
    """
    limit_threads()
    with ExitStack() as stack:
        if request.options.address is not None:
            cluster.check_not_connected()
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            stack.enter_context(cluster.connected_cluster(request.options.address, folder / RAY_LOG))
        return _plan(request)


def _plan(request: SearchRequest) -> str:
    config = request.config
    data, task = config.data, config.data.task
    plans = plan_search(request)
    options = request.options
    resources = request.resources or cluster.cluster_resources(options.gpus, options.trials_per_gpu)
    device = torch.device(resources.device if torch.cuda.is_available() else "cpu")
    load_examples(task, data.data_dir, demo=request.options.demo)
    features = load_features(task, data.data_dir, data.student_dir, data.max_length)
    splits = selection_splits(task, features, data.select_on)
    labelled = len(splits["train"])
    splits["train"] = training_split(data, splits["train"], data.student_dir)
    resources = limit_concurrency(request, resources, plans)
    torch.set_num_threads(resources.threads if device.type == "cpu" else torch.get_num_threads())
    costs = {}
    for depth in config.depths:
        log.info("timing a student of %s", plural(depth, "layer"))
        with graphs_of_a_training(device, captured=resources.eager is None) as graphs:
            costs[depth] = time_student(config, splits, depth, device, graphs)
    teacher = plan_teacher(config, device, captured=resources.eager is None)
    weights = weight_bytes(data.student_dir)
    disk = disk_bytes(weights, len(plans), resources) + len(plans) * weights
    run_dir = choose_run_folder(request.out / task.name, run_name(request), new=request.options.new)
    text = plan_text(
        config,
        plans,
        resources,
        costs,
        teacher,
        disk,
        timed_on=device.type,
        done=trials_done(request, run_dir, plans),
        time_limit=request.time_limit,
        labelled=labelled / len(splits["train"]),
    )
    lines = [text, free_slots_note(request, plans, resources.count), forward_pass_text(data)]
    return "\n".join(line for line in lines if line is not None)


@dataclass(frozen=True, slots=True)
class Done:
    """What a run that would be continued has of a study."""

    trials: int = 0
    """Trials that have ended."""
    confirmed: int = 0
    """Training runs that confirm its winner."""
    ablated: int = 0
    """Training runs of its winner's ablations."""


def trials_done(request: SearchRequest, run_dir: Path, plans: Sequence[StudyPlan]) -> dict[StudyKey, Done]:
    """Returns what there is of each study; nothing where a new run would begin.

    Raises:
        UserError: When the run that would be continued has other settings, or its records are damaged.
    """
    if not (run_dir / JOURNAL).exists() or not (run_dir / RUN).exists():
        return {}
    check_same_search(run_dir, read_record(run_dir), settings_record(request))
    recorded = recorded_trials(run_dir / JOURNAL)
    found = {}
    for plan in plans:
        ended = [
            trial for trial in recorded.get(plan.study_key.name, []) if was_started(trial) and trial.state.is_finished()
        ]
        complete = [trial for trial in ended if trial.state.name == "COMPLETE"]
        winner = max(complete, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)
        confirmed, ablated = (
            sum(
                was_started(trial)
                and trial.state.is_finished()  # what failed is not trained again
                and winner is not None
                and trial.user_attrs.get("winner") == winner.number
                for trial in recorded.get(STUDY_NAMES[stage].format(plan.study_key.name), [])
            )
            for stage in ("confirm", "ablation")
        )
        found[plan.study_key] = Done(len(ended), confirmed, ablated)
    return found


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """Whether the teacher is there, and what it takes otherwise."""

    text: str
    """In one line."""
    seconds: float = 0.0
    """Of fine-tuning it and computing its outputs."""


def plan_teacher(config: SearchConfig, device: torch.device, *, captured: bool) -> TeacherPlan:
    """Returns whether the teacher is there; fine-tuning is timed where it is not."""
    data, task = config.data, config.data.task
    if has_classifier(data.teacher_dir):
        return TeacherPlan(f"Teacher: {model_name(data.teacher_dir)}, which is given fine-tuned.")
    splits = selection_splits(
        task, load_features(task, data.data_dir, data.teacher_dir, data.max_length), data.select_on
    )
    layers, cache = layer_count(data.teacher_dir), finetuned_cache(data)
    folder = finetuned_folder(task, splits, data.teacher_dir, layers, cache, config.teacher_trainings, data.max_length)
    if is_finetuned(folder):
        return TeacherPlan(f"Teacher: fine-tuned already, in {folder}.")
    log.info("timing the teacher, %s", plural(layers, "layer"))
    with graphs_of_a_training(device, captured=captured) as graphs:
        seconds = time_teacher(config, splits, device, graphs)
    return TeacherPlan(f"Teacher: to be fine-tuned, about {seconds / 60:.1f} min.", seconds)


def expected_epochs(trials: int, shares: Mapping[int, float], first_rung: float, *, early_stopping: bool) -> float:
    """Returns how many epochs the trials of one study get, when a third of those that reach a rung goes on.

    The first few pass a rung in any case; the best are never stopped. At a rung, trials of every budget are stopped
    alike; those whose budget ends there are not among them.

    Args:
        trials: Of the study.
        shares: The numbers of epochs that trials may have, each with its share of them.
        first_rung: Epoch of the first rung.
        early_stopping: Whether there are rungs.
    """
    going = {epochs: trials * share for epochs, share in shares.items()}
    total, done, rung = 0.0, 0.0, first_rung
    while early_stopping and rung < max(going, default=0):
        total += sum(count * (min(epochs, rung) - done) for epochs, count in going.items())
        going = {epochs: count for epochs, count in going.items() if epochs > rung}
        reaching = sum(going.values())
        kept = min(reaching, WARM_UP_TRIALS) + max(0.0, reaching - WARM_UP_TRIALS) / REDUCTION
        going = {epochs: count * kept / reaching for epochs, count in going.items() if reaching}
        done, rung = rung, rung * REDUCTION
    return total + sum(count * (epochs - done) for epochs, count in going.items())


def plan_text(
    config: SearchConfig,
    plans: Sequence[StudyPlan],
    resources: Resources,
    costs: Mapping[int, Cost],
    teacher: TeacherPlan,
    disk: int,
    *,
    timed_on: str,
    done: Mapping[StudyKey, Done] | None = None,
    time_limit: float | None = None,
    labelled: float = 1.0,
) -> str:
    """Returns the plan as a person reads it.

    Args:
        config: Of the search.
        plans: Of its studies.
        resources: Where its trials would run.
        costs: By depth.
        teacher: Whether it is there.
        disk: Bytes that the files of trials and the exported students take.
        timed_on: `cpu` or `cuda`: what the costs are of, which is the CPU where a cluster's GPUs are far away.
        done: What the run that is continued has of each study; the plan is of the rest.
        time_limit: Seconds after which the search ends.
        labelled: Share of the training examples that have a label; fine-tuning uses no others.
    """
    per_epoch = config.student_training.evaluations_per_epoch
    rows, expected, most, budgets = [], 0.0, 0.0, set[int]()
    for plan in plans:
        cost = costs[plan.study_key.depth]
        own, *ablated = (
            (labelled if method == "finetuned" else 1.0) * cost.epoch + per_epoch * cost.evaluation
            for method in (plan.study_key.method, *plan.ablations)
        )
        shares = epoch_shares(plan.parameters)
        budgets |= shares.keys()
        before = (done or {}).get(plan.study_key, Done())
        trials = max(0, plan.quota - before.trials)
        seeds = config.seeds if trials else max(0, config.seeds - before.confirmed)
        ablations = max(0, config.seeds * len(plan.ablations) - (0 if trials else before.ablated))
        of_all, of_some = (
            expected_epochs(number, shares, 1 / per_epoch, early_stopping=config.early_stopping)
            for number in (before.trials + trials, before.trials)
        )
        mean = sum(epochs * share for epochs, share in shares.items())
        searched = of_all - of_some + seeds * mean
        likely = searched + ablations * mean
        at_most = (trials + seeds + ablations) * max(shares)
        of_ablations = ablations * sum(ablated) / max(1, len(ablated))  # seconds of an epoch of each
        slot_time = searched * own + of_ablations * mean
        expected += slot_time
        most += ((trials + seeds) * own + of_ablations) * max(shares)
        rows.append(
            [
                plural(plan.study_key.depth, "layer"),
                plan.study_key.method,
                trials,
                seeds,
                ablations,
                f"{likely:.0f} of {at_most}",
                f"{own - per_epoch * cost.evaluation:.1f} s",
                f"{slot_time / 60:.1f} min",
            ]
        )
    rungs: list[str] = []
    while config.early_stopping and (rung := REDUCTION ** len(rungs) / per_epoch) < max(budgets):
        rungs.append(f"{rung:g}")
    ends = f"{min(budgets)} to {max(budgets)}" if len(budgets) > 1 else f"{max(budgets)}"
    of_slots = timed_on == resources.device
    unit = {"cuda": "GPU-hours", "cpu": "core-hours"}[resources.device] if of_slots else "hours of this machine's CPU"
    share = 1.0 if not of_slots else resources.threads if resources.device == "cpu" else 1 / resources.trials_per_gpu
    elsewhere = "" if of_slots else " on this machine's CPU, for it has no GPU: on GPUs all times are shorter"
    header = ["student", "method", "trials", "seeds", "ablations", "epochs expected", "time per epoch", "slot time"]
    return "\n".join(
        [
            *([_done_text(done)] if done else []),
            _table(header, rows),
            "",
            f"{concurrency_text(resources)}. Rungs at epochs {', '.join(rungs) or 'none'} of {ends}.",
            teacher.text,
            f"Search, confirmation and ablations: about {expected / resources.count / 60:.1f} min, at most "
            f"{most / resources.count / 60:.1f} min if nothing is stopped early.",
            *([_limit_text(time_limit, teacher.seconds, expected / resources.count)] if time_limit is not None else []),
            f"That is {expected / 3600 * share:.2f} {unit}, at most {most / 3600 * share:.2f}.",
            f"Disk: at most {disk / 1e9:.2f} GB for the files of trials, of which the best {KEEP_BEST} a row stay, "
            "and for exported students.",
            f"Timed alone, {TIMED_STEPS[timed_on]} steps a depth{elsewhere}; trials that run at once share the machine "
            "and may be slower.",
        ]
    )


def _done_text(done: Mapping[StudyKey, Done]) -> str:
    trials, confirmed = (sum(getattr(each, name) for each in done.values()) for name in ("trials", "confirmed"))
    seeds = f", and {plural(confirmed, 'confirmation')}" if confirmed else ""
    return f"Of the run that is continued, {plural(trials, 'trial')}{seeds} are done. What is left:\n"


def _limit_text(time_limit: float, teacher: float, seconds: float) -> str:
    """Returns how much of a search fits into its time limit."""
    share = min(1.0, max(0.0, time_limit - teacher) / max(seconds, 1e-9))
    part = "all of it" if share == 1 else f"about {share:.0%} of search and confirmation"
    return f"The time limit of {time_limit / 60:.1f} min, the teacher included, is enough for {part}."


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown([Table(header, rows)]).strip()
