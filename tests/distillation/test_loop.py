import math
import os
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_trainings import EveryEpoch
from tiny import write_bert, write_task
from transformers import BertForSequenceClassification

from pkd_tune.config import Task, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.checkpoint import Checkpoint
from pkd_tune.distillation.inference import evaluate, predict
from pkd_tune.distillation.loop import Evaluation, TrainingDivergedError, fit, schedule
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.train_step import TrainStep
from pkd_tune.encoders.modeling import load_classifier

TASK = TASKS["MRPC"]
CONFIG = TrainingConfig(epochs=3, batch_size=16, learning_rate=2e-3, evaluations_per_epoch=2, seed=7)


@pytest.fixture(scope="module")
def splits(tiny_data: Path) -> dict[str, Split]:
    return load_features(TASK, tiny_data, tiny_data / "models/pretrained/tiny", 32)


@pytest.fixture
def model(tiny_data: Path) -> BertForSequenceClassification:
    return load_classifier(tiny_data / "models/pretrained/tiny", TASK.labels, seed=0)


def train(
    model: BertForSequenceClassification,
    splits: dict[str, Split],
    config: TrainingConfig = CONFIG,
    *,
    task: Task = TASK,
    report: Callable[[Evaluation], None] = lambda evaluation: None,
    checkpoint: Checkpoint | None = None,
) -> list[Evaluation]:
    """Fine-tunes the model; returns its evaluations."""
    evaluations: list[Evaluation] = []

    def note(evaluation: Evaluation) -> None:
        evaluations.append(evaluation)
        report(evaluation)

    source, dev = open_source(splits["train"], model), {"dev": splits["dev"]}
    fit(TrainStep(model), Loss(), source, dev, task, config, note, checkpoint=checkpoint)
    return evaluations


def test_it_learns_and_keeps_its_best_weights(model: BertForSequenceClassification, splits: dict[str, Split]) -> None:
    evaluations = train(model, splits, replace(CONFIG, epochs=6))
    best = max(evaluations, key=lambda evaluation: evaluation.metrics["score"])
    assert best.metrics["score"] > 95
    metrics, predicted = evaluate(model, {"dev": splits["dev"]}, TASK)
    assert metrics == best.metrics
    assert predicted["dev"].tolist() == predict(model, splits["dev"]).argmax(-1).tolist()


def test_evaluations_are_evenly_spread(model: BertForSequenceClassification, splits: dict[str, Split]) -> None:
    evaluations = train(model, splits)
    assert [evaluation.epoch for evaluation in evaluations] == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert [evaluation.number for evaluation in evaluations] == [1, 2, 3, 4, 5, 6]
    assert {evaluation.of for evaluation in evaluations} == {6}
    running_best = np.maximum.accumulate([evaluation.metrics["score"] for evaluation in evaluations])
    assert [evaluation.best_score for evaluation in evaluations] == running_best.tolist()


def test_the_learning_rate_follows_the_schedule_over_all_epochs(
    model: BertForSequenceClassification, splits: dict[str, Split]
) -> None:
    steps = 18  # 96 examples, batches of 16, 3 epochs; evaluated every third step
    expected = [CONFIG.learning_rate * schedule(step, steps, 0.1) for step in range(2, steps, 3)]
    assert [evaluation.learning_rate for evaluation in train(model, splits)] == pytest.approx(expected)


def test_every_epoch_sees_every_example_in_a_new_order_with_dropout_on(
    model: BertForSequenceClassification, splits: dict[str, Split]
) -> None:
    seen: list[tuple[int, ...]] = []

    def note_examples(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if torch.is_grad_enabled():  # evaluations have none
            assert model.training
            seen.extend(tuple(row[row != 0].tolist()) for row in inputs[0])

    model.bert.embeddings.word_embeddings.register_forward_pre_hook(note_examples)
    train(model, splits)
    split = splits["train"]
    examples = sorted(tuple(ids.tolist()) for ids in np.split(split.input_ids, split.offsets[1:-1]))
    epochs = [seen[i * len(split) : (i + 1) * len(split)] for i in range(3)]
    assert all(sorted(epoch) == examples for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_seed_repeats_a_training_exactly(tiny_data: Path, splits: dict[str, Split]) -> None:
    def losses(seed: int) -> list[float]:
        fresh = load_classifier(tiny_data / "models/pretrained/tiny", TASK.labels, seed=0)
        return [evaluation.losses["total"] for evaluation in train(fresh, splits, replace(CONFIG, seed=seed))]

    first = losses(1)
    torch.rand(3)  # what ran before must not matter
    assert losses(1) == first
    assert losses(2) != first


def test_a_loss_that_is_not_finite_ends_the_training(
    model: BertForSequenceClassification, splits: dict[str, Split]
) -> None:
    model.classifier.bias.data.fill_(math.nan)
    with pytest.raises(TrainingDivergedError, match="not finite at step 1 of 18"):
        train(model, splits)


def test_one_class_only_is_called_degenerate(model: BertForSequenceClassification, splits: dict[str, Split]) -> None:
    first = train(model, splits, replace(CONFIG, learning_rate=1e-9))[0]
    predictions = predict(model, splits["dev"]).argmax(-1)
    assert first.degenerate == (len(predictions.unique()) == 1)
    model.classifier.bias.data = torch.tensor([0.0, 100.0])
    assert train(model, splits, replace(CONFIG, learning_rate=1e-9))[0].degenerate


def test_a_regression_learns_values_and_one_value_only_is_degenerate(tiny_data: Path, tmp_path: Path) -> None:
    task = TASKS["STS-B"]
    write_task(task, tmp_path)
    tiny = tiny_data / "models/pretrained/tiny"
    splits = load_features(task, tmp_path, tiny, 32)
    model = load_classifier(tiny, task.labels, seed=0)
    config = replace(CONFIG, epochs=8, learning_rate=4e-3, evaluations_per_epoch=1)
    best = train(model, splits, config, task=task)[-1].best_score
    metrics, predicted = evaluate(model, {"dev": splits["dev"]}, task)
    assert metrics["score"] == best > 70
    assert predicted["dev"].shape == (40,)
    model.classifier.weight.data.zero_()
    (degenerate, *_) = train(model, splits, replace(CONFIG, learning_rate=1e-9), task=task)
    assert degenerate.degenerate
    assert degenerate.metrics["score"] == pytest.approx(0, abs=100)


def test_the_schedule_rises_for_a_tenth_then_falls_and_is_never_0() -> None:
    shares = [schedule(step, 20, 0.1) for step in range(20)]
    assert shares[:3] == [0.5, 1.0, 1.0]
    assert shares[-1] == pytest.approx(1 / 18)
    assert all(a > b for a, b in pairwise(shares[2:]))
    assert [schedule(step, 11, 0.1) for step in range(3)] == [0.5, 1.0, 1.0]  # a tenth of 11 steps is two, rounded up
    assert schedule(0, 1, 0.1) == 1.0


class Interrupted(Exception):
    pass


@pytest.mark.parametrize("stop_at", [3, 4])  # in the middle of the second epoch, and at its end
def test_an_interrupted_training_ends_as_if_it_had_not_been(
    tiny_data: Path, splits: dict[str, Split], tmp_path: Path, stop_at: int
) -> None:
    def fresh() -> BertForSequenceClassification:
        return load_classifier(tiny_data / "models/pretrained/tiny", TASK.labels, seed=0)

    def interrupt(evaluation: Evaluation) -> None:
        before.append(evaluation)
        if evaluation.number == stop_at:
            raise Interrupted

    undisturbed, resumed = fresh(), fresh()
    expected = train(undisturbed, splits)
    before: list[Evaluation] = []
    with pytest.raises(Interrupted):
        train(fresh(), splits, report=interrupt, checkpoint=EveryEpoch(tmp_path / "checkpoint"))
    torch.rand(7)
    after = train(resumed, splits, checkpoint=EveryEpoch(tmp_path / "checkpoint"))
    assert before == expected[:stop_at]
    assert after == expected[2:]  # the second epoch, from the end of the first
    weights = undisturbed.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in resumed.state_dict().items())


def test_a_checkpoint_that_is_damaged_or_cannot_be_written_costs_only_time(
    model: BertForSequenceClassification,
    splits: dict[str, Split],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(before: Path, after: Path) -> None:
        raise OSError("disk full")

    path = tmp_path / "checkpoint"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")  # cut off inside its header
    monkeypatch.setattr(os, "replace", refuse)
    assert len(train(model, splits, checkpoint=EveryEpoch(path))) == 6
    assert "no checkpoint was written, so an interruption would repeat more than an epoch: disk full" in caplog.text


def test_running_out_of_memory_halves_the_batch_and_keeps_the_training(
    tiny_data: Path, splits: dict[str, Split], caplog: pytest.LogCaptureFixture
) -> None:
    """Without dropout the two halves add up to the whole batch's gradients."""
    write_bert(tiny_data.parent / "no-dropout", dropout=0.0)

    def trained(most: int) -> list[Evaluation]:
        model = load_classifier(tiny_data.parent / "no-dropout", TASK.labels, seed=0)

        def limit(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
            if model.training and len(inputs[0]) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

        model.bert.embeddings.word_embeddings.register_forward_pre_hook(limit)
        return train(model, splits, replace(CONFIG, batch_size=15))  # halves of 8 and 7

    whole, halves = trained(15), trained(8)
    assert [e.micro_batches for e in halves] == [2] * 6
    for one, other in zip(whole, halves, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-2)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=2e-2)
    assert "split into two micro-batches" in caplog.text
    with pytest.raises(MemoryError, match="lower batch_size"):
        trained(7)
