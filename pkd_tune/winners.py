"""The winners of a search: exported, measured, and compared with their controls on fresh seeds."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from pkd_tune.command_line import say
from pkd_tune.config import Precision, UserError
from pkd_tune.deployment.card import write_card
from pkd_tune.deployment.conversion import export_student
from pkd_tune.deployment.forms import PYTORCH
from pkd_tune.deployment.measuring import latencies_ms, latency_machine, measure
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.distillation.model_folder import model_name
from pkd_tune.distillation.precision import has_bf16
from pkd_tune.glue.data import load_raw
from pkd_tune.glue.significance import Predicted, paired_bootstrap
from pkd_tune.glue.tasks import TASKS, majority_score
from pkd_tune.tuning.arms import CONTROLS, Arm, Assignment
from pkd_tune.tuning.notes import evaluations
from pkd_tune.tuning.slots import Slots
from pkd_tune.tuning.study import Studies
from pkd_tune.tuning.trial import Workplace, predictions_name, weights_name


def export_best(workplace: Workplace, studies: Studies, run_dir: Path, command: str, *, demo: bool) -> dict[str, Any]:
    """Exports the best trial of each depth and method below `best/`, and measures teacher and students alike.

    Args:
        workplace: Of the search; holds the weights of trials.
        studies: Say which trial is best.
        run_dir: Receives the folders.
        command: What was run, for the model card.
        demo: Whether the data is the made-up corpus.

    Returns:
        What summary.json holds.
    """
    config, teacher = workplace.search, workplace.teacher
    data, task = config.data, TASKS[config.data.task]
    raw = load_raw(task, data.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    start = data.student_dir if data.init == "pretrained" else teacher.folder
    teacher_record: dict[str, Any] = {
        "name": model_name(data.teacher_dir),
        "layers": teacher.layers,
        "finetuned_here": teacher.finetuned_here,
        "majority": majority_score(task, {name: split.labels for name, split in dev.items()}),
        "baseline": task.baseline,
        **measure(teacher.folder, dev, task, data.max_length),
    }
    students: list[dict[str, Any]] = []
    for arm in sorted(studies.plans, key=lambda arm: arm.depth):
        best = studies.best(arm)
        if best is None:
            continue
        settings = studies.settings(arm, best)
        target = run_dir / "best" / (f"{arm.depth}-layer" + ("" if arm.method == "pkd" else f"-{arm.method}"))
        weights = workplace.store.fetch(weights_name(Assignment(arm, "search", best.number)))
        if not weights.exists():
            raise UserError(f"{weights} is gone, and with it the best {arm.name} student; start another run with --new")
        export_student(weights, arm.depth, start, task, config.student_training.seed, target)
        scores = best.intermediate_values
        best_step = max(scores, key=lambda step: (scores[step], -step))
        student: dict[str, Any] = {
            "layers": arm.depth,
            "method": arm.method,
            "trial": best.number,
            "trials_ended": sum(trial.state.is_finished() for trial in studies.trials(arm)),
            "search_score": best.value,
            "epoch": evaluations(best)[best_step]["epoch"],
            "settings": settings,
            "imitated_layers": teacher_layers(settings["strategy"], arm.depth, teacher.layers)
            if settings["beta"]
            else (),
            "confirmed": confirmed(studies, arm),
            "folder": target.relative_to(run_dir).as_posix(),
            **measure(target, dev, task, data.max_length),
        }
        if data.select_on == "dev":
            sizes = {name: len(split) for name, split in dev.items()}
            check_reproduced(student, sizes, exactly=_only_fp32(config.student_training.precision, workplace.slots))
        students.append(student)
    folders = [teacher.folder, *(run_dir / student["folder"] for student in students)]
    timed = latencies_ms([(folder, PYTORCH) for folder in folders], dev[task.dev_splits[0]], data.max_length)
    for model, latency in zip([teacher_record, *students], timed, strict=True):
        model["latency_ms"] = latency
    labels = {name: np.asarray(split.labels) for name, split in dev.items()}
    for student in students:
        student["against"] = against_controls(workplace, studies, student, labels)
        seed, folder = config.student_training.seed, run_dir / student["folder"]
        on = data.select_on
        write_card(student, teacher_record, task, command, folder, seed=seed, demo=demo, select_on=on)
    planned = sum(studies.quota(arm) for arm in studies.plans)
    return {"teacher": teacher_record, "students": students, "planned": planned, "latency_on": latency_machine()}


def check_reproduced(student: dict[str, Any], sizes: Mapping[str, int], *, exactly: bool) -> None:
    """Holds an exported student's score against its trial's: three examples of the smallest dev split, or one point,
    are let pass, for another machine's rounding.

    The export is scored in fp32. A trial in bf16 can be further away without a fault: where a student's two classes
    nearly tie, as they do when it has learnt nothing, rounding turns many of its predictions. That is said, no more.

    Args:
        student: As summary.json has it.
        sizes: Examples of each dev split.
        exactly: Whether the trial was scored in fp32 too.

    Raises:
        RuntimeError: When two scores in fp32 are further apart: what was exported is not what was searched.
    """
    exported, searched = student["metrics"]["score"], student["search_score"]
    if abs(exported - searched) <= max(1.0, 300 / min(sizes.values())):
        return
    if exactly:
        raise RuntimeError(f"{student['folder']} scores {exported:.2f}, but its trial scored {searched:.2f}")
    say(
        f"warning: {student['folder']} scores {exported:.1f} in fp32, but {searched:.1f} in its trial's bf16",
        always=True,
    )


def _only_fp32(precision: Precision, slots: Slots) -> bool:
    """Tells whether no trial can have been scored in bf16; of GPUs elsewhere nothing is known here."""
    return precision == "fp32" or (slots.device == "cpu" and not has_bf16("cpu"))


def confirmed(studies: Studies, arm: Arm) -> dict[str, Any] | None:
    """Returns how an arm's best setting scored on fresh seeds, as summary.json has it; None when it was not tried.

    `sd` is the sample standard deviation, None for a single training.
    """
    trials = [trial for trial in studies.trials(arm, "confirm") if "official" in trial.user_attrs]
    if not trials:
        return None

    def spread(name: str) -> dict[str, float | None]:
        values = [trial.user_attrs["official"][name] for trial in trials]
        return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}

    names = [name for name in trials[0].user_attrs["official"] if name != "score"]
    return {
        "seeds": [trial.user_attrs["seed"] for trial in trials],
        "scores": [trial.user_attrs["official"]["score"] for trial in trials],
        **spread("score"),
        "metrics": {name: spread(name) for name in names},
    }


def against_controls(
    workplace: Workplace, studies: Studies, student: dict[str, Any], labels: Mapping[str, npt.NDArray[np.generic]]
) -> list[dict[str, Any]]:
    """Compares a student's confirmations with those of the controls at its depth, as summary.json has it.

    Args:
        workplace: Holds the predictions.
        studies: Say which confirmations there are.
        student: As summary.json has it.
        labels: Of the official dev splits.
    """
    task = TASKS[workplace.search.data.task]
    arm = Arm(student["layers"], student["method"])
    ours = _predictions(workplace, studies, arm)
    controls = [Arm(arm.depth, method) for method in CONTROLS if Arm(arm.depth, method) in studies.plans]
    compared = []
    for control in controls[controls.index(arm) + 1 :] if arm in controls else controls:
        theirs = _predictions(workplace, studies, control)
        if not ours or not theirs:
            continue
        difference = paired_bootstrap(task, ours, theirs, labels)
        compared.append(
            {
                "method": control.method,
                "difference": difference.mean,
                "low": difference.low,
                "high": difference.high,
                "distinguishable": difference.distinguishable,
            }
        )
    return compared


def _predictions(workplace: Workplace, studies: Studies, arm: Arm) -> list[Predicted]:
    paths = [
        workplace.store.fetch(predictions_name(Assignment(arm, "confirm", trial.number)))
        for trial in studies.trials(arm, "confirm")
        if "official" in trial.user_attrs
    ]
    return [load_file(path) for path in paths if path.exists()]
