"""The training methods of students: titles, descriptions, plot styles, and the hyperparameters that affect each.

The colours are Paul Tol's vibrant scheme, which remains distinguishable with colour vision deficiency on white and on
black; dashes and markers distinguish the methods in print.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pkd_tune.reporting.formatting import plural


@dataclass(frozen=True, slots=True)
class SeriesStyle:
    """The style of a series in a plot."""

    colour: str | None = None
    """None is the text colour: dark on a light page, light on a dark one."""
    dash: str = "solid"
    """A Plotly name: solid, dash, dot, dashdot."""
    symbol: str = "circle"
    """A Plotly name: circle, square, diamond, ..."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MethodInfo:
    """What reports say of a method and how they draw it."""

    title: str
    description: str
    look: SeriesStyle
    unused: frozenset[str] = frozenset()
    """Hyperparameters that have no effect with this method."""


_PATIENCE = frozenset({"beta", "strategy", "normalize"})

METHOD_INFO: dict[str, MethodInfo] = {
    "finetuned": MethodInfo(
        title="fine-tuned",
        description="the same layers fine-tuned without a teacher (alpha and beta 0)",
        look=SeriesStyle("#888888", "dot", "diamond"),
        unused=_PATIENCE | {"alpha", "temperature"},
    ),
    "kd": MethodInfo(
        title="KD",
        description="vanilla knowledge distillation from the teacher's soft labels (beta 0)",
        look=SeriesStyle("#EE7733", "dash", "square"),
        unused=_PATIENCE,
    ),
    "pkd": MethodInfo(
        title="PKD",
        description="Patient Knowledge Distillation from soft labels and the [CLS] states of intermediate layers; the "
        "layer map (skip or last) is a hyperparameter",
        look=SeriesStyle("#0077BB", "solid", "circle"),
    ),
    "pkd-skip": MethodInfo(
        title="PKD-skip",
        description="PKD from teacher layers spread evenly over its depth",
        look=SeriesStyle("#33BBEE", "solid", "triangle-up"),
    ),
    "pkd-last": MethodInfo(
        title="PKD-last",
        description="PKD from the last teacher layers below its top layer",
        look=SeriesStyle("#009988", "dashdot", "triangle-down"),
    ),
}
"""Every method by its name in records."""


ABLATION_TITLES = {
    "kd": "the same settings without the patience term (β = 0)",
    "finetuned": "the same settings without distillation (α = β = 0)",
}
"""What an ablation is, by the method that a student's settings become."""


def student_title(student: dict[str, Any]) -> str:
    """Returns the title of a student of summary.json: `PKD, 3 layers`."""
    return f"{METHOD_INFO[student['method']].title}, {plural(student['layers'], 'layer')}"


def is_regression(metrics: Collection[str]) -> bool:
    """Returns whether these are the metrics of a regression task, whose labels are numbers."""
    return "pearson" in metrics or "spearman" in metrics


def unused_settings(
    method: str, layers: int, *, regression: bool, settings: Mapping[str, Any] = MappingProxyType({})
) -> frozenset[str]:
    """Returns the hyperparameters without effect on a training.

    These are the ones the method does not use; those of the intermediate-layer (PT) loss for a student of one layer,
    which has no intermediate layer; the temperature in a regression, where the KD term is a squared error; and
    those of a term whose weight is 0.

    Args:
        method: Its name in records.
        layers: Depth of the student.
        regression: Whether labels are numbers.
        settings: Of one training, or those that all training runs have in common.
    """
    unused = METHOD_INFO[method].unused
    if layers == 1 or settings.get("beta") == 0:
        unused |= _PATIENCE
    return unused | {"temperature"} if regression or settings.get("alpha") == 0 else unused
