"""The model card says how a student was made and what its scores are worth."""

from pathlib import Path
from typing import Any

import pytest

from pkd_tune.data.glue import TASKS
from pkd_tune.deployment.model_card import write_card

SETTINGS = {
    "alpha": 0.5,
    "beta": 100.0,
    "temperature": 5.0,
    "learning_rate": 5e-5,
    "strategy": "skip",
    "normalize": True,
}
STUDENT: dict[str, Any] = {
    "layers": 3,
    "trial": 7,
    "settings": SETTINGS,
    "imitated_layers": [4, 8],
    "metrics": {"f1": 86.0, "accuracy": 80.0, "score": 83.0},
    "parameters": 45_000_000,
    "latency_ms": 4.0,
}
TEACHER = {**STUDENT, "layers": 12, "name": "bert-base-uncased", "parameters": 110_000_000, "latency_ms": 16.0}


def card(folder: Path, *, select_on: str = "dev", demo: bool = False, **student: Any) -> str:
    write_card(
        STUDENT | student,
        TEACHER,
        TASKS["MRPC"],
        "python -m pkd_tune.search --task MRPC",
        folder,
        seed=42,
        demo=demo,
        select_on=select_on,
    )
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("method", "says", "settings"),
    [
        ("pkd", "from a 12-layer teacher (bert-base-uncased)\nwith Patient Knowledge Distillation", set(SETTINGS)),
        ("pkd-last", "with Patient Knowledge Distillation", set(SETTINGS)),
        ("kd", "with vanilla knowledge distillation", {"alpha", "temperature", "learning_rate"}),
        ("finetuned", "A BERT model for GLUE MRPC, fine-tuned without a teacher.", {"learning_rate"}),
    ],
)
def test_it_says_how_the_student_was_trained(tmp_path: Path, method: str, says: str, settings: set[str]) -> None:
    text = card(tmp_path, method=method)
    assert says in text
    assert {name for name in SETTINGS if f"\n- {name}: " in text} == settings


def test_scores_that_chose_the_student_are_called_optimistic(tmp_path: Path) -> None:
    assert "optimistic" in card(tmp_path)
    assert "optimistic" not in card(tmp_path, select_on="holdout")


def test_confirmed_scores_come_with_their_seeds(tmp_path: Path) -> None:
    text = card(tmp_path, confirmed={"seeds": [43, 44], "mean": 81.25, "sd": 0.62})
    assert "trained again with other seeds (43, 44) score 81.2 ± 0.6 (mean ± sd)." in text
    assert "other seeds" not in card(tmp_path, confirmed=None)


def test_a_demo_does_not_pass_for_glue(tmp_path: Path) -> None:
    text = card(tmp_path, demo=True)
    assert "a made-up demo corpus in the format of MRPC" in text
    assert "nyu-mll/glue" not in text
