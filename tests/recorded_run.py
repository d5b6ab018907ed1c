"""Writes run folders as a search does, without a search: records of synthetic but plausible training runs.

    python tests/recorded_run.py results/MRPC/minilm

Everything is drawn from the random generator of the standard library, so equal arguments give equal files everywhere.
"""

import random
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from recorded_trainings import EPOCHS, EXAMPLES, GRID, SPACE, STARTED, Maker

from pkd_tune.config import DataConfig, Method, SearchConfig, SearchStage, SelectOn, Task, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.files import DEV_PREDICTIONS, EVALUATIONS, RUN, SUMMARY, TRIALS, write_json, write_text
from pkd_tune.reporting.dev_predictions import TEACHER, TEXTS, disagreements
from pkd_tune.reporting.run import write_rows


def write_run(
    folder: Path,
    *,
    task: str = "MRPC",
    teacher: str = "minilm",
    teacher_layers: int = 6,
    depths: tuple[int, ...] = (2, 3),
    methods: tuple[Method, ...] = ("pkd", "kd", "finetuned"),
    trials: int = 12,
    control_trials: int = 6,
    seeds: int = 3,
    tolerance: float = 1.0,
    select_on: SelectOn = "dev",
    demo: bool = False,
    labels: tuple[str, ...] = (),
    grid: tuple[SearchStage, ...] = (),
    seed: int = 0,
) -> Path:
    """Writes run.json, trials.csv, evaluations.csv and summary.json into a folder, and returns it.

    One PKD trial of the lowest depth fails and one is interrupted and runs again; trials in the lowest quarter are
    stopped early.

    Args:
        folder: The run folder; created when missing.
        task: One of `METRICS`.
        teacher: Name of the teacher.
        teacher_layers: Depth of the teacher.
        depths: Depths of the students.
        methods: Methods of the students.
        trials: Trials of each PKD method, over all depths.
        control_trials: Trials of each control, over all depths.
        seeds: Number of confirmation training runs of each student.
        tolerance: By how many points the student to ship may fall short of the teacher.
        select_on: Which examples selected the students.
        demo: Whether the run is recorded as a demo.
        labels: Classes of the task instead of its own.
        grid: Stages of a grid search, in place of methods and numbers of trials; nothing fails or is stopped early.
        seed: Seed of the random generator.
    """
    of_task = replace(TASKS[task], labels=labels, raw_labels=labels) if labels else TASKS[task]
    maker = Maker(random.Random(seed), task, teacher_layers, early_stopping=not grid)
    methods = tuple(stage.method for stage in grid) or methods
    for depth in depths:
        best: dict[str, Any] = {}
        for stage in grid:
            points = maker.grid(stage.method, {name: best[name] for name in stage.keep})
            scores = [maker.train(depth, stage.method, "search", i, 42, point) for i, point in enumerate(points)]
            best = points[scores.index(max(scores))]
        for method in methods if not grid else ():
            total = control_trials if method in ("kd", "finetuned") else trials
            accidents = {1: "failed", 2: "interrupted"} if (depth, method) == (min(depths), "pkd") else {}
            for number in range(total // len(depths) + ("interrupted" in accidents.values())):
                maker.train(depth, method, "search", number, 42, maker.draw(method), accidents.get(number, ""))
    students = [maker.student(depth, method, seeds) for depth in depths for method in methods]
    found = [student for student in students if student]
    record = maker.teacher(teacher)
    for student in found:
        student["against"] = [
            {"method": other["method"], **_against(student, other)}
            for other in found
            if _is_control_of(other, student) and student["confirmed"]
        ]
        shallower = [s for s in found if s["method"] == student["method"] and s["layers"] < student["layers"]]
        student["against_shallower"] = None
        if shallower and student["confirmed"]:
            other = max(shallower, key=lambda s: s["layers"])
            student["against_shallower"] = {"layers": other["layers"], **_against(student, other)}
        student["ablations"] = []
        if student["confirmed"] and student["method"].startswith("pkd"):
            student["ablations"] = [
                _ablation(student, method, loss) for method, loss in (("kd", 0.4), ("finetuned", 3.0))
            ]
        student["against_teacher"] = None
        if seeds > 1:
            whole = {"confirmed": None, "search_score": record["metrics"]["score"]}
            student["against_teacher"] = {**_against(student, whole, 2.0), "students": len(found)}
    pretrained = Path(f"data/models/pretrained/{teacher}")
    search = SearchConfig(
        data=DataConfig(
            task=of_task, data_dir=Path("data"), teacher_dir=pretrained, student_dir=pretrained, select_on=select_on
        ),
        teacher_trainings=tuple(TrainingConfig(learning_rate=rate, epochs=EPOCHS) for rate in (2e-5, 5e-5)),
        student_training=TrainingConfig(epochs=EPOCHS),
        depths=depths,
        stages=grid or tuple(SearchStage(method=method) for method in methods),
        trials=None if grid else trials,
        control_trials=0 if grid else control_trials,
        finetuned_trials=0 if grid else control_trials,
        seeds=seeds,
        sampler="grid" if grid else "tpe",
        early_stopping=not grid,
    )
    write_json(folder / RUN, _record(search, GRID if grid else SPACE, demo=demo))
    write_rows(folder / TRIALS, maker.trials)
    write_rows(folder / EVALUATIONS, maker.evaluations)
    planned = sum(control_trials if method in ("kd", "finetuned") else trials for method in methods)
    if grid:
        planned = sum(row["stage"] == "search" for row in maker.trials)
    latency_on = "2 CPU threads (x86_64)"
    write_json(
        folder / SUMMARY,
        {
            "teacher": record,
            "latency_on": latency_on,
            "status": "finished",
            "remaining": 0,
            "reason": None,
            "planned": planned,
            "students": found,
            "tolerance": tolerance,
        },
    )
    if found:
        write_text(folder / DEV_PREDICTIONS, predictions(of_task, [each["folder"] for each in found]))
    return folder


def predictions(task: Task, students: Sequence[str]) -> str:
    """Returns a dev-predictions.csv in which the teacher, then each student, is more often wrong than the one before.

    The texts hold what a report must not take for markup.
    """
    draws = random.Random(1)
    per_split = EXAMPLES[task.name] // len(task.dev_splits)
    rows: list[dict[str, Any]] = []
    for number in range(per_split * len(task.dev_splits)):
        split, example = task.dev_splits[number // per_split], number % per_split
        label: Any = round(draws.uniform(0, 5), 2) if task.regression else draws.choice(task.labels)
        row: dict[str, Any] = {"split": split, "example_id": example, "label": label}
        for place, model in enumerate((TEACHER, *students), start=1):
            if task.regression:
                row[model] = round(min(5.0, max(0.0, label + draws.gauss(0, 0.3 * place))), 4)
            else:
                row[model] = draws.choice(task.labels) if draws.random() < 0.15 * place else label
        rows.append(row)
    table = pd.DataFrame(rows)
    listed = {row for student in students for _, those in disagreements(table, student) for row in those.index}
    for name, text in zip(TEXTS, ("<b>First</b> sentence, number {} of *many*", "| `Second` |"), strict=True):
        if len(task.text) == 2 or name == TEXTS[0]:
            table[name] = [text.format(row) if row in listed else "" for row in range(len(table))]
    return table.to_csv(index=False)


def _is_control_of(control: dict[str, Any], student: dict[str, Any]) -> bool:
    return (
        control["method"] in ("kd", "finetuned")
        and control["method"] != student["method"]
        and control["layers"] == student["layers"]
        and student["method"] != "finetuned"
    )


def _against(student: dict[str, Any], other: dict[str, Any], half: float = 1.5) -> dict[str, Any]:
    scores = [(each["confirmed"] or {"mean": each["search_score"]})["mean"] for each in (student, other)]
    difference = scores[0] - scores[1]
    low, high = difference - half, difference + half
    return {"difference": difference, "low": low, "high": high, "distinguishable": low > 0 or high < 0}


def _ablation(student: dict[str, Any], method: str, loss: float) -> dict[str, Any]:
    """Returns a student's settings without a term of the loss, which cost it so many points on every seed."""
    confirmed, settings = student["confirmed"], {**student["settings"], "beta": 0.0}
    spreads = {name: {"mean": each["mean"] - loss, "sd": each["sd"]} for name, each in confirmed["metrics"].items()}
    return {
        "method": method,
        "settings": settings if method == "kd" else {**settings, "alpha": 0.0},
        "seeds": confirmed["seeds"],
        "scores": [each - loss for each in confirmed["scores"]],
        "mean": confirmed["mean"] - loss,
        "sd": confirmed["sd"],
        "metrics": spreads,
        "difference": loss,
        "low": loss - 1.0,
        "high": loss + 1.0,
        "distinguishable": loss > 1.0,
    }


def _record(search: SearchConfig, space: dict[str, Any], *, demo: bool) -> dict[str, Any]:
    depths = " ".join(map(str, search.depths))
    return {
        "demo": demo,
        "search": search,
        "space": space,
        "id": "01234567",
        "resources": {"device": "cpu", "count": 2, "per_gpu": 1, "threads": 1},
        "provenance": {
            "command": f"python -m pkd_tune.search --task {search.data.task.name} --gpus 0 --depths {depths}",
            "started": STARTED.isoformat(),
            "git": "abc1234",
            "python": "3.11.7",
            "versions": {"pkd_tune": "0.1.0", "torch": "2.13.0"},
            "machine": "Linux x86_64, 2 CPU cores",
        },
        "data_from_here": "../../../data",
        "content": {"teacher": "0123456789abcdef", "train": "123456789abcdef0", "dev": "23456789abcdef01"},
    }


if __name__ == "__main__":
    write_run(Path(sys.argv[1]))
