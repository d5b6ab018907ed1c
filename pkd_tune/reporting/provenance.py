"""How a run was made: recorded by commands as they start, and shown in the second half of its report."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.config import CONTROLS
from pkd_tune.reporting.document import Block, Bullets, Heading, Table
from pkd_tune.reporting.formatting import listed, plural, setting_text
from pkd_tune.reporting.methods import METHOD_INFO, WORDS, in_order, student_title
from pkd_tune.reporting.run import STATES, Run

_SAMPLERS = {
    "tpe": "TPE (Tree-structured Parzen Estimator)",
    "random": "random search",
    "grid": "every point of a grid",
}
_CHOOSERS = {False: "the dev split", True: "a slice held out of train, and dev looked at once at the end"}
"""What chose, by `Run.holdout`."""
_DEVICES = {"cpu": "the CPU", "cuda": "GPUs"}
_REASONS_SHOWN = 10


def background(run: Run) -> list[Block]:
    """Returns how the trials ended and how the run was made."""
    blocks: list[Block] = [Heading("Trials"), _counts(run)]
    if reasons := _reasons(run.trials):
        blocks.append(Bullets(reasons))
    blocks.append(Heading("How this was made"))
    if run.students:
        blocks.append(_students(run))
    return [*blocks, Bullets(_facts(run))]


def _counts(run: Run) -> Table:
    rows: list[list[object]] = []
    groups = []
    for depth in run.search["depths"]:
        groups.append(len(rows))
        for stage, title in (("search", ""), ("confirm", ", fresh seeds")):
            for method in in_order(run.search["methods"]):
                trials = run.of_stage(stage)
                trials = trials[(trials["depth"] == depth) & (trials["method"] == method)]
                if stage == "search" or len(trials):
                    counts = [int((trials["state"] == state).sum()) for state in STATES]
                    name = f"{METHOD_INFO[method].title}, {plural(depth, 'layer')}{title}"
                    rows.append([name, len(trials), *counts])
    return Table(["trainings", "started", *STATES], rows, groups=tuple(groups[1:]))


def _reasons(trials: pd.DataFrame) -> list[str]:
    """Returns why trials have no result, the most frequent reasons first."""
    given = trials[trials["error"].notna()]
    lines = []
    for (state, error), count in Counter(zip(given["state"], given["error"], strict=True)).most_common():
        reason = " ".join(str(error).replace("`", "'").split())
        lines.append(f"{count} {state}: `{reason[:300]}`")
    more = len(lines) - _REASONS_SHOWN
    return lines[:_REASONS_SHOWN] + ([f"{plural(more, 'other reason')}: see `trials.csv`"] if more > 0 else [])


def _students(run: Run) -> Table:
    rows = []
    for student in run.students:
        imitated = ", ".join(f"{i}→{layer}" for i, layer in enumerate(student["imitated_layers"], start=1)) or "none"
        trial = f"{student['trial']}, epoch {student['epoch']:.1f}"
        rows.append(
            [
                student_title(student),
                trial,
                "none" if student["method"] in CONTROLS else imitated,
                f"`{student['folder']}`",
            ]
        )
    return Table(["student", "trial", "student layer → teacher layer", "checkpoint"], rows, left=(0, 2, 3))


def _facts(run: Run) -> list[str]:
    facts = _made_by(run, run.record) if run.record else []
    if any(student["method"].startswith("pkd") and student["layers"] == 1 for student in run.students):
        facts.append("One layer has no inner layer to imitate with: beta, strategy and normalize have no effect there.")
    seconds = run.trials["seconds"].sum()
    if seconds > 0:
        resources = run.record["resources"] if run.record else {}
        if resources.get("device") == "cuda":
            unit, share = "GPU-hours", 1 / resources["per_gpu"]
        else:
            unit, share = "CPU-core-hours", resources.get("threads", 1)
        seconds *= share
        hours = f"{seconds / 3600:.1f}" if seconds > 36_000 else f"{seconds / 3600:.2f}"
        facts.append(f"All trainings together took {hours} {unit}, without teacher and export.")
    files = ["every training: `trials.csv`"]
    if len(run.evaluations):
        files.append("every evaluation: `evaluations.csv`")
    if (run.folder / "ray").is_dir():
        files.append("TensorBoard: `tensorboard --logdir ray`")
    return [*facts, f"In this folder: {'; '.join([*files, 'plots for papers: `plots/`'])}."]


def _made_by(run: Run, record: dict[str, Any]) -> list[str]:
    """Returns what run.json says, a sentence each."""
    search, made = run.search, record["provenance"]
    threads = record["resources"].get("threads", 1)
    training = search["student_training"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    content = ", ".join(f"{_content_name(run, name)} `{key[:12]}`" for name, key in record.get("content", {}).items())
    seeds = search["seeds"]
    stopped = "; trials that fall behind are stopped early" if (run.trials["state"] == "stopped early").any() else ""
    methods = in_order(search["methods"])
    shares = [f"{search['trials'] or 'all'} trials for each PKD method"]
    if any(method in CONTROLS for method in methods):
        shares.append(f"{search['control_trials']} for each control")
    start = {
        "teacher": "first k layers of the fine-tuned teacher",
        "teacher-skip": "every (N/k)-th layer of the fine-tuned teacher",
    }.get(search["data"].get("init", "pretrained"), "first k layers of the pretrained model")
    return [
        f"Command: `{made['command']}`",
        *(f"Continued with: `{command}`" for command in record.get("continued_with", [])),
        *([f"Teacher: {_teacher(run.teacher, search['teacher_trainings'])}"] if run.teacher else []),
        f"Students: {start}, {plural(training['epochs'], 'epoch')}, batch size {training['batch_size']}, at most "
        f"{search['data']['max_length']} word pieces, seed {training['seed']}.",
        *(f"{WORDS[method]}." for method in methods),
        f"Search: {' and '.join(shares)}, over depths {listed(search['depths'])}; "
        f"{_SAMPLERS[search['sampler']]}, a study of its own for each depth and method, seed {search['seed']}; "
        f"settings and epochs chosen on {_CHOOSERS[run.holdout]}{stopped}.",
        *([f"Confirmation: {plural(seeds, 'training')} of each student on fresh seeds."] if seeds else []),
        f"Space: {'; '.join(f'{name} {_parameter(spec)}' for name, spec in record['space'].items())}.",
        f"Trials at once: {record['resources']['count']} on {_DEVICES[record['resources']['device']]}"
        f"{', ' + str(threads) + ' cores each' if threads > 1 else ''}; {made['machine']}.",
        f"Versions: Python {made['python']}, {versions}{', commit ' + made['git'] if made['git'] else ''}.",
        *([f"Content hashes: {content}."] if content else []),
        f"Started {made['started']}.",
    ]


def _content_name(run: Run, name: str) -> str:
    """Returns what a hash is of: a held-out slice stands in for a dev split under its name."""
    if not run.holdout or name in ("teacher", "train"):
        return name
    return f"held out for {name}"


def _teacher(teacher: dict[str, Any], trainings: list[dict[str, Any]]) -> str:
    source = "used as it was given, not fine-tuned here"
    if teacher["finetuned_here"]:
        rates = listed([f"{each['learning_rate']:g}" for each in trainings])
        source = f"fine-tuned here for {plural(trainings[0]['epochs'], 'epoch')} at learning rate"
        source += f"s {rates}" if len(trainings) > 1 else f" {rates}"
        if len(trainings) > 1:
            source += ", the best of them kept"
    return f"{teacher['name']}, {plural(teacher['layers'], 'layer')}, {source}."


def _parameter(spec: dict[str, Any]) -> str:
    if "values" in spec:
        text = " or ".join(setting_text(value) for value in spec["values"])
    else:
        text = f"{spec['low']:g} to {spec['high']:g}{' (log)' if spec['log'] else ''}"
    if "when" in spec:
        conditions = listed([f"{name} is {setting_text(value)}" for name, value in spec["when"].items()])
        text += f" when {conditions}, else {setting_text(spec['otherwise'])}"
    return text


def provenance(command: str, gpus: Sequence[str]) -> dict[str, Any]:
    """Returns when, with what and on what machine a command runs.

    Args:
        command: The command line that does the same.
        gpus: Names of the machine's GPUs; this room does not load what could tell them.
    """
    devices = [f"{os.cpu_count()} CPU cores", *(f"{count} × {name}" for name, count in Counter(gpus).items())]
    packages = ("pkd_tune", "torch", "transformers", "ray", "optuna", "datasets")
    return {
        "command": command,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _git_hash(),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "machine": ", ".join([f"{platform.system()} {platform.machine()}", *devices]),
    }


def _git_hash() -> str | None:
    """Returns the commit of the source tree this runs from; None for an installed copy."""
    folder = Path(sys.modules["pkd_tune"].__file__ or ".").resolve().parent
    command = ["git", "-C", str(folder), "log", "-1", "--format=%h", "--", "."]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
