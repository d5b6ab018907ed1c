"""report.md: a run's answer in one page of Markdown."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.reporting.records import RUN, SUMMARY, TRIALS, read_json, read_trials, write_text

WITHOUT_EFFECT_AT_ONE_LAYER = ("beta", "strategy", "normalize")

METRIC_TITLES = {
    "f1": "F1",
    "accuracy": "accuracy",
    "accuracy_mm": "accuracy (mm)",
    "matthews": "Matthews correlation",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


def write_report(run_dir: Path) -> Path:
    """Writes report.md from the run's records and returns its path."""
    path = run_dir / "report.md"
    write_text(path, report(read_json(run_dir / RUN), read_json(run_dir / SUMMARY), read_trials(run_dir / TRIALS)))
    return path


def report(run: dict[str, Any], summary: dict[str, Any], trials: pd.DataFrame) -> str:
    """Returns the report's text.

    Args:
        run: Of run.json.
        summary: Of summary.json.
        trials: Of trials.csv.
    """
    task = run["search"]["data"]["task"]
    sections = [
        f"# {task}: PKD students of {summary['teacher']['name']}",
        *(["**A made-up demo corpus, not GLUE's.**"] if run["demo"] else []),
        _results(summary),
        "\n".join(_notes(run, summary, trials)),
        "## Best settings",
        _settings(summary["students"]),
        "## Trials",
        _trial_counts(run["search"]["depths"], trials),
        "## How this was made",
        _making(run, summary),
    ]
    return "\n\n".join(sections) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, [":--", *["--:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plural(count: int, noun: str) -> str:
    """Returns the count with its noun, `1 layer` or `2 layers`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def learnt_nothing(student: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Tells whether a student scores no better than always predicting the most frequent class, or the mean label."""
    return bool(student["metrics"]["score"] <= teacher["majority"]["score"] + 0.05)


def metrics_text(metrics: dict[str, float]) -> str:
    """Returns the metrics by name in one line, as in `F1 86.0, accuracy 80.0, mean 83.0`."""
    return ", ".join(f"{title} {metrics[name]:.1f}" for name, title in metric_titles(metrics).items())


def metric_titles(metrics: dict[str, float]) -> dict[str, str]:
    """Returns the title of each metric, and of the score where it is the mean of several."""
    names = [name for name in metrics if name != "score"]
    titles = {name: METRIC_TITLES[name] for name in names}
    return titles if len(names) == 1 else {**titles, "score": "mean"}


def _results(summary: dict[str, Any]) -> str:
    teacher = summary["teacher"]
    titles = metric_titles(teacher["metrics"])
    header = ["dev split", *titles.values(), "parameters", "size of teacher", "latency", "speed-up"]
    rows = []
    for name, model in [(f"teacher, {teacher['layers']} layers", teacher)] + [
        (f"best student, {plural(student['layers'], 'layer')}", student) for student in summary["students"]
    ]:
        rows.append(
            [
                name,
                *(f"{model['metrics'][metric]:.1f}" for metric in titles),
                f"{model['parameters'] / 1e6:.{1 if model['parameters'] > 1e7 else 2}f} M",
                f"{model['parameters'] / teacher['parameters']:.0%}",
                f"{model['latency_ms']:.1f} ms",
                f"{teacher['latency_ms'] / model['latency_ms']:.1f}×",
            ]
        )
    majority = teacher["majority"]
    rows.append([teacher["baseline"], *(f"{majority[metric]:.1f}" for metric in titles), "", "", "", ""])
    return table(header, rows)


def _notes(run: dict[str, Any], summary: dict[str, Any], trials: pd.DataFrame) -> list[str]:
    students = summary["students"]
    missing = [depth for depth in run["search"]["depths"] if depth not in {student["layers"] for student in students}]
    lines = [
        f"No trial of {plural(depth, 'layer')} reached the end of its training, so there is no student of that depth.\n"
        for depth in missing
    ]
    lines += [
        f"The best student of {plural(student['layers'], 'layer')} is no better than always predicting the "
        f"{summary['teacher']['baseline']}: it has learnt nothing.\n"
        for student in students
        if learnt_nothing(student, summary["teacher"])
    ]
    ended = int(trials["state"].isin(["complete", "stopped early", "failed"]).sum())
    if ended < run["search"]["trials"]:
        lines.append(f"The search was cut short: {ended} of {run['search']['trials']} trials ended.\n")
    lines += [
        "Metrics are times 100, of the exported folder loaded again with plain `transformers` in fp32. A student's "
        "score is a *selection score*: the best evaluation of the best trial, on the split that selected it, so it is "
        "optimistic.",
        "A trial's own score may differ a little: training computes in bf16 where the hardware does.",
        f"Latency is the median of one forward pass for a single dev example in fp32 on {summary['latency_on']}.",
    ]
    return lines


def _settings(students: list[dict[str, Any]]) -> str:
    if not students:
        return "None: no trial was completed."
    names = list(students[0]["settings"])
    rows = []
    for student in students:
        imitated = student["imitated_layers"]
        layers = ", ".join(f"{i}→{layer}" for i, layer in enumerate(imitated, start=1)) or "none"
        values = [
            "–" if not imitated and name in WITHOUT_EFFECT_AT_ONE_LAYER else setting_text(student["settings"][name])
            for name in names
        ]
        rows.append(
            [
                plural(student["layers"], "layer"),
                student["trial"],
                f"{student['search_score']:.1f}",
                *values,
                layers,
                f"{student['epoch']:.1f}",
            ]
        )
    text = table(
        ["student", "trial", "score in the search", *names, "student layer → teacher layer", "best epoch"], rows
    )
    if any(not student["imitated_layers"] for student in students):
        text += "\n\nOne layer has no inner layer to imitate with: beta, strategy and normalize have no effect there."
    return text


def _trial_counts(depths: list[int], trials: pd.DataFrame) -> str:
    states = ["complete", "stopped early", "failed", "interrupted"]
    rows = []
    for depth in depths:
        of_depth = trials[trials["depth"] == depth]
        rows.append([plural(depth, "layer"), len(of_depth), *((of_depth["state"] == state).sum() for state in states)])
    text = table(["depth", "started", *states], rows)
    errors = trials["error"].dropna().value_counts() if "error" in trials else pd.Series(dtype=int)
    return text + "".join(f"\n\n{count} failed with: `{error}`" for error, count in errors.items())


def _making(run: dict[str, Any], summary: dict[str, Any]) -> str:
    search, made = run["search"], run["provenance"]
    training, teacher_trainings = search["student_training"], search["teacher_trainings"]
    rates = ", ".join(f"{each['learning_rate']:g}" for each in teacher_trainings)
    source = "used as it was given, not fine-tuned here"
    if summary["teacher"]["finetuned_here"]:
        source = f"fine-tuned here for {teacher_trainings[0]['epochs']} epochs at learning rate {rates}"
        if len(teacher_trainings) > 1:
            source += ", the best of them kept"
    teacher = summary["teacher"]
    versions = ", ".join(f"{name} {version}" for name, version in made["versions"].items())
    facts = [
        f"Command: `{made['command']}`",
        *(f"Continued with: `{command}`" for command in run.get("continued_with", [])),
        f"Teacher: {teacher['name']}, {teacher['layers']} layers, {source}.",
        f"Students: first k layers of {teacher['name']}, {training['epochs']} epochs, batch size "
        f"{training['batch_size']}, at most {search['data']['max_length']} word pieces, seed {training['seed']}.",
        f"Search: {search['trials']} trials over depths {', '.join(map(str, search['depths']))}; TPE, one study per "
        f"depth, seed {search['seed']}; trials below the median of their depth are stopped early.",
        f"Space: {'; '.join(f'{name} {_parameter(spec)}' for name, spec in run['space'].items())}.",
        f"Trials at once: {run['slots']['count']} on {run['slots']['device']}; {made['machine']}.",
        f"Versions: Python {made['python']}, {versions}{', commit ' + made['git'] if made['git'] else ''}.",
        f"Started {made['started']}.",
        *(f"Student of {plural(student['layers'], 'layer')}: `{student['folder']}`" for student in summary["students"]),
        "Every trial: `trials.csv`; TensorBoard: `tensorboard --logdir ray` in this folder.",
    ]
    return "\n".join(f"- {fact}" for fact in facts)


def _parameter(spec: dict[str, Any]) -> str:
    if "values" in spec:
        return " or ".join(setting_text(value) for value in spec["values"])
    return f"{spec['low']:g} to {spec['high']:g}{' (log)' if spec['log'] else ''}"


def setting_text(value: Any) -> str:
    """Returns a setting's value as people write it: three digits, yes or no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
