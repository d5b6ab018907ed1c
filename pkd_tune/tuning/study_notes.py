"""What optuna-dashboard shows in words: a note of each study with its best trial so far, and each trial's result.

The notes are kept where optuna-dashboard looks for them; importing its own function for that would take a search three
seconds.
"""

from typing import Any

import optuna
from optuna.trial import FrozenTrial

from pkd_tune.config import Method, Stage
from pkd_tune.tuning.journal import evaluations
from pkd_tune.tuning.plan import StudyKey
from pkd_tune.tuning.space import Settings

RESULT = "result"
"""User attribute of trials: their best evaluation in words."""

_VERSION, _TEXT = "dashboard:note_ver", "dashboard:note_str:0"
"""Attributes of a study that optuna-dashboard takes a note from."""

_TRAINED: dict[Method, str] = {
    "pkd": "by Patient Knowledge Distillation",
    "pkd-skip": "by Patient Knowledge Distillation with the strategy skip",
    "pkd-last": "by Patient Knowledge Distillation with the strategy last",
    "kd": "by vanilla knowledge distillation",
    "finetuned": "by fine-tuning alone, without a teacher",
}


def study_note(
    study_key: StudyKey, stage: Stage, planned: int, best: FrozenTrial | None, settings: Settings | None
) -> str:
    """Returns the note of a study, as Markdown.

    Args:
        study_key: The study.
        stage: Whether its trials search, confirm the winner, or train it without terms of its loss.
        planned: Number of trials of the search, or of seeds that confirm.
        best: The best trial of the search so far; None while none is complete.
        settings: Of the best trial.
    """
    layers = f"{study_key.depth} layer{'s' if study_key.depth > 1 else ''}"
    lines = [f"Students of {layers}, trained {_TRAINED[study_key.method]}.", ""]
    if stage != "search":
        kind, what = {
            "confirm": ("Confirmation", ""),
            "ablation": ("Ablations", " without the patience term, and without distillation"),
        }[stage]
        lines.append(
            f"{kind}: the best settings of `{study_key.name}`{what}, trained again on {planned} fresh seed"
            f"{'s' if planned != 1 else ''}. A trial's value is its best score on the examples that select, × 100."
        )
        return "\n".join(lines)
    lines.append(
        f"Search: {planned} trials are planned. A trial's value is its best score on the examples that select, × 100; "
        "trials in the state *pruned* were stopped early."
    )
    if best is not None:
        chosen = ", ".join(f"{name} {_text(value)}" for name, value in (settings or {}).items())
        lines += ["", f"Best so far: trial {best.number}, {best.user_attrs.get(RESULT, f'score {best.value:.1f}')}."]
        lines.append(f"Its settings: {chosen}.")
    return "\n".join(lines)


def set_note(study: optuna.Study, note: str) -> None:
    """Gives a study a note, unless it has it already."""
    storage = study._storage
    attributes = storage.get_study_system_attrs(study._study_id)
    if attributes.get(_TEXT) != note:
        storage.set_study_system_attr(study._study_id, _TEXT, note)
        storage.set_study_system_attr(study._study_id, _VERSION, attributes.get(_VERSION, 0) + 1)


def result_text(trial: FrozenTrial) -> str:
    """Returns the best evaluation of a trial in words: `score 81.2 at epoch 3.5 (f1 84.0, accuracy 78.4)`."""
    scores = trial.intermediate_values
    best = max(scores, key=lambda step: (scores[step], -step))
    details: dict[str, Any] = evaluations(trial)[best]
    metrics = ", ".join(f"{name} {value:.1f}" for name, value in details["metrics"].items() if name != "score")
    return f"score {scores[best]:.1f} at epoch {details['epoch']:g} ({metrics})"


def _text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
