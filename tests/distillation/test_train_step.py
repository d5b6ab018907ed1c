"""Captured steps against eager ones.

On a CPU captured steps are emulated CUDA graphs.
"""

import gc
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulated_graphs import EmulatedStream, emulated_graphs
from made_up_trainings import (
    CPU,
    PKD,
    SHAPE,
    SMALL,
    TRAINING,
    EveryEpoch,
    assert_same,
    capturing_pool,
    made_up_source,
    made_up_split,
    made_up_student_data,
    train,
)

from pkd_tune.data.batches import Batch, in_parts
from pkd_tune.distillation import train_step as train_step_module
from pkd_tune.distillation.batch_source import Inputs, make_resident, open_source
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.student import ModelPool, distill
from pkd_tune.distillation.train_step import Graphs, TrainStep, side_stream, stream_graphs


def test_a_batch_of_many_tokens_goes_through_in_parts_on_a_cpu_and_counts_as_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, weights = train(made_up_student_data(), PKD, TRAINING)
    sizes: list[int] = []

    def seen(batch: Batch, parts: int) -> list[Batch]:
        cut = in_parts(batch, parts)
        sizes.extend(len(part.labels_B) for part in cut)
        return cut

    monkeypatch.setattr(train_step_module, "CPU_TOKENS", 50)  # of four examples with up to 29 tokens each
    monkeypatch.setattr(train_step_module, "in_parts", seen)
    cut, same_weights = train(made_up_student_data(), PKD, TRAINING)
    assert set(sizes) >= {1, 2}
    for one, other in zip(whole, cut, strict=True):
        assert other.losses == pytest.approx(one.losses, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-4)
        assert other.micro_batches == 1  # nothing ran out of memory
    for name, weight in weights.items():
        torch.testing.assert_close(same_weights[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from-the-host"])
@pytest.mark.parametrize(
    "change",
    [{}, {"strategy": "last", "normalize": False}, {"beta": 0.0}, {"alpha": 0.0, "beta": 0.0}],
    ids=["skip", "last", "kd", "finetuned"],
)
def test_steps_in_place_are_the_eager_ones(change: dict[str, Any], resident: bool) -> None:
    """Losses of every half epoch over several lengths, and every weight after them; padding to 8 is among it."""
    student_data, config = made_up_student_data(), replace(PKD, **change)
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=resident)
    assert_same(train(student_data, config, TRAINING), train(student_data, config, TRAINING, model_pool))
    (train_step,) = model_pool.train_steps.values()
    lengths = {inputs["input_ids_BT"].shape[1] for inputs in train_step.graph_inputs() if not resident}
    assert len(train_step.graph_inputs()) >= 3
    assert all(length % 8 == 0 for length in lengths)


@pytest.mark.parametrize("kept", [False, True])
def test_training_of_the_used_tokens_is_that_of_all(kept: bool) -> None:
    """Weight decay of the others included, up to the best evaluation, also in a train step that trained before."""
    student_data = made_up_student_data()
    assert student_data.tokens is not None
    assert len(student_data.tokens) < SHAPE["vocab_size"] - 5
    training = replace(TRAINING, learning_rate=5e-3, weight_decay=0.3)
    expected = train(replace(student_data, tokens=None), PKD, training)
    assert expected[0][-1].metrics["score"] < expected[0][-1].best_score  # weights of an earlier evaluation are kept
    model_pool = ModelPool()
    if kept:
        train(student_data, replace(PKD, alpha=0.2), replace(training, seed=4), model_pool)
    found = train(student_data, PKD, training, model_pool)
    assert_same(found, expected)
    rest = np.setdiff1d(np.arange(SHAPE["vocab_size"]), student_data.tokens)
    words = "bert.embeddings.word_embeddings.weight"
    start = student_data.start("pretrained", 0).state_dict()[words]
    decay = found[1][words][rest[1:]] / start[rest[1:]]  # the first is padding
    assert 0.9 < float(decay.min()) <= float(decay.max()) < 0.999
    (train_step,) = model_pool.train_steps.values()
    moments = train_step.optimizer.state.values()
    assert max(len(each["exp_avg"]) for each in moments if each["exp_avg"].ndim > 1) <= SHAPE["vocab_size"] - 5
    rows, tokens = SHAPE["vocab_size"], len(student_data.tokens) + 1  # padding is among them
    trained = sum(tensor.numel() for tensor in found[1].values()) - 16 * (rows - tokens)
    assert train_step.kept_bytes() == 12 * trained + 4 * 16 * rows + 8 * (rows + tokens)


def test_a_model_is_whole_after_a_training_that_was_stopped() -> None:
    student_data, model_pool = made_up_student_data(), ModelPool()

    def stop(evaluation: Evaluation) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distill(student_data, PKD, TRAINING, stop, model_pool=model_pool)
    assert_same(train(student_data, PKD, TRAINING, model_pool), train(student_data, PKD, TRAINING))


@pytest.mark.parametrize("teacher_width", [16, 24])
def test_a_kept_train_step_trains_as_a_new_one_does(teacher_width: int) -> None:
    """With other weights of the loss, another learning rate and seed, another structure of the loss."""
    student_data = made_up_student_data(teacher_width=teacher_width)
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=True)
    train_step = model_pool.train_steps[2, teacher_width != 16, ()]
    other = replace(TRAINING, learning_rate=5e-3, seed=1, weight_decay=0.3, max_grad_norm=0.5)
    others = [
        (replace(PKD, alpha=0.9, beta=3.0, temperature=2.0), TRAINING),
        (replace(PKD, strategy="last"), TRAINING),
        (PKD, other),
        (PKD, replace(TRAINING, max_grad_norm=0.5)),
        (PKD, TRAINING),
    ]
    for config, training in [*others, *others[:2]]:
        assert_same(train(student_data, config, training), train(student_data, config, training, model_pool))
    assert model_pool.train_steps == {(2, teacher_width != 16, ()): train_step}


def test_a_kept_train_step_trains_on_other_examples_of_the_same_lengths() -> None:
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=True)
    train(student_data, PKD, TRAINING, model_pool)
    labels = student_data.train.labels
    assert labels is not None
    other = replace(student_data, train=replace(student_data.train, key="other labels", labels=1 - labels))
    model_pool.sources["other labels"] = made_up_source(other, resident=True)
    assert_same(train(other, PKD, TRAINING), train(other, PKD, TRAINING, model_pool))


def test_a_kept_model_pool_gives_bit_identical_results() -> None:
    """With eager steps and dropout on a CPU, where one depth at a time is kept."""
    student_data, model_pool = made_up_student_data(dropout=0.1), ModelPool()
    fresh = {depth: train(student_data, replace(PKD, student_layers=depth), TRAINING) for depth in (2, 3)}
    for depth in (2, 3, 3, 2):
        seen, weights = train(student_data, replace(PKD, student_layers=depth), TRAINING, model_pool)
        assert seen == fresh[depth][0]
        assert all(torch.equal(tensor, weights[name]) for name, tensor in fresh[depth][1].items())
        assert len(model_pool.train_steps) == 1


def moment_places(model_pool: ModelPool) -> list[int]:
    (train_step,) = model_pool.train_steps.values()
    return [moment.data_ptr() for moments in train_step.optimizer.state.values() for moment in moments.values()]


def test_a_train_step_out_of_use_is_gone_with_its_graphs() -> None:
    """At once, not when Python looks for reference cycles, which may be in a later training on the same stream."""
    gc.disable()
    try:
        student_data = made_up_student_data()
        model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=True)
        train(student_data, PKD, TRAINING, model_pool)
        train_step = weakref.ref(model_pool.train_steps[2, False, ()])
        graphs = model_pool.graphs
        del model_pool
        assert graphs is not None
        graphs.clear()
        assert train_step() is None
    finally:
        gc.enable()


class Interrupted(Exception):
    pass


def test_a_kept_train_step_resumes_from_a_checkpoint_in_place(tmp_path: Path) -> None:
    """Its graphs read the optimiser's moments at fixed addresses, so that these are overwritten and not replaced."""
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=True)
    expected, weights = train(student_data, PKD, TRAINING, model_pool)
    places = moment_places(model_pool)

    def interrupt(evaluation: Evaluation) -> None:
        if evaluation.number == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        distill(student_data, PKD, TRAINING, interrupt, EveryEpoch(tmp_path / "checkpoint"), model_pool)
    train(student_data, replace(PKD, alpha=0.1), TRAINING, model_pool)
    seen: list[Evaluation] = []
    student, _ = distill(student_data, PKD, TRAINING, seen.append, EveryEpoch(tmp_path / "checkpoint"), model_pool)
    assert seen == expected[2:]
    assert moment_places(model_pool) == places
    assert all(torch.equal(tensor, weights[name]) for name, tensor in student.state_dict().items())


CAPTURED = 4
"""Padded lengths of the made-up examples: 8, 16, 24 and 32."""


def short_of_memory(device: torch.device, graphs: Graphs) -> list[int]:
    """Runs out of memory in one of two train steps with graphs; returns bytes reserved before that and in the retry.

    Checks that both lose their graphs, that the step is repeated as micro-batches, and that graphs are captured again.
    """
    student_data = made_up_student_data(device)
    model = student_data.start("pretrained", 0).train()
    train_steps: dict[int, TrainStep] = {}
    source = replace(open_source(student_data.train, model), resident=make_resident(student_data.train, None, device))
    for i in range(2):
        train_steps[i] = TrainStep(model, graphs=graphs)
        train_steps[i].begin(TRAINING, Loss(), source)
    one, other = train_steps.values()
    reserved: list[int] = []
    limited = False

    def held() -> list[int]:
        reserved.append(torch.cuda.memory_reserved())
        return [len(train_step.graph_inputs()) for train_step in train_steps.values()]

    def limit(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if limited:
            if len(inputs[0]) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            assert held() == [0, 0]

    def inputs(length: int) -> Inputs:
        return Inputs({"example_ids_B": torch.arange(4, device=device)}, 4, length)

    model.bert.embeddings.word_embeddings.register_forward_pre_hook(limit)
    with side_stream(device):
        for train_step in (one, other, one, other):
            train_step(inputs(32))
        assert held() == [CAPTURED, CAPTURED]
        limited = True
        one(Inputs({"example_ids_B": torch.arange(3, device=device)}, 3, 24))  # not captured, as it is smaller
        limited = False
        assert (one.parts, other.parts) == (2, 1)
        for train_step in (one, other, one, other):
            train_step(inputs(32))
        assert held() == [CAPTURED, CAPTURED]
    return reserved


def test_memory_that_runs_out_is_not_held_by_graphs(caplog: pytest.LogCaptureFixture) -> None:
    short_of_memory(CPU, emulated_graphs())
    assert [record.message.split(":")[0] for record in caplog.records] == ["out of memory"]


def test_what_cannot_be_captured_is_an_error() -> None:
    def refuse(work: Callable[[], None]) -> Callable[[], None]:
        raise RuntimeError("operation not permitted when stream is capturing")

    student_data = made_up_student_data()
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        train(student_data, PKD, TRAINING, capturing_pool(student_data, 2, Graphs(refuse), resident=True))


END_OF_CAPTURE = RuntimeError("CUDA error: operation failed due to a previous error during capture")
END_OF_CAPTURE.__context__ = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")

OUT_OF_MEMORY = {
    "step": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "capture": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    "end of a capture": END_OF_CAPTURE,
    "replay": RuntimeError("CUDA error: out of memory"),
    "optimizer": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."),
}


@pytest.mark.parametrize("place", OUT_OF_MEMORY)
def test_where_memory_runs_out_training_goes_on_in_halves(
    place: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No batch is lost, gradients left by the failed step do not count, and it happens once in all training runs."""
    stream = EmulatedStream()
    failed: list[str] = []
    student_data = made_up_student_data()
    whole = train(student_data, PKD, TRAINING)

    def fail_once() -> None:
        if not failed:
            failed.append(place)
            for parameter in model_pool.train_steps[2, False, ()].parameters():
                parameter.grad = torch.ones_like(parameter)
            raise OUT_OF_MEMORY[place]

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        if place in ("capture", "end of a capture") and stream.captures == 2:
            fail_once()
        replay = stream.capture(work)

        def replay_or_fail() -> None:
            if place == "replay":
                fail_once()
            replay()

        return replay_or_fail

    model_pool = capturing_pool(student_data, 2, Graphs(capture), resident=True)
    train_step = model_pool.train_steps[2, False, ()]
    if place == "step":
        train_step.model.bert.embeddings.LayerNorm.register_forward_pre_hook(lambda *_: fail_once())
    if place == "optimizer":
        clip = torch.nn.utils.clip_grad_norm_

        def failing(parameters: list[torch.nn.Parameter], norm: float) -> torch.Tensor:
            fail_once()
            return clip(parameters, norm)

        monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", failing)
    for _ in range(2):
        in_halves = train(student_data, PKD, TRAINING, model_pool)
        assert_same(whole, in_halves)
        assert in_halves[0][-1].micro_batches == 2
    assert failed == [place]
    assert [record.message.split(":")[0] for record in caplog.records] == ["out of memory"]
    assert len(train_step.graph_inputs()) == CAPTURED
    small = replace(TRAINING, batch_size=3)
    assert train(student_data, PKD, small, model_pool)[0][-1].micro_batches == 1


def test_a_step_takes_no_memory_once_a_weight_has_changed() -> None:
    """With no room for the moments of the second parameter group, the repeated step would count twice."""
    train_step = TrainStep(made_up_student_data().start("pretrained", 0), graphs=emulated_graphs())
    moments = train_step.optimizer.state
    assert set(moments) == set(train_step.parameters())
    assert {name for state in moments.values() for name in state} == {"step", "exp_avg", "exp_avg_sq"}


def test_where_no_graph_fits_steps_stay_eager(caplog: pytest.LogCaptureFixture) -> None:
    """And graphs of others are not discarded over and over."""
    tried: list[int] = []

    def capture(work: Callable[[], None]) -> Callable[[], None]:
        tried.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, Graphs(capture), resident=True)
    for _ in range(2):
        assert_same(train(student_data, PKD, TRAINING), train(student_data, PKD, TRAINING, model_pool))
    assert len(tried) == 2
    assert "steps are no longer captured" in caplog.text


def test_graphs_of_a_stream_are_discarded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where weight decay is searched there are ever more: destroying some breaks the others, as on a GPU."""
    monkeypatch.setattr(train_step_module, "MAX_GRAPHS", 10)
    stream = EmulatedStream()
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, Graphs(stream.capture), resident=True)
    for decay in (0.0, 0.1, 0.2, 0.0, 0.3):
        training = replace(TRAINING, weight_decay=decay)
        assert_same(train(student_data, PKD, training), train(student_data, PKD, training, model_pool))
    assert stream.captures > 10 >= len(stream.live)


def test_all_lengths_are_captured_at_once_and_the_longest_first() -> None:
    """A pool that graphs share is then little larger than the longest needs, and epochs after the first only replay."""
    stream = EmulatedStream()
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, Graphs(stream.capture), resident=False)
    captures: list[int] = []
    distill(student_data, PKD, TRAINING, lambda evaluation: captures.append(stream.captures), model_pool=model_pool)
    assert captures == [CAPTURED] * 6
    lengths = [inputs["input_ids_BT"].shape[1] for inputs in model_pool.train_steps[2, False, ()].graph_inputs()]
    assert lengths == [32, 24, 16, 8]


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from-the-host"])
def test_captured_steps_are_padded_to_no_more_than_the_model_has_positions_for(resident: bool) -> None:
    student_data = made_up_student_data(size=replace(SMALL, positions=SMALL.longest))
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=resident)
    assert_same(train(student_data, PKD, TRAINING), train(student_data, PKD, TRAINING, model_pool))
    inputs = model_pool.train_steps[2, False, ()].graph_inputs()
    assert len(inputs) == 4
    if not resident:
        assert [each["input_ids_BT"].shape[1] for each in inputs] == [29, 24, 16, 8]


def test_a_step_that_waits_for_the_device_is_an_error() -> None:
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, emulated_graphs(), resident=True)
    model_pool.train_steps[2, False, ()].model.classifier.register_forward_hook(lambda *of: print(of[2].sum().item()))
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        train(student_data, PKD, TRAINING, model_pool)


def test_eager_steps_among_captured_ones_print_no_warning_of_torch() -> None:
    step = TrainStep(made_up_student_data().start("pretrained", 0), graphs=emulated_graphs())
    assert step.optimizer.param_groups[0]["capturable"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.warn(
            "This instance was constructed with capturable=True or some of all the param_groups", stacklevel=1
        )
    assert caught == []


@pytest.mark.gpu
def test_the_memory_that_graphs_share_is_given_back_when_it_runs_out() -> None:
    device = torch.device("cuda")
    graphs = stream_graphs(device)
    assert graphs is not None
    with_graphs, without, *_ = short_of_memory(device, graphs)
    graphs.clear()
    assert without < with_graphs


def test_weight_decay_leaves_out_biases_and_layer_norms() -> None:
    model = made_up_student_data().start("pretrained", 0)
    train_step = TrainStep(model)
    train_step.begin(replace(TRAINING, weight_decay=0.02), Loss(), open_source(made_up_split(), model))
    decayed, plain = train_step.optimizer.param_groups
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.02, 0.0)
    assert all(parameter.ndim == 2 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in plain["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(list(model.parameters()))


def test_a_loss_with_teacher_terms_needs_teacher_outputs() -> None:
    model = made_up_student_data().start("pretrained", 0)
    source = open_source(made_up_split(), model)
    with pytest.raises(ValueError, match=r"alpha 0\.5 and beta 0\.0 needs teacher outputs"):
        TrainStep(model).begin(TRAINING, Loss(alpha=0.5), source)


def test_graphs_of_other_batch_sizes_and_weight_decays_do_not_pile_up() -> None:
    """Their memory was measured once for each structure of the loss."""
    stream = EmulatedStream()
    student_data = made_up_student_data()
    model_pool = capturing_pool(student_data, 2, Graphs(stream.capture), resident=True)
    live = []
    decaying, clipped = replace(TRAINING, weight_decay=0.1), replace(TRAINING, max_grad_norm=0.5)
    for training in (TRAINING, decaying, clipped, TRAINING, TRAINING):
        train(student_data, PKD, training, model_pool)
        live.append(len(stream.live))
    assert live == [CAPTURED] * 5
    captures = stream.captures
    train(student_data, replace(PKD, beta=0.0), TRAINING, model_pool)  # another structure, beside it
    assert len(stream.live) == 2 * CAPTURED
    train(student_data, PKD, TRAINING, model_pool)
    assert stream.captures == captures + CAPTURED  # nothing was captured again
