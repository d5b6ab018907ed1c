"""The finalists of a search, the best trial of each study: exported, measured, compared with their controls."""

import logging
import shutil
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from safetensors.numpy import load_file

from pkd_tune.config import CONTROLS, Precision, Stage, Task, UserError
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.loading import load_raw
from pkd_tune.data.metrics import constant_score, majority_score, rounding_points, score
from pkd_tune.data.significance import Difference, Predicted, paired_bootstrap
from pkd_tune.data.tokens import file_hash
from pkd_tune.deployment.conversion import export_student, write_formats
from pkd_tune.deployment.formats import FORMATS, PYTORCH
from pkd_tune.deployment.measurement import latencies_ms, latency_machine, measure, measured, predict, throughputs
from pkd_tune.deployment.model_card import write_card
from pkd_tune.distillation.layer_map import start_layers, teacher_layers
from pkd_tune.distillation.student import start_folder
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.encoders.folder import layer_count, model_name, read_config
from pkd_tune.encoders.precision import has_bf16
from pkd_tune.files import BEST, DEV_PREDICTIONS, write_text
from pkd_tune.reporting.dev_predictions import TEACHER, TEXT_LENGTH, TEXTS, disagreements
from pkd_tune.reporting.verdict import choose_student, verdict_text
from pkd_tune.tuning.journal import evaluations
from pkd_tune.tuning.plan import StudyKey, TrialId
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext, predictions_name, repeat_trial, weights_name

log = logging.getLogger(__name__)


def export_finalists(
    context: TrialContext,
    studies: Studies,
    run_dir: Path,
    command: str,
    *,
    demo: bool,
    tolerance: float,
    onnx: bool,
) -> dict[str, Any]:
    """Exports the best trial of each depth and method below `best/`, and measures teacher and students alike.

    Args:
        context: Of the search; holds the weights of trials.
        studies: Say which trial is best.
        run_dir: Receives the folders.
        command: What was run, for the model card.
        demo: Whether the data is the synthetic corpus.
        tolerance: By how many points the student to ship may fall short of the teacher.
        onnx: Whether the student to ship is measured as ONNX and int8 too.

    Returns:
        What summary.json holds.
    """
    config, teacher = context.search, context.teacher
    data, task = config.data, config.data.task
    raw = load_raw(task, data.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    of_teacher = predict(teacher.folder, dev, task, data.max_length)
    teacher_record: dict[str, Any] = {
        "name": model_name(data.teacher_dir),
        "layers": teacher.layers,
        "finetuned_here": teacher.finetuned_here,
        "training_scores": teacher.training_scores,
        "majority": majority_score(task, {name: split.labels for name, split in dev.items()}),
        "baseline": task.baseline,
        "constant_score": constant_score(task, {name: split.labels for name, split in dev.items()}),
        **measured(teacher.folder, dev, task, of_teacher),
    }
    sizes = {name: len(split) for name, split in dev.items()}
    if data.select_on == "dev":
        check_teacher(teacher, teacher_record["metrics"]["score"], sizes)
    students: list[dict[str, Any]] = []
    exported: dict[str, Predicted] = {}
    for study_key in sorted(studies.plans, key=lambda study_key: study_key.depth):
        best = studies.best(study_key)
        if best is None:
            continue
        settings = studies.settings(study_key, best)
        target = (
            run_dir
            / BEST
            / (f"{study_key.depth}-layer" + ("" if study_key.method == "pkd" else f"-{study_key.method}"))
        )
        weights = trial_file(context, studies, TrialId(study_key, "search", best.number))
        start = start_folder(data, teacher.folder, settings["init"])
        layers = start_layers(settings["init"], study_key.depth, layer_count(start))
        export_student(weights, layers, start, task, config.student_training.seed, target, data.max_length)
        of_student = predict(target, dev, task, data.max_length)
        exported[target.relative_to(run_dir).as_posix()] = of_student
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
            **measured(target, dev, task, of_student),
        }
        if data.select_on == "dev":
            check_reproduced(student, sizes, exactly=_only_fp32(config.student_training.precision, context.resources))
        students.append(student)
    write_text(run_dir / DEV_PREDICTIONS, predictions_csv(task, dev, of_teacher, exported))
    # Students of a depth are cut from the same model, but ModernBERT's layers are of two kinds.
    shapes = [
        (student["layers"], str(read_config(run_dir / student["folder"]).get("layer_types"))) for student in students
    ]
    architectures = {shape: run_dir / student["folder"] for shape, student in zip(shapes, students, strict=True)}
    folders = [teacher.folder, *architectures.values()]
    timed = latencies_ms([(folder, PYTORCH) for folder in folders], dev[task.dev_splits[0]], data.max_length)
    teacher_record["latency_ms"], *of_students = timed
    latency_of = dict(zip(architectures, of_students, strict=True))
    for shape, student in zip(shapes, students, strict=True):
        student["latency_ms"] = latency_of[shape]
    labels = {name: np.asarray(split.labels) for name, split in dev.items()}
    compare(context, studies, students, of_teacher, labels)
    verdict = choose_student(students, teacher_record, tolerance)
    if onnx and verdict is not None:
        chosen = run_dir / verdict.student["folder"]
        verdict.student["formats"] = measure_formats(teacher.folder, chosen, dev, task, data.max_length)
    for student in students:
        write_card(
            student,
            teacher_record,
            task,
            command,
            run_dir / student["folder"],
            seed=config.student_training.seed,
            demo=demo,
            select_on=data.select_on,
            verdict=verdict_text(verdict, "this student") if verdict and student is verdict.student else "",
            start=data.student_dir,
        )
    planned = sum(studies.quota(study_key) for study_key in studies.plans)
    return {
        "teacher": teacher_record,
        "students": students,
        "planned": planned,
        "latency_on": latency_machine(),
        "tolerance": tolerance,
    }


def predictions_csv(
    task: Task, dev: Mapping[str, RawSplit], of_teacher: Predicted, of_students: Mapping[str, Predicted]
) -> str:
    """Returns the content of dev-predictions.csv, whose columns `reporting.dev_predictions` describes.

    Args:
        task: Of teacher and students.
        dev: The dev splits of the task by name.
        of_teacher: What the teacher predicts.
        of_students: What each exported student predicts, by its folder.
    """

    def as_column(values: Iterable[Any]) -> list[Any]:
        return [round(float(value), 4) if task.regression else task.labels[int(value)] for value in values]

    tables = [
        pd.DataFrame(
            {
                "split": name,
                "example_id": range(len(split)),
                "label": as_column(split.labels or ()),
                TEACHER: as_column(of_teacher[name]),
                **{folder: as_column(predicted[name]) for folder, predicted in of_students.items()},
            }
        )
        for name, split in dev.items()
    ]
    table = pd.concat(tables, ignore_index=True)
    shown = {row for student in of_students for _, rows in disagreements(table, student) for row in rows.index}
    for column, texts in zip(TEXTS, ("sentence1", "sentence2")[: len(task.text)], strict=False):
        everything = [text for split in dev.values() for text in getattr(split, texts)]
        table[column] = [shortened(text) if row in shown else "" for row, text in enumerate(everything)]
    return table.to_csv(index=False)


def shortened(text: str) -> str:
    """Returns a text on one line, cut where it is longer than what a report shows."""
    line = " ".join(text.split())
    return line if len(line) <= TEXT_LENGTH else f"{line[:TEXT_LENGTH]}…"


def measure_formats(
    teacher: Path, student: Path, dev: Mapping[str, RawSplit], task: Task, max_length: int
) -> list[dict[str, Any]]:
    """Measures a student in every format, and the teacher in PyTorch's, side by side.

    Args:
        teacher: Folder of the teacher.
        student: Folder of the student; nothing is written there.
        dev: The dev splits of the task by name.
        task: The task of both.
        max_length: In tokens.

    Returns:
        As in summary.json: for the teacher (`format` is `teacher`) and for each format what `measure` returns, with
        `latency_ms` of a single example and `examples_per_second` in batches of 32.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(student, Path(temporary) / "student"))
        log.info("measuring %s as ONNX and int8", student.name)
        write_formats(folder, [*FORMATS])
        models = {"teacher": (teacher, PYTORCH), **{name: (folder, name) for name in FORMATS}}
        latencies = latencies_ms([*models.values()], dev[task.dev_splits[0]], max_length)
        rates = throughputs([*models.values()], dev[task.dev_splits[0]], max_length)
        return [
            {
                "format": name,
                **measure(of, dev, task, max_length, format_name),
                "latency_ms": latency,
                "examples_per_second": rate,
            }
            for (name, (of, format_name)), latency, rate in zip(models.items(), latencies, rates, strict=True)
        ]


def trial_file(context: TrialContext, studies: Studies, trial_id: TrialId) -> Path:
    """Returns the file that a complete trial left: its weights, or the predictions of a confirmation.

    A file that is gone, or is not what the journal says, is made again by training the trial once more.

    Raises:
        UserError: When it must be trained again on a GPU and there is none here.
    """
    trials = studies.trials(trial_id.study_key, trial_id.stage)
    trial = next(trial for trial in trials if trial.number == trial_id.number)
    name = weights_name(trial_id) if trial_id.stage == "search" else predictions_name(trial_id)
    path = context.artifacts.fetch(name)
    if path.exists() and studies.file_hash(trial_id) in (None, file_hash(path)):
        return path
    state = "damaged" if path.exists() else "gone"
    if context.resources.device == "cuda" and not torch.cuda.is_available():
        raise UserError(f"{path} is {state}; run the same command where a GPU is, which trains {trial_id.name} again")
    log.warning("%s is %s; training %s again, which takes as long as before", path, state, trial_id.name)
    settings = studies.settings(trial_id.study_key, trial)
    repeat_trial(trial_id, settings, trial.user_attrs.get("seed"), context)
    path = context.artifacts.fetch(name)
    studies.trained_again(trial_id, file_hash(path))
    return path


def check_teacher(teacher: Teacher, score: float, sizes: Mapping[str, int]) -> None:
    """Refuses to report on a teacher whose files no longer score what they scored when the search was run.

    Args:
        teacher: As in the search.
        score: Of its folder in plain transformers now.
        sizes: Examples of each dev split.

    Raises:
        UserError: When the scores differ by more than rounding does.
    """
    if abs(score - teacher.metrics["score"]) > rounding_points(sizes.values()):
        raise UserError(
            f"the teacher in {teacher.folder} scores {score:.1f} now, but scored {teacher.metrics['score']:.1f} before "
            "the trials: files of it have changed; restore them and run the same command again"
        )


def check_reproduced(student: dict[str, Any], sizes: Mapping[str, int], *, exactly: bool) -> None:
    """Checks that an exported student scores what its trial did, within three examples of the smallest dev split or one
    point, for another machine's rounding.

    The export is scored in fp32. A trial in bf16 can be further away without a fault: where a student's two classes
    nearly tie, as those of a student at the constant baseline do, rounding turns many of its predictions. Then there is
    a warning only.

    Args:
        student: As in summary.json.
        sizes: Examples of each dev split.
        exactly: Whether the trial was scored in fp32 too.

    Raises:
        RuntimeError: When two scores in fp32 are further apart: what was exported is not what was searched.
    """
    exported, searched = student["metrics"]["score"], student["search_score"]
    if abs(exported - searched) <= rounding_points(sizes.values()):
        return
    if exactly:
        raise RuntimeError(f"{student['folder']} scores {exported:.2f}, but its trial scored {searched:.2f}")
    log.warning("%s scores %.1f in fp32, but %.1f in its trial's bf16", student["folder"], exported, searched)


def _only_fp32(precision: Precision, resources: Resources) -> bool:
    """Returns whether no trial can have been scored in bf16; of GPUs elsewhere nothing is known here."""
    return precision == "fp32" or (resources.device == "cpu" and not has_bf16("cpu"))


def confirmed(studies: Studies, study_key: StudyKey) -> dict[str, Any] | None:
    """Returns how a study's best setting scored on fresh seeds, as in summary.json; None when it was not tried.

    `sd` is the sample standard deviation, None for a single training.
    """
    return _scores_of(_ended(studies.trials(study_key, "confirm")))


def _ended(trials: Sequence[Any]) -> list[Any]:
    """Returns the training runs on fresh seeds that were completed."""
    return [trial for trial in trials if "official" in trial.user_attrs]


def _scores_of(trials: Sequence[Any]) -> dict[str, Any] | None:
    """Returns the scores of training runs on fresh seeds as summary.json has them; None without any."""
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


def compare(
    context: TrialContext,
    studies: Studies,
    students: Sequence[dict[str, Any]],
    of_teacher: Predicted,
    labels: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Compares the confirmations of students with each other and with the teacher, and records it in them.

    Args:
        context: Holds the predictions of confirmations.
        studies: Say which confirmations there are.
        students: As summary.json has them. Each gets `against`: the controls of its depth; `ablations`: its own
            settings without terms of the loss; `against_shallower`: the next shallower student of its method, None
            where there is none; and `against_teacher`.
        of_teacher: Predictions of the teacher.
        labels: Of the official dev splits.
    """
    task = context.search.data.task
    predicted = {
        study_key: _predictions(context, studies, study_key)
        for study_key in (StudyKey(student["layers"], student["method"]) for student in students)
    }
    for student in students:
        study_key = StudyKey(student["layers"], student["method"])
        student["against"] = against_controls(task, predicted, study_key, labels)
        student["against_shallower"] = against_shallower(task, predicted, study_key, labels)
    compare_ablations(context, studies, students, labels)
    for study_key, found in against_teacher(task, predicted, of_teacher, labels).items():
        for student in students:
            if study_key == StudyKey(student["layers"], student["method"]):
                student["against_teacher"] = found


def compare_ablations(
    context: TrialContext,
    studies: Studies,
    students: Sequence[dict[str, Any]],
    labels: Mapping[str, npt.NDArray[np.generic]],
) -> None:
    """Compares the confirmations of students with ablations, which have their settings without terms of the loss.

    Both are trained on the same seeds and differ in the loss alone, so that they are compared seed by seed; the
    variance of these differences is pooled over all ablations of the search.

    Args:
        context: Holds the predictions of confirmations and ablations.
        studies: Say which there are.
        students: As summary.json has them. Each gets `ablations`: the method that each is, its settings, its scores as
            `confirmed` has them, and the difference of the student to it; none where no pair has two seeds.
        labels: Of the official dev splits.
    """
    task = context.search.data.task

    def predictions(study_key: StudyKey, stage: Stage, trials: Sequence[Any]) -> list[Predicted]:
        return [load_file(trial_file(context, studies, TrialId(study_key, stage, t.number))) for t in trials]

    pairs = []
    for student in students:
        study_key = StudyKey(student["layers"], student["method"])
        student["ablations"] = []
        ours = {trial.user_attrs["seed"]: trial for trial in _ended(studies.trials(study_key, "confirm"))}
        for ablation in studies.ablations(study_key):
            theirs = {trial.user_attrs["seed"]: trial for trial in _ended(studies.ablation_trials(ablation))}
            if seeds := [seed for seed in ours if seed in theirs]:
                record = {"method": ablation.method, "settings": ablation.settings}
                student["ablations"].append(record | (_scores_of([theirs[seed] for seed in seeds]) or {}))
                with_term = predictions(study_key, "confirm", [ours[seed] for seed in seeds])
                without = predictions(ablation.study_key, ablation.stage, [theirs[seed] for seed in seeds])
                pairs.append((student["ablations"][-1], with_term, without))

    def scores(trainings: Sequence[Predicted]) -> npt.NDArray[np.float64]:
        return np.array([score(task, each, labels)["score"] for each in trainings])

    pool = [scores(with_term) - scores(without) for _, with_term, without in pairs]
    if all(len(differences) < 2 for differences in pool):
        for student in students:
            student["ablations"] = []
        return
    for record, with_term, without in pairs:
        record |= _recorded(paired_bootstrap(task, with_term, without, labels, pool=pool, by_seed=True))


def against_controls(
    task: Task,
    predicted: Mapping[StudyKey, Sequence[Predicted]],
    study_key: StudyKey,
    labels: Mapping[str, npt.NDArray[np.generic]],
) -> list[dict[str, Any]]:
    """Compares a student's confirmations with those of the controls at its depth, as in summary.json; not at all where
    no student was trained on two fresh seeds.

    Args:
        task: Of the search.
        predicted: Predictions of the confirmations of every student.
        study_key: The student.
        labels: Of the official dev splits.
    """
    if not _is_variance_known(predicted):
        return []
    controls = CONTROLS[CONTROLS.index(study_key.method) + 1 :] if study_key.method in CONTROLS else CONTROLS
    return [
        {"method": method, **_recorded(_compared(task, predicted, ours, theirs, labels))}
        for method in controls
        if (ours := predicted[study_key]) and (theirs := predicted.get(StudyKey(study_key.depth, method)))
    ]


def against_shallower(
    task: Task,
    predicted: Mapping[StudyKey, Sequence[Predicted]],
    study_key: StudyKey,
    labels: Mapping[str, npt.NDArray[np.generic]],
) -> dict[str, Any] | None:
    """Compares a student's confirmations with those of the next shallower student of its method.

    Takes what `against_controls` takes; None where one of the two has no confirmations, or no student has two.
    """
    depths = [key.depth for key in predicted if key.method == study_key.method and key.depth < study_key.depth]
    if not depths or not predicted[study_key] or not _is_variance_known(predicted):
        return None
    theirs = predicted[StudyKey(max(depths), study_key.method)]
    if not theirs:
        return None
    return {"layers": max(depths), **_recorded(_compared(task, predicted, predicted[study_key], theirs, labels))}


def against_teacher(
    task: Task,
    predicted: Mapping[StudyKey, Sequence[Predicted]],
    of_teacher: Predicted,
    labels: Mapping[str, npt.NDArray[np.generic]],
) -> dict[StudyKey, dict[str, Any] | None]:
    """Compares each student's confirmations with the teacher, as in summary.json.

    The intervals of all students hold together with 95 % confidence: that of each of n students has the confidence
    level 1 - 0.05 / n (Bonferroni). None for a student without two confirmations: the variance over seeds is unknown.

    Args:
        task: Of the search.
        predicted: Predictions of the confirmations of every student.
        of_teacher: Predictions of the teacher.
        labels: Of the official dev splits.
    """
    found: dict[StudyKey, dict[str, Any] | None] = dict.fromkeys(predicted)
    compared = {study_key: ours for study_key, ours in predicted.items() if len(ours) > 1}
    for study_key, ours in compared.items():
        level = 1 - 0.05 / len(compared)
        difference = _compared(task, predicted, ours, [of_teacher], labels, level=level, given=True)
        found[study_key] = {**_recorded(difference), "students": len(compared)}
    return found


def _compared(
    task: Task,
    predicted: Mapping[StudyKey, Sequence[Predicted]],
    ours: Sequence[Predicted],
    theirs: Sequence[Predicted],
    labels: Mapping[str, npt.NDArray[np.generic]],
    level: float = 0.95,
    *,
    given: bool = False,
) -> Difference:
    """Compares two models; the variance over seeds is pooled over all students of the search."""
    pool = [np.array([score(task, each, labels)["score"] for each in trainings]) for trainings in predicted.values()]
    return paired_bootstrap(task, ours, theirs, labels, level=level, pool=pool, given=given)


def _is_variance_known(predicted: Mapping[StudyKey, Sequence[Predicted]]) -> bool:
    """Returns whether a student was trained on two fresh seeds, which the variance over seeds takes."""
    return any(len(trainings) > 1 for trainings in predicted.values())


def _recorded(difference: Difference) -> dict[str, Any]:
    """Returns a difference as in summary.json."""
    return {
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "distinguishable": difference.distinguishable,
    }


def _predictions(context: TrialContext, studies: Studies, study_key: StudyKey) -> list[Predicted]:
    return [
        load_file(trial_file(context, studies, TrialId(study_key, "confirm", trial.number)))
        for trial in _ended(studies.trials(study_key, "confirm"))
    ]
