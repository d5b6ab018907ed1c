"""Training steps on a GPU: captured and eager, without waiting, beside other trainings, and where memory runs out."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_trainings import (
    PKD,
    SMALL,
    TRAINING,
    WIDE,
    EveryEpoch,
    Size,
    capturing_pool,
    made_up_student_data,
    train,
)

from pkd_tune.config import DistillConfig, Precision, TrainingConfig
from pkd_tune.distillation import train_step as train_step_module
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import ModelPool, StudentData, distill
from pkd_tune.distillation.train_step import Graphs, TrainStep, stream_graphs

pytestmark = pytest.mark.gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GIB, MIB = 2**30, 2**20
EVERY_STEP = replace(TRAINING, epochs=2, evaluations_per_epoch=7)
LENGTHS = 14
"""Padded lengths of the wide examples: 24 to 128."""

LONG = Size(
    {"vocab_size": 60, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
    shortest=128,
    longest=128,
    positions=128,
    examples=512,
)
"""A student whose activations take far more memory than its weights; all its batches are whole and equally long."""
KD = replace(PKD, student_layers=3, beta=0.0)
IN_WHOLE_BATCHES = replace(TRAINING, batch_size=128, epochs=2, evaluations_per_epoch=4)

Steps = tuple[list[Evaluation], torch.Tensor]


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    graphs = stream_graphs(GPU)
    assert graphs is not None
    yield graphs
    graphs.clear()


def repeat(work: Callable[[], None]) -> Callable[[], None]:
    """Does the work at every replay: eager steps with the shapes of captured ones."""
    return work


def eager_pool(data: StudentData, *, depth: int = 2, resident: bool = True) -> ModelPool:
    return capturing_pool(data, depth, Graphs(repeat), resident=resident)


def steps_of(data: StudentData, config: DistillConfig, training: TrainingConfig, model_pool: ModelPool) -> Steps:
    """Trains a student; returns its evaluations, and the weights after its last step in one row."""
    seen: list[Evaluation] = []
    weights: list[torch.Tensor] = []

    def note(evaluation: Evaluation) -> None:
        seen.append(evaluation)
        parameters = model_pool.train_steps[config.student_layers, False, ()].parameters()
        weights[:] = [torch.cat([parameter.detach().double().cpu().flatten() for parameter in parameters])]

    distill(data, config, training, note, model_pool=model_pool)
    return seen, weights[0]


def assert_alike(one: Steps, other: Steps, precision: Precision = "fp32") -> None:
    """Checks that two trainings are the same but for rounding: sums on a GPU depend on the order of its threads.

    Adam makes steps of any gradient, of one that is rounding alone as well: weights are compared in total.
    """
    tolerance = {"fp32": 1e-4, "bf16": 1e-2}[precision]
    for a, b in zip(one[0], other[0], strict=True):
        assert b.losses == pytest.approx(a.losses, rel=tolerance, abs=tolerance / 10)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=5 * tolerance)
        assert b.learning_rate == a.learning_rate
    apart = float((one[1] - other[1]).norm() / one[1].norm())
    assert apart < tolerance, f"weights differ by {apart:.2g} of their size"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from-the-host"])
def test_captured_steps_are_eager_ones(resident: bool, dropout: float, precision: Precision, graphs: Graphs) -> None:
    """With heads of 64 and lengths of 24 to 128, each step compared."""
    data = made_up_student_data(GPU, dropout=dropout, size=WIDE)
    training = replace(EVERY_STEP, precision=precision)
    captured, eager = capturing_pool(data, 2, graphs, resident=resident), eager_pool(data, resident=resident)
    for config in (PKD, replace(PKD, alpha=0.9, beta=3.0), replace(PKD, beta=0.0), PKD):
        one, other = steps_of(data, config, training, eager), steps_of(data, config, training, captured)
        assert_alike(one, other, precision)
    assert len(captured.train_steps[2, False, ()].graph_inputs()) == 2 * LENGTHS


def fill_freed_memory() -> list[torch.Tensor]:
    """Has what was freed hold other values, in blocks large and small."""
    gc.collect()
    torch.cuda.empty_cache()
    sizes = [2**20] * 64 + [2**15] * 256 + [2**8] * 1024
    return [torch.full((size,), float("nan"), device=GPU) for size in sizes]


def test_graphs_are_replayed_when_other_trainings_are_gone(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nothing refers to any more is freed, and its memory is used for something else."""
    captures: list[int] = []
    capture = graphs.capture

    def counted(work: Callable[[], None]) -> Callable[[], None]:
        captures.append(1)
        return capture(work)

    monkeypatch.setattr(graphs, "capture", counted)
    data = made_up_student_data(GPU, size=WIDE)
    expected = steps_of(data, PKD, EVERY_STEP, eager_pool(data))
    kept = capturing_pool(data, 2, graphs, resident=True)
    assert_alike(expected, steps_of(data, PKD, EVERY_STEP, kept))
    for depth in (1, 2):
        of_other = made_up_student_data(GPU, size=WIDE)
        other = capturing_pool(of_other, depth, graphs, resident=True)
        train(of_other, replace(PKD, student_layers=depth), EVERY_STEP, other)
    del other, of_other
    assert len(captures) == len(graphs.of) == 3 * LENGTHS
    filled = fill_freed_memory()
    assert_alike(expected, steps_of(data, PKD, EVERY_STEP, kept))
    assert len(captures) == 3 * LENGTHS
    del filled


def test_steps_are_right_after_graphs_made_room_for_others(graphs: Graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of a stream go at once; the freed memory is used for something else, and those in use are captured again."""
    monkeypatch.setattr(train_step_module, "MAX_GRAPHS", 2 * LENGTHS)
    data = made_up_student_data(GPU, size=WIDE)
    captured, eager = capturing_pool(data, 2, graphs, resident=True), eager_pool(data)
    held = []
    for decay in (0.0, 0.1, 0.2, 0.0, 0.3):
        training = replace(EVERY_STEP, weight_decay=decay)
        filled = fill_freed_memory()
        assert_alike(steps_of(data, PKD, training, eager), steps_of(data, PKD, training, captured))
        held.append(len(graphs.of))
        del filled
    assert held == [LENGTHS, 2 * LENGTHS, LENGTHS, 2 * LENGTHS, LENGTHS]


@pytest.mark.parametrize("how", ["resident", "from-the-host", "eager"])
def test_no_step_waits_for_the_gpu(how: str, graphs: Graphs) -> None:
    """Replays, and the eager steps of smaller batches; or eager steps alone."""
    data = made_up_student_data(GPU, size=WIDE)
    model_pool = ModelPool() if how == "eager" else capturing_pool(data, 2, graphs, resident=how == "resident")
    step = TrainStep.__call__
    steps: list[int] = []

    def strict(self: TrainStep, inputs: object) -> None:
        steps.append(1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(self, inputs)  # type: ignore[arg-type]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    train(data, PKD, TRAINING, model_pool)  # captures, which waits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", strict)
        train(data, PKD, TRAINING, model_pool)
    assert len(steps) == 3 * 7


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(("before", "after"), [(GPU, GPU), (CPU, GPU), (GPU, CPU)], ids=str)
def test_a_checkpoint_continues_on_this_device_or_another(
    before: torch.device, after: torch.device, tmp_path: Path, graphs: Graphs
) -> None:
    seen: list[Evaluation] = []

    def interrupt(evaluation: Evaluation) -> None:
        if evaluation.number == 3:
            raise Interrupted

    whole = train(made_up_student_data(after), PKD, TRAINING)[0]
    with pytest.raises(Interrupted):
        distill(made_up_student_data(before), PKD, TRAINING, interrupt, EveryEpoch(tmp_path / "state"))
    distill(made_up_student_data(after), PKD, TRAINING, seen.append, EveryEpoch(tmp_path / "state"))
    assert [evaluation.number for evaluation in seen] == [3, 4, 5, 6]
    for evaluation in seen:
        assert evaluation.losses == pytest.approx(whole[evaluation.number - 1].losses, rel=1e-2, abs=1e-3)


def leave_free(size: int) -> None:
    """Lets this process take no more of the GPU than it holds and so many bytes, as if others had the rest.

    Not within a capture, where unused memory cannot be given back.
    """
    gc.collect()
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(min(1.0, (torch.cuda.memory_reserved() + size) / total))


@pytest.fixture
def all_memory_again() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("all_memory_again")
@pytest.mark.parametrize("place", ["eager step", "capture", "first replay"])
def test_memory_that_really_runs_out_splits_batches(
    place: str, graphs: Graphs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is room for half a step, not for a whole one; at a replay, which takes none of torch, there is none."""
    data = made_up_student_data(GPU, size=LONG)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    expected = steps_of(data, KD, IN_WHOLE_BATCHES, eager_pool(data, depth=3))
    of_a_step = torch.cuda.max_memory_allocated() - before
    assert of_a_step > 500 * MIB  # weights and moments are 40 of them
    enough_for_half = int(0.85 * of_a_step)
    model_pool = capturing_pool(data, 3, graphs, resident=True)
    train_step = model_pool.train_steps[3, False, ()]
    reached: list[str] = []
    capture = graphs.capture

    def run_out(here: str, size: int) -> bool:
        if here != place or reached:
            return False
        reached.append(here)
        leave_free(size)
        return True

    def short_of_memory(work: Callable[[], None]) -> Callable[[], None]:
        run_out("capture", enough_for_half)
        replay = capture(work)

        def replayed() -> None:
            if run_out("first replay", 0):
                torch.empty(GIB, dtype=torch.uint8, device=GPU)
            replay()

        return replayed

    monkeypatch.setattr(graphs, "capture", short_of_memory)

    def in_a_step(*_: object) -> None:
        run_out("eager step", enough_for_half)

    train_step.model.bert.embeddings.LayerNorm.register_forward_pre_hook(in_a_step)
    for _ in range(2):  # the second time batches are split from the beginning
        steps = steps_of(data, KD, IN_WHOLE_BATCHES, model_pool)
        assert_alike(expected, steps)
        assert steps[0][-1].micro_batches == 2
    assert reached == [place]
    assert [record.message for record in caplog.records if "out of memory" in record.message] == [
        "out of memory: batches are now split into two micro-batches with accumulated gradients"
    ]
    assert len(train_step.graph_inputs()) == 1


def test_a_gpu_that_is_full_at_the_first_replay_stops_no_training(
    graphs: Graphs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whether the first launch of a graph takes memory is the driver's affair; where it does, batches are split."""
    data = made_up_student_data(GPU, size=LONG)
    expected = steps_of(data, KD, IN_WHOLE_BATCHES, eager_pool(data, depth=3))
    launched: list[int] = []
    capture = graphs.capture

    def on_a_full_gpu(work: Callable[[], None]) -> Callable[[], None]:
        replay = capture(work)

        def replayed() -> None:
            if launched:
                replay()
                return
            launched.append(1)
            filling = whatever_is_free()
            try:
                replay()
                torch.cuda.synchronize()
            finally:
                filling.clear()
                torch.cuda.empty_cache()

        return replayed

    monkeypatch.setattr(graphs, "capture", on_a_full_gpu)
    steps = steps_of(data, KD, IN_WHOLE_BATCHES, capturing_pool(data, 3, graphs, resident=True))
    assert_alike(expected, steps)
    assert launched
    with capsys.disabled():
        print(f"\nmicro-batches after the first replay on a full GPU: {steps[0][-1].micro_batches}")


def whatever_is_free() -> list[torch.Tensor]:
    """Takes all of the GPU's memory, up to the last two MiB."""
    taken: list[torch.Tensor] = []
    for size in (GIB, 64 * MIB, 2 * MIB):
        while True:
            try:
                taken.append(torch.empty(size, dtype=torch.uint8, device=GPU))
            except torch.OutOfMemoryError:
                break
    return taken


@pytest.mark.parametrize("size", [SMALL, WIDE], ids=["heads-of-8", "heads-of-64"])
def test_a_student_is_that_of_a_cpu(size: Size, graphs: Graphs) -> None:
    one, other = (train(made_up_student_data(device, size=size), PKD, TRAINING)[0] for device in (CPU, GPU))
    for a, b in zip(one, other, strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-2, abs=1e-3)
        assert b.metrics == pytest.approx(
            a.metrics, abs=40
        )  # an example of five: 20 points of accuracy, and of F1 more


def test_memory_stays_flat_over_twenty_trials(graphs: Graphs) -> None:
    """What tensors hold, what torch keeps for them, and what the GPU has beside that, where the graphs are."""
    data = made_up_student_data(GPU, size=WIDE)
    model_pool = capturing_pool(data, 2, graphs, resident=True)
    held = []
    for number in range(20):
        train(data, replace(PKD, alpha=number / 20), replace(TRAINING, seed=number, epochs=1), model_pool)
        gc.collect()
        torch.cuda.synchronize()
        free, total = torch.cuda.mem_get_info()
        held.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), total - free))
    allocated, reserved, of_gpu = (last - third for last, third in zip(held[-1], held[2], strict=True))
    assert allocated < MIB
    assert reserved < 64 * MIB
    assert of_gpu < 64 * MIB
