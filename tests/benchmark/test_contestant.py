"""What each contestant does in its turn, in this process, with a tiny model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from pkd_tune.benchmark import contestant
from pkd_tune.benchmark.contestant import BenchOverError, Turn, made_up_split, made_up_student_data
from pkd_tune.benchmark.race import Work


def answers(play: Callable[[Work, Turn], None], work: Work, turns: int) -> list[dict[str, Any]]:
    """Returns what a contestant answers before it is told that the bench is over."""
    found = []

    def turn(answer: dict[str, Any]) -> None:
        found.append(answer)
        if len(found) == turns:
            raise BenchOverError

    with pytest.raises(BenchOverError):
        play(work, turn)
    return found


@pytest.mark.parametrize("kind", ["plain", "finetune", "kd", "pkd"])
def test_training_answers_with_the_seconds_of_each_epoch(work: Work, kind: str) -> None:
    play = getattr(contestant, kind, contestant.distillation)
    found = answers(play, replace(work, kind=kind), 1 + work.turns)
    assert all(answer["seconds"] > 0 and answer["cpu_seconds"] > 0 for answer in found)


@pytest.mark.parametrize(
    ("kind", "terms"),
    [("finetune", {"kd": False, "pt": False}), ("kd", {"kd": True, "pt": False}), ("pkd", {"kd": True, "pt": True})],
)
def test_our_own_loop_trains_on_every_example_with_the_methods_terms(
    work: Work, kind: str, terms: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    clock = contestant._epoch_clock

    def watching(device: torch.device, turn: Turn) -> Callable[[Any], None]:
        report = clock(device, turn)

        def both(evaluation: Any) -> None:
            seen.append(evaluation)
            report(evaluation)

        return both

    monkeypatch.setattr(contestant, "_epoch_clock", watching)
    answers(getattr(contestant, kind, contestant.distillation), replace(work, kind=kind), 2)
    assert [evaluation.epoch for evaluation in seen] == [1, 2]
    assert all((seen[-1].losses[term] > 0) == there for term, there in terms.items())


def test_the_plain_loop_pads_every_batch_to_the_longest_possible(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    forward = contestant.BertForSequenceClassification.forward

    def watching(self: Any, **inputs: Any) -> Any:
        shapes.append((tuple(inputs["input_ids"].shape), int(inputs["attention_mask"].sum()), self.training))
        return forward(self, **inputs)

    monkeypatch.setattr(contestant.BertForSequenceClassification, "forward", watching)
    answers(contestant.plain, replace(work, kind="plain"), 1)
    assert [shape for shape, _, _ in shapes] == [(4, 32), (4, 32)]
    assert sum(tokens for _, tokens, _ in shapes) == sum(work.lengths)
    assert all(training for _, _, training in shapes)


def test_matrix_products_are_counted_in_both_precisions(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contestant, "PEAK_SECONDS", 0.0)
    monkeypatch.setattr(contestant, "PEAK_SIZES", {"cpu": 64})
    (answer,) = answers(contestant.peak, replace(work, kind="peak"), 1)
    assert answer.keys() == {"fp32", "bf16"}
    assert all(1e6 < rate < 1e15 for rate in answer.values())


def test_the_rest_of_a_trial_is_timed_and_leaves_one_file(
    work: Work, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = answers(contestant.costs, replace(work, kind="costs"), 2)
    assert first.keys() == second.keys() == {"evaluation", "checkpoint", "reset"}
    assert all(seconds > 0 for seconds in [*first.values(), *second.values()])
    (state,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert state.stat().st_size > 4 * 4 * 60 * 24  # four copies of at least the embeddings


def test_made_up_examples_have_the_lengths_asked_for(work: Work) -> None:
    split = made_up_split("train", work, work.lengths)
    assert split.lengths.tolist() == work.lengths
    assert (split.input_ids.min(), split.input_ids.max()) >= (1, 0)
    assert split.input_ids.max() < 60
    assert (split.first_lengths < split.lengths).all()
    many = made_up_split("train", replace(work, model={"vocab_size": 30522}), [53] * 512)
    counts = np.sort(np.bincount(many.input_ids))[::-1]
    assert counts[0] > 20 * counts[100]  # a few words make up much of a text


def test_the_made_up_teacher_is_deeper_than_the_student(work: Work) -> None:
    student_data = made_up_student_data(work)
    assert student_data.teacher_train.cls_NLH.shape == (8, 4, 24)
    assert student_data.start.config.num_hidden_layers == 2
