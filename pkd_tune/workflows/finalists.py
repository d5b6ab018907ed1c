"""The finalists of a search, the best trial of each study: exported, measured, compared with their controls."""

import logging
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file

from pkd_tune.config import CONTROLS, Precision, UserError
from pkd_tune.data.loading import load_raw
from pkd_tune.data.metrics import majority_score
from pkd_tune.data.significance import Predicted, paired_bootstrap
from pkd_tune.deployment.conversion import export_student
from pkd_tune.deployment.formats import PYTORCH
from pkd_tune.deployment.measurement import latencies_ms, latency_machine, measure
from pkd_tune.deployment.model_card import write_card
from pkd_tune.distillation.layer_map import teacher_layers
from pkd_tune.encoders.folder import model_name
from pkd_tune.encoders.precision import has_bf16
from pkd_tune.tuning.journal import evaluations
from pkd_tune.tuning.plan import StudyKey, TrialId
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext, predictions_name, weights_name

log = logging.getLogger(__name__)


def export_finalists(
    context: TrialContext, studies: Studies, run_dir: Path, command: str, *, demo: bool
) -> dict[str, Any]:
    """Exports the best trial of each depth and method below `best/`, and measures teacher and students alike.

    Args:
        context: Of the search; holds the weights of trials.
        studies: Say which trial is best.
        run_dir: Receives the folders.
        command: What was run, for the model card.
        demo: Whether the data is the made-up corpus.

    Returns:
        What summary.json holds.
    """
    config, teacher = context.search, context.teacher
    data, task = config.data, config.data.task
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
    for study_key in sorted(studies.plans, key=lambda study_key: study_key.depth):
        best = studies.best(study_key)
        if best is None:
            continue
        settings = studies.settings(study_key, best)
        target = (
            run_dir
            / "best"
            / (f"{study_key.depth}-layer" + ("" if study_key.method == "pkd" else f"-{study_key.method}"))
        )
        weights = context.artifacts.fetch(weights_name(TrialId(study_key, "search", best.number)))
        if not weights.exists():
            raise UserError(
                f"{weights} is gone, and with it the best {study_key.name} student; start another run with --new"
            )
        export_student(weights, study_key.depth, start, task, config.student_training.seed, target)
        scores = best.intermediate_values
        best_step = max(scores, key=lambda step: (scores[step], -step))
        student: dict[str, Any] = {
            "layers": study_key.depth,
            "method": study_key.method,
            "trial": best.number,
            "trials_ended": sum(trial.state.is_finished() for trial in studies.trials(study_key)),
            "search_score": best.value,
            "epoch": evaluations(best)[best_step]["epoch"],
            "settings": settings,
            "imitated_layers": teacher_layers(settings["strategy"], study_key.depth, teacher.layers)
            if settings["beta"]
            else (),
            "confirmed": confirmed(studies, study_key),
            "folder": target.relative_to(run_dir).as_posix(),
            **measure(target, dev, task, data.max_length),
        }
        if data.select_on == "dev":
            sizes = {name: len(split) for name, split in dev.items()}
            check_reproduced(student, sizes, exactly=_only_fp32(config.student_training.precision, context.resources))
        students.append(student)
    folders = [teacher.folder, *(run_dir / student["folder"] for student in students)]
    timed = latencies_ms([(folder, PYTORCH) for folder in folders], dev[task.dev_splits[0]], data.max_length)
    for model, latency in zip([teacher_record, *students], timed, strict=True):
        model["latency_ms"] = latency
    labels = {name: np.asarray(split.labels) for name, split in dev.items()}
    for student in students:
        student["against"] = against_controls(context, studies, student, labels)
        seed, folder = config.student_training.seed, run_dir / student["folder"]
        on = data.select_on
        write_card(student, teacher_record, task, command, folder, seed=seed, demo=demo, select_on=on)
    planned = sum(studies.quota(study_key) for study_key in studies.plans)
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
    log.warning("%s scores %.1f in fp32, but %.1f in its trial's bf16", student["folder"], exported, searched)


def _only_fp32(precision: Precision, resources: Resources) -> bool:
    """Tells whether no trial can have been scored in bf16; of GPUs elsewhere nothing is known here."""
    return precision == "fp32" or (resources.device == "cpu" and not has_bf16("cpu"))


def confirmed(studies: Studies, study_key: StudyKey) -> dict[str, Any] | None:
    """Returns how a study's best setting scored on fresh seeds, as summary.json has it; None when it was not tried.

    `sd` is the sample standard deviation, None for a single training.
    """
    trials = [trial for trial in studies.trials(study_key, "confirm") if "official" in trial.user_attrs]
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
    context: TrialContext, studies: Studies, student: dict[str, Any], labels: Mapping[str, npt.NDArray[np.generic]]
) -> list[dict[str, Any]]:
    """Compares a student's confirmations with those of the controls at its depth, as summary.json has it.

    Args:
        context: Holds the predictions.
        studies: Say which confirmations there are.
        student: As summary.json has it.
        labels: Of the official dev splits.
    """
    task = context.search.data.task
    study_key = StudyKey(student["layers"], student["method"])
    ours = _predictions(context, studies, study_key)
    controls = [
        StudyKey(study_key.depth, method) for method in CONTROLS if StudyKey(study_key.depth, method) in studies.plans
    ]
    compared = []
    for control in controls[controls.index(study_key) + 1 :] if study_key in controls else controls:
        theirs = _predictions(context, studies, control)
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


def _predictions(context: TrialContext, studies: Studies, study_key: StudyKey) -> list[Predicted]:
    paths = [
        context.artifacts.fetch(predictions_name(TrialId(study_key, "confirm", trial.number)))
        for trial in studies.trials(study_key, "confirm")
        if "official" in trial.user_attrs
    ]
    return [load_file(path) for path in paths if path.exists()]
