"""The ways of making a student: what they are called, how they are drawn, which settings mean something to them.

The colours are Paul Tol's vibrant scheme, which colour-blind readers can tell apart on white and on black; dashes and
markers tell the same apart in print.
"""

from dataclasses import dataclass
from typing import Any

from pkd_tune.config import METHODS
from pkd_tune.reporting.formatting import plural


@dataclass(frozen=True, slots=True)
class Look:
    """How something is drawn."""

    colour: str | None = None
    """None is the colour of text: dark on a light page, light on a dark one."""
    dash: str = "solid"
    """As Plotly calls it: solid, dash, dot, dashdot."""
    symbol: str = "circle"
    """As Plotly calls it: circle, square, diamond, ..."""


@dataclass(frozen=True, slots=True)
class Method:
    """One way of making a student."""

    title: str
    look: Look
    unused: frozenset[str] = frozenset()
    """Settings that have no effect with it, whatever their value."""


_OF_PATIENCE = frozenset({"beta", "strategy", "normalize"})

METHOD_INFO = {
    "finetuned": Method("fine-tuned", Look("#888888", "dot", "diamond"), _OF_PATIENCE | {"alpha", "temperature"}),
    "kd": Method("KD", Look("#EE7733", "dash", "square"), _OF_PATIENCE),
    "pkd": Method("PKD", Look("#0077BB", "solid", "circle")),
    "pkd-skip": Method("PKD-skip", Look("#33BBEE", "solid", "triangle-up")),
    "pkd-last": Method("PKD-last", Look("#009988", "dashdot", "triangle-down")),
}
"""Every method by the name records use, in the order of reports: controls first."""

WORDS = {
    "finetuned": "fine-tuned: the same layers without a teacher (alpha and beta 0)",
    "kd": "KD: vanilla knowledge distillation from the teacher's soft labels (beta 0)",
    "pkd": "PKD: soft labels and the [CLS] states of inner layers; which layers is searched too",
    "pkd-skip": "PKD-skip: PKD from layers spread over the whole teacher",
    "pkd-last": "PKD-last: PKD from the layers right under the teacher's top",
}
"""What a method is, in one line."""


def student_title(student: dict[str, Any]) -> str:
    """Returns what a student is called: `PKD, 3 layers`."""
    return f"{METHOD_INFO[student['method']].title}, {plural(student['layers'], 'layer')}"


def in_order(methods: list[str]) -> list[str]:
    """Returns the methods in the order of reports."""
    return sorted(methods, key=METHODS.index)


def unused_settings(method: str, layers: int) -> frozenset[str]:
    """Returns the settings without effect: the method's, and those of patience where there is no inner layer."""
    return METHOD_INFO[method].unused | (_OF_PATIENCE if layers == 1 else frozenset())
