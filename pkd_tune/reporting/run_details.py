"""The second half of a run's report: how its trials ended, and how the run was made."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas as pd

from pkd_tune.config import CONTROLS
from pkd_tune.files import EVALUATIONS, PLOTS, RAY, TRIALS
from pkd_tune.reporting.document import Bullets, Element, Heading, Table, code, literal
from pkd_tune.reporting.formatting import listed, number_text, plural, setting_text
from pkd_tune.reporting.methods import METHOD_INFO, is_regression, student_title, unused_settings
from pkd_tune.reporting.run import ENDED, STATES, Run, fixed_value

_SAMPLERS = {
    "tpe": "TPE (Tree-structured Parzen Estimator)",
    "random": "random search",
    "grid": "grid search",
}
_INITS = {
    "pretrained": "initialised with the first k layers of the pretrained model",
    "teacher": "initialised with the first k layers of the fine-tuned teacher",
    "teacher-skip": "initialised with every (N/k)-th layer of the fine-tuned teacher",
}
_SELECTED_ON = {
    False: "the dev split",
    True: "a slice held out of train; dev is scored once at the end",
}
"""The examples that select, by `Run.holdout`."""
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}
_REASONS_SHOWN = 10


def run_details(run: Run, *, with_plots: bool = True) -> list[Element]:
    """Returns the elements of the second half of the report.

    Args:
        run: The run.
        with_plots: Whether the run's folder has plots for papers.
    """
    elements: list[Element] = []
    if (run.folder / TRIALS).exists():
        elements += [Heading("Trials"), _counts(run)]
        if reasons := _reasons(run.trials):
            elements.append(Bullets(reasons))
    elements.append(Heading("Run details"))
    if run.students:
        elements.append(_students(run))
    return [*elements, Bullets(_facts(run, with_plots))]


def _counts(run: Run) -> Table:
    rows: list[list[object]] = []
    groups = []
    for depth in run.search["depths"]:
        groups.append(len(rows))
        for stage, title in (("search", ""), ("confirm", ", fresh seeds"), ("ablation", ", ablations")):
            for method in run.methods:
                trials = run.of_stage(stage)
                trials = trials[(trials["depth"] == depth) & (trials["method"] == method)]
                if stage == "search" or len(trials):
                    counts = [int((trials["state"] == state).sum()) for state in STATES]
                    name = f"{METHOD_INFO[method].title}, {plural(depth, 'layer')}{title}"
                    rows.append([name, len(trials), *counts])
    return Table(["training runs", "started", *STATES], rows, groups=tuple(groups[1:]))


def _reasons(trials: pd.DataFrame) -> list[str]:
    """Returns the reasons for which trials have no result, the most frequent first."""
    given = trials[trials["error"].notna()]
    counted = Counter(zip(given["state"], given["error"], strict=True)).most_common()
    lines = [f"{count} {state}: {code(str(error)[:300])}" for (state, error), count in counted]
    more = len(lines) - _REASONS_SHOWN
    return lines[:_REASONS_SHOWN] + ([f"{plural(more, 'other reason')}: see `{TRIALS}`"] if more > 0 else [])


def _students(run: Run) -> Table:
    rows = []
    for student in run.students:
        imitated = ", ".join(f"{i}→{layer}" for i, layer in enumerate(student["imitated_layers"], start=1)) or "none"
        trial = f"{student['trial']}, epoch {student['epoch']:.1f}"
        rows.append([student_title(student), trial, imitated, code(student["folder"])])
    return Table(["student", "trial", "student layer → teacher layer", "checkpoint"], rows, left=(0, 2, 3))


def _facts(run: Run, with_plots: bool) -> list[str]:
    search, made, resources = run.search, run.record["provenance"], run.record["resources"]
    facts = [f"Command: {code(made['command'])}"]
    facts += [f"Continued with: {code(command)}" for command in run.record.get("continued_with", [])]
    if run.teacher:
        facts.append(f"Teacher: {_teacher(run.teacher, search['teacher_trainings'])}")
    facts.append(f"Students: {', '.join(_students_have(run))}.")
    if unlabeled := run.record.get("unlabeled"):
        facts.append(
            f"Texts without labels: {unlabeled['examples']:,} of {code(unlabeled['file'])}, on which KD and PKD learn "
            "from the teacher's outputs alone; fine-tuning does not use them."
        )
    facts += [f"{METHOD_INFO[method].title}: {METHOD_INFO[method].description}." for method in run.methods]
    facts.append(_search(run))
    if seeds := max(
        search["seeds"], *(len(each["confirmed"]["seeds"]) for each in run.students if each["confirmed"]), 0
    ):
        facts.append(f"Confirmation: {plural(seeds, 'training run')} of each student on fresh seeds.")
    if space := [f"{literal(name)} {_parameter(run.record['space'][name])}" for name in _effective(run)]:
        facts.append(f"Search space: {'; '.join(space)}.")
    if 1 in search["depths"] and any(method.startswith("pkd") for method in run.methods):
        facts.append(
            "A student of one layer has no intermediate layer, so beta, strategy and normalize have no effect on it."
        )
    later = run.record.get("continued_on", [])
    facts.append(f"Concurrent trials: {_slots(resources)}; {literal(made['machine'])}.")
    if later:
        facts.append(f"Continued with concurrent trials: {'; '.join(_slots(each) for each in later)}.")
    if nodes := _nodes(run):
        facts.append(f"Nodes: {'; '.join(f'{literal(node)}: {literal(listed(did))}' for node, did in nodes.items())}.")
    if resources.get("eager"):
        facts.append(f"Training steps were not captured as CUDA graphs: {literal(resources['eager'])}.")
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    commit = f", commit {made['git']}" if made["git"] else ""
    facts.append(f"Versions: Python {made['python']}, {literal(versions)}{commit}.")
    content = [f"{_content_name(run, name)} {code(key[:12])}" for name, key in run.record["content"].items()]
    facts.append(f"Content hashes: {', '.join(content)}.")
    facts.append(f"Started {made['started']}.")
    if (seconds := run.trials["seconds"].sum()) > 0:
        facts.append(f"All training runs took {_cost(seconds, [resources, *later])}, without teacher and export.")
    files = [f"every training: `{TRIALS}`", f"every evaluation: `{EVALUATIONS}`"] if len(run.trials) else []
    if (run.folder / RAY).is_dir():
        files.append(f"TensorBoard: `tensorboard --logdir {RAY}`")
    files.append(
        f"plots for papers: `{PLOTS}/`" if with_plots else "no plots for papers, which `pkd_tune.report` draws"
    )
    return [*facts, f"In this folder: {'; '.join(files)}."]


def _nodes(run: Run) -> dict[str, list[str]]:
    """Returns what each node did, by its address; empty where there was only one."""
    did: dict[str, list[str]] = {}
    for work in run.record.get("work", []):
        did.setdefault(work["node"], []).append(work["job"])
    evaluated = run.evaluations
    if "node" in evaluated:
        of_trial = ["depth", "method", "stage", "trial"]
        for node, count in evaluated.drop_duplicates([*of_trial, "node"])["node"].value_counts().items():
            did.setdefault(str(node), []).append(plural(count, "trial"))
    return dict(sorted(did.items())) if len(did) > 1 else {}


def _students_have(run: Run) -> list[str]:
    """Returns what all students of the search have in common besides their hyperparameters."""
    search, space = run.search, run.record["space"]
    epochs, init = (fixed_value(space[name]) for name in ("epochs", "init"))
    return [
        *([_INITS[init]] if init is not None else []),
        *([plural(epochs, "epoch")] if epochs is not None else []),
        *([f"batch size {search['student_training']['batch_size']}"] if "batch_size" not in space else []),
        f"maximum length {search['data']['max_length']} tokens",
        f"seed {search['student_training']['seed']}",
    ]


def _search(run: Run) -> str:
    """Returns how hyperparameters were searched."""
    search = run.search
    depths = search["depths"]
    at = f"depth {depths[0]}" if len(depths) == 1 else f"depths {listed(depths)}"
    stopped = "; trials with low scores are stopped early" if (run.trials["state"] == "stopped early").any() else ""
    return (
        f"Search: {_shares(run)} at {at}; {_SAMPLERS[search['sampler']]}, one study per depth and method, seed "
        f"{search['seed']}; hyperparameters and epochs selected on {_SELECTED_ON[run.holdout]}{stopped}."
    )


def _shares(run: Run) -> str:
    """Returns how many trials each method had: in the order of the stages where one keeps values."""
    search = run.search
    trials = run.of_stage("search")
    made = trials["method"][trials["state"].isin(ENDED)].value_counts()
    finished = run.status == "finished" and not trials.empty  # a finite space may have fewer than was asked for

    def share(total: int | None, *methods: str) -> str:
        """Returns the number that was made; that was asked for, as long as there may be more."""
        if total is None:
            return "every grid point"
        most = max(made.get(each, 0) for each in methods)
        return f"{most if finished else max(total, most)} trials"

    if run.kept:  # controls then have as many trials as the others
        text = ""
        for method in (stage["method"] for stage in search["stages"]):
            before, names = run.kept.get(method, ("", []))
            text += (", then " if before else ", ") if text else ""
            text += f"{share(search['trials'], method)} for {METHOD_INFO[method].title}"
            text += f" with {listed(names)} of the best {METHOD_INFO[before].title} student" if before else ""
        return text
    others = [method for method in run.methods if method not in CONTROLS]
    each = "each for" if len(others) > 1 else "for"
    totals = {"kd": search["control_trials"], "finetuned": search.get("finetuned_trials", search["control_trials"])}
    controls = [
        f"{share(totals[method], method)} for {METHOD_INFO[method].title}" for method in run.methods if method in totals
    ]
    if others:
        titles = listed([METHOD_INFO[method].title for method in others])
        controls = [f"{share(search['trials'], *others)} {each} {titles}", *controls]
    return listed(controls)


def _effective(run: Run) -> list[str]:
    """Returns the hyperparameters of the search space that have an effect on at least one study."""
    regression = is_regression(run.teacher["metrics"] if run.teacher else run.trials.columns)
    fixed = {
        name: spec["values"][0]
        for name, spec in run.record["space"].items()
        if len(spec.get("values", ())) == 1 and "when" not in spec
    }
    unused = [
        unused_settings(method, depth, regression=regression, settings=fixed)
        for depth in run.search["depths"]
        for method in run.methods
    ]
    said = [name for name in ("epochs", "init") if fixed_value(run.record["space"][name]) is not None]
    return [name for name in run.record["space"] if name not in said and not all(name in each for each in unused)]


def _slots(resources: dict[str, Any]) -> str:
    """Returns how many trials ran at once, and on what."""
    cores = f", {resources['threads']} cores each" if resources["threads"] > 1 else ""
    return f"{resources['count']} ({_DEVICES[resources['device']]}{cores})"


def _cost(seconds: float, sessions: Sequence[dict[str, Any]]) -> str:
    """Returns the device time of training runs: GPU-hours or CPU-core-hours; hours where sessions differ in that.

    Args:
        seconds: Of all training runs together.
        sessions: Resources of the run's start and of its continuations.
    """
    shares = {
        ("GPU-hours", 1 / each["per_gpu"]) if each["device"] == "cuda" else ("CPU-core-hours", float(each["threads"]))
        for each in sessions
    }
    unit, share = shares.pop() if len(shares) == 1 else ("hours in total, on different devices", 1.0)
    hours = seconds / 3600 * share
    return f"{hours:.{1 if hours > 10 else 2}f} {unit}"


def _content_name(run: Run, name: str) -> str:
    """Returns what a content hash is of; a held-out slice is recorded under the name of the dev split it replaces."""
    if not run.holdout or name in ("teacher", "train", "student", "unlabeled"):
        return name
    return f"held out for {name}"


def _teacher(teacher: dict[str, Any], trainings: list[dict[str, Any]]) -> str:
    source = "used as given, without fine-tuning"
    if teacher["finetuned_here"]:
        rates = [number_text(each["learning_rate"]) for each in trainings]
        if len(scores := teacher.get("training_scores", ())) == len(rates):
            rates = [f"{rate} ({score:.1f})" for rate, score in zip(rates, scores, strict=True)]
        source = f"fine-tuned for {plural(trainings[0]['epochs'], 'epoch')} at learning rate"
        source += f"s {listed(rates)}; the best was kept" if len(rates) > 1 else f" {listed(rates)}"
    return f"{literal(teacher['name'])}, {plural(teacher['layers'], 'layer')}, {source}."


def _parameter(spec: dict[str, Any]) -> str:
    if "values" in spec:
        text = listed([setting_text(value) for value in spec["values"]], "or")
    else:
        text = f"{number_text(spec['low'])} to {number_text(spec['high'])}{' (log)' if spec['log'] else ''}"
    if "when" in spec:
        conditions = listed([f"{name} is {setting_text(value)}" for name, value in spec["when"].items()])
        text += f" when {conditions}, otherwise {setting_text(spec['otherwise'])}"
    return text
