"""How long the end of a search takes: exported students are scored and compared, and the report is written."""

import time
from collections.abc import Mapping, Sequence

import numpy as np

from pkd_tune.config import Task
from pkd_tune.data.examples import RawSplit
from pkd_tune.data.loading import load_raw
from pkd_tune.data.significance import RESAMPLES, paired_bootstrap
from pkd_tune.deployment.formats import FORMATS, PYTORCH
from pkd_tune.deployment.measurement import LATENCY_EXAMPLES, throughputs
from pkd_tune.distillation.teacher import Teacher
from pkd_tune.tuning.plan import StudyPlan
from pkd_tune.workflows.request import SearchRequest

FIXED_SECONDS = 15.0
"""What does not depend on models and data: loading them, plots, the page."""
TIMED_RESAMPLES = 20
SINGLE = 4
"""How many times as long an example is taken to need alone as in a batch."""
COMPARISONS = 5
"""With how many others a student is compared: two controls, a shallower one, the teacher, and its ablations."""


def time_report(request: SearchRequest, teacher: Teacher, plans: Sequence[StudyPlan]) -> float:
    """Returns about how many seconds there are from the last trial to the report, from a few batches of the teacher.

    Args:
        request: Of the search.
        teacher: Of its students.
        plans: Of its studies, each of which exports a student.
    """
    data, task = request.config.data, request.config.data.task
    raw = load_raw(task, data.data_dir)
    dev = {name: raw[name] for name in task.dev_splits}
    [rate] = throughputs([(teacher.folder, PYTORCH)], dev[task.dev_splits[0]], data.max_length)
    return report_seconds(
        [plan.study_key.depth / teacher.layers for plan in plans],
        examples=sum(map(len, dev.values())),
        per_example=1 / rate,
        per_comparison=time_comparison(task, dev, max(1, request.config.seeds)),
        onnx=request.options.onnx,
    )


def report_seconds(
    students: Sequence[float], *, examples: int, per_example: float, per_comparison: float, onnx: bool
) -> float:
    """Returns the seconds that scoring, timing and comparing take.

    Args:
        students: The depth of each, as a share of the teacher's.
        examples: Of the dev splits.
        per_example: Seconds that the teacher takes for one, in a batch.
        per_comparison: Seconds that comparing two models takes.
        onnx: Whether a student is measured in all formats, beside the teacher again.
    """
    timed = 2 * LATENCY_EXAMPLES * SINGLE
    passes = (1 + sum(students)) * examples + (1 + sum(set(students))) * timed
    if onnx:
        passes += (1 + len(FORMATS) * max(students)) * (examples + timed)
    return FIXED_SECONDS + passes * per_example + COMPARISONS * len(students) * per_comparison


def time_comparison(task: Task, dev: Mapping[str, RawSplit], seeds: int) -> float:
    """Returns the seconds that comparing two models takes, each trained on so many seeds, from a few resamples."""
    labels = {name: np.asarray(split.labels) for name, split in dev.items()}
    started = time.perf_counter()
    trainings = [labels] * max(2, seeds)
    paired_bootstrap(task, trainings, trainings, labels, resamples=TIMED_RESAMPLES)
    return (time.perf_counter() - started) * RESAMPLES / TIMED_RESAMPLES
