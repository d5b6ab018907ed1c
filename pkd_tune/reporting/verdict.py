"""The verdict of a search: which student to ship, and how sure it is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pkd_tune.reporting.document import code
from pkd_tune.reporting.formatting import number_text, plural, share_text, signed, spread_text
from pkd_tune.reporting.methods import METHOD_INFO

DEFAULT_TOLERANCE = 1.0
"""By how many points a student may fall short of the teacher, unless a search was given another number."""

FORMAT_TITLES = {"onnx": "ONNX", "int8": "ONNX int8"}
"""Formats whose speed the verdict states beside PyTorch's."""


CORRELATIONS = {"matthews", "pearson", "spearman"}
"""Metrics whose score is 0 for predictions that are independent of the labels."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The student to ship, or the one that comes nearest where none is good enough."""

    student: dict[str, Any]
    """Of summary.json."""
    teacher: dict[str, Any]
    """Of summary.json."""
    tolerance: float
    """By how many points a student may fall short of the teacher."""
    within: bool
    """Whether the student's confidence interval shows that it does not fall short by more."""


def choose_student(students: Sequence[dict[str, Any]], teacher: dict[str, Any], tolerance: float) -> Verdict | None:
    """Returns the smallest student that is shown to be within so many points of the teacher.

    That is a test of non-inferiority: the lower end of the confidence interval of the difference between the student's
    training runs on fresh seeds and the teacher is not below -tolerance. The intervals of all students hold together
    with 95 % confidence (see `workflows.finalists.against_teacher`), so that choosing among them does not make a false
    claim more likely. A student that is no better than a constant prediction does not qualify. Of equally small
    students the one with the best score is returned. Where no student qualifies, the one with the best score comes
    nearest.

    Args:
        students: Of summary.json.
        teacher: Of summary.json.
        tolerance: In points, scores times 100.

    Returns:
        None where there is no student.
    """
    if not students:
        return None
    learnt = [each for each in students if not is_at_baseline(each, teacher)]
    good = [each for each in learnt if (found := each.get("against_teacher")) and found["low"] >= -tolerance]
    if good:
        smallest = min(good, key=lambda student: (student["parameters"], -score_of(student)))
        return Verdict(smallest, teacher, tolerance, within=True)
    confirmed = [student for student in students if student["confirmed"]]
    return Verdict(max(confirmed or students, key=score_of), teacher, tolerance, within=False)


def score_of(student: dict[str, Any]) -> float:
    """Returns the mean score of a student on fresh seeds; without these, that of the exported student."""
    return float((student["confirmed"] or {"mean": student["metrics"]["score"]})["mean"])


def verdict_text(verdict: Verdict, name: str = "", *, of: str = "") -> str:
    """Returns the verdict as a text of a report.

    Args:
        verdict: From `choose_student`.
        name: What the student is called; its folder when empty.
        of: The title of the method whose students alone were compared; empty where all were.
    """
    student, teacher = verdict.student, verdict.teacher
    called = name or code(student["folder"])
    limit = f"{number_text(verdict.tolerance)} {'point' if verdict.tolerance == 1 else 'points'}"
    if verdict.within:
        better = student["against_teacher"]["low"] > 0
        compared = "better than the teacher" if better else f"within {limit} of the teacher"
        return f"**Ship** {called}: {_facts(student, teacher)}. It is {compared}: {_interval(student)}."
    nearest = f"{called} comes nearest: {_facts(student, teacher)}; {_interval(student)}."
    if is_at_baseline(student, teacher):
        nearest += f" It is no better than always predicting the {teacher['baseline']}."
    said = f"No student is shown to be within {limit} of the teacher."
    if of:
        said = said.replace("No student", f"No {of} student")
    return f"**{said}** {nearest[0].upper()}{nearest[1:]}"


def distillation_text(student: dict[str, Any], students: Sequence[dict[str, Any]], *, unlabeled: bool = False) -> str:
    """Returns how a distilled student compares with fine-tuning alone: tuned against tuned, and its own settings.

    Args:
        student: Of summary.json.
        students: Of summary.json, with the fine-tuned student of its depth.
        unlabeled: Whether distillation used texts without labels too.

    Returns:
        A text of a report; empty where there is neither comparison.
    """
    found = []
    for against in student["against"]:
        if against["method"] == "finetuned":
            (control,) = [s for s in students if (s["layers"], s["method"]) == (student["layers"], "finetuned")]
            fewer = tuning_text(student, control)
            found.append(f"tuned against tuned {_gain(against)}" + (f" ({fewer})" if fewer else ""))
    for against in student.get("ablations", ()):
        if against["method"] == "finetuned":
            found.append(f"as an ablation, with the same hyperparameters, {_gain(against)}")
    texts = ", and so without the texts that have no labels" if unlabeled else ""
    return (
        f"Compared with a student that is fine-tuned without distillation{texts}: {'; '.join(found)}." if found else ""
    )


def tuning_text(student: dict[str, Any], other: dict[str, Any], *, depths: bool = False) -> str:
    """Returns which of two students had fewer trials to be tuned with; empty where both had as many.

    Args:
        student: Of summary.json.
        other: Of summary.json.
        depths: Whether the two differ in their depth rather than in their method.
    """
    fewer, more = sorted((student, other), key=lambda each: int(each["trials_ended"]))
    if fewer["trials_ended"] == more["trials_ended"]:
        return ""
    name = plural(fewer["layers"], "layer") if depths else METHOD_INFO[fewer["method"]].title
    return f"{name} had fewer trials: best of {fewer['trials_ended']} against best of {more['trials_ended']}"


def _gain(against: dict[str, Any]) -> str:
    interval = f"95 % CI {signed(against['low'])} to {signed(against['high'])}"
    points = f"{signed(against['difference'])} points, {interval}"
    return points + ("" if against["distinguishable"] else ", not significant")


def _facts(student: dict[str, Any], teacher: dict[str, Any]) -> str:
    """Returns score, size and speed of a student, all compared with the teacher's."""
    score, whole = score_of(student), teacher["metrics"]["score"]
    if confirmed := student["confirmed"]:
        scored = (
            f"{spread_text(confirmed['mean'], confirmed['sd'])} on {plural(len(confirmed['scores']), 'fresh seed')}"
        )
    else:
        scored = f"{score:.1f} on dev, not confirmed on fresh seeds"
    latencies = {measured["format"]: measured["latency_ms"] for measured in student.get("formats", ())}
    speeds = [
        f"{latencies['teacher'] / latencies[name]:.1f}× as {title}"
        for name, title in FORMAT_TITLES.items()
        if name in latencies
    ]
    shares = score >= 0 and whole > 0
    of_teacher = f"{share_text(score / whole)} of the teacher's" if shares else "the teacher's is"
    return (
        f"{scored}, {of_teacher} {whole:.1f}, "
        f"{student['parameters'] / teacher['parameters']:.0%} of its size, "
        f"{teacher['latency_ms'] / student['latency_ms']:.1f}× as fast" + (f" ({', '.join(speeds)})" if speeds else "")
    )


def _interval(student: dict[str, Any]) -> str:
    """Returns the difference between student and teacher with its confidence interval."""
    against = student.get("against_teacher")
    if not against:
        return "without at least two fresh seeds there is no confidence interval of its difference to the teacher"
    together = f" for {against['students']} students together" if against["students"] > 1 else ""
    return (
        f"the difference is {signed(against['difference'])}, with a 95 % confidence interval{together} from "
        f"{signed(against['low'])} to {signed(against['high'])}"
    )


def is_at_baseline(student: dict[str, Any], teacher: dict[str, Any]) -> bool:
    """Returns whether a student's dev score is indistinguishable from that of a constant prediction.

    The score is compared with the baseline (the most frequent class, or the mean label) plus a margin. The margin is
    0.05 points, which is rounding: a model that predicts one class scores the baseline exactly. A correlation also
    differs from 0 by chance: under independence the standard error of a correlation over N examples is about 1 / √N, so
    where the first metric is a correlation the margin is 100 / √N points. Where always predicting the rarer class
    scores more, as it may by F1, that counts (`constant_score`).

    Args:
        student: Student of summary.json.
        teacher: Teacher of summary.json; has the baseline, and the number of dev examples N.
    """
    metrics = student["metrics"]
    correlation = next(iter(metrics)) in CORRELATIONS
    margin = 100 / math.sqrt(teacher["examples"]) if correlation else 0.05
    baseline = max(teacher["majority"]["score"], teacher.get("constant_score", -math.inf))
    return bool(metrics["score"] <= baseline + margin)
