"""Every kind of workload, run in this process with a tiny model."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from emulated_graphs import EmulatedStream
from transformers import BertForSequenceClassification

from pkd_tune.benchmark import worker
from pkd_tune.benchmark.interleaving import Workload
from pkd_tune.benchmark.worker import Answer, InputClosedError, synthetic_split, synthetic_student_data
from pkd_tune.distillation import train_step
from pkd_tune.distillation.train_step import Graphs
from pkd_tune.encoders.families import FAMILIES


def answers(run: Callable[[Workload, Answer], None], workload: Workload, count: int) -> list[dict[str, Any]]:
    """Returns the first `count` answers of a workload."""
    received = []

    def answer(values: dict[str, Any]) -> None:
        received.append(values)
        if len(received) == count:
            raise InputClosedError

    with pytest.raises(InputClosedError):
        run(workload, answer)
    return received


@pytest.mark.parametrize("kind", ["plain", "finetune", "kd", "pkd"])
def test_training_answers_with_the_seconds_of_each_epoch(workload: Workload, kind: str) -> None:
    run = worker.plain if kind == "plain" else worker.training
    received = answers(run, replace(workload, kind=kind), 1 + workload.repeats)
    assert all(answer["seconds"] > 0 and answer["cpu_seconds"] > 0 for answer in received)


@pytest.mark.parametrize("kind", ["finetune", "kd", "pkd"])
@pytest.mark.parametrize("captured", [True, False])
def test_steps_are_captured_where_the_workload_says_so(
    workload: Workload, kind: str, captured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model without dropout, which waits on a CPU for the seed of its generator; graphs are emulated."""
    stream = EmulatedStream()
    graphs = Graphs(stream.capture)
    monkeypatch.setattr(train_step, "stream_graphs", lambda device, *, captured: graphs if captured else None)
    without = {"hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}
    answers(worker.training, replace(workload, kind=kind, captured=captured, model={**workload.model, **without}), 3)
    assert (stream.replays > 0) == captured
    assert graphs.of == {}  # cleared at the end of a training


@pytest.mark.parametrize(
    ("kind", "terms"),
    [("finetune", {"kd": False, "pt": False}), ("kd", {"kd": True, "pt": False}), ("pkd", {"kd": True, "pt": True})],
)
def test_training_has_the_loss_terms_of_its_method(
    workload: Workload, kind: str, terms: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    clock = worker._epoch_clock

    def watching(device: torch.device, answer: Answer) -> Callable[[Any], None]:
        report = clock(device, answer)

        def both(evaluation: Any) -> None:
            seen.append(evaluation)
            report(evaluation)

        return both

    monkeypatch.setattr(worker, "_epoch_clock", watching)
    answers(worker.training, replace(workload, kind=kind), 2)
    assert [evaluation.epoch for evaluation in seen] == [1, 2]
    assert all((seen[-1].losses[term] > 0) == there for term, there in terms.items())


def test_the_plain_loop_pads_every_batch_to_the_maximum_length(
    workload: Workload, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = []
    forward = BertForSequenceClassification.forward

    def watching(self: Any, **inputs: Any) -> Any:
        shapes.append((tuple(inputs["input_ids"].shape), int(inputs["attention_mask"].sum()), self.training))
        return forward(self, **inputs)

    monkeypatch.setattr(BertForSequenceClassification, "forward", watching)
    answers(worker.plain, replace(workload, kind="plain"), 1)
    assert [shape for shape, _, _ in shapes] == [(4, 32), (4, 32)]
    assert sum(tokens for _, tokens, _ in shapes) == sum(workload.lengths)
    assert all(training for _, _, training in shapes)


def test_matrix_products_are_counted_in_both_precisions(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "PEAK_SECONDS", 0.0)
    monkeypatch.setattr(worker, "PEAK_SIZES", {"cpu": 64})
    (answer,) = answers(worker.peak, replace(workload, kind="peak"), 1)
    assert answer.keys() == {"fp32", "bf16"}
    assert all(1e6 < rate < 1e15 for rate in answer.values())


def test_overheads_are_timed_and_leave_one_file(
    workload: Workload, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    first, second = answers(worker.overheads, replace(workload, kind="overheads"), 2)
    assert first.keys() == second.keys() == {"evaluation", "checkpoint", "reset"}
    assert all(seconds > 0 for seconds in [*first.values(), *second.values()])
    (state,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert state.stat().st_size > 4 * 4 * 60 * 24  # four copies of at least the embeddings


def test_synthetic_examples_have_the_lengths_asked_for(workload: Workload) -> None:
    split = synthetic_split("train", workload, workload.lengths)
    assert split.lengths.tolist() == workload.lengths
    assert (split.input_ids.min(), split.input_ids.max()) >= (1, 0)
    assert split.input_ids.max() < 60
    assert (split.first_lengths < split.lengths).all()
    many = synthetic_split("train", replace(workload, model={"vocab_size": 30522}), [53] * 512)
    counts = np.sort(np.bincount(many.input_ids))[::-1]
    assert counts[0] > 20 * counts[100]  # a few words make up much of a text


def test_the_synthetic_teacher_is_deeper_than_the_student(workload: Workload) -> None:
    student_data = synthetic_student_data(workload)
    assert student_data.teacher_train.cls_NLH.shape == (8, 4, 24)
    assert student_data.start("pretrained", 0).config.num_hidden_layers == 2


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2", "modernbert"])
def test_families_train_with_their_own_loop_and_both_forward_passes(
    workload: Workload, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_family = replace(workload, family=kind, repeats=1)
    for run in (worker.plain, worker.training):
        assert answers(run, of_family, 2)[1]["seconds"] > 0
    monkeypatch.setitem(FAMILIES, kind, replace(FAMILIES[kind], paths=None))
    assert answers(worker.training, of_family, 2)[1]["seconds"] > 0
