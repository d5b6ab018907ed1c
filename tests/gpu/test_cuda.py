"""What only a CUDA GPU can show; `pytest -m gpu` runs this with the tests of other modules that need one.

Points that these leave to `python -m pkd_tune.bench` and a real search: speed of replays against eager steps, and of 1,
2 and 4 processes on a GPU.
"""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_up_trainings import PKD, TRAINING, EveryEpoch, assert_same, capturing_pool, made_up_student_data, train

from pkd_tune.config import Precision
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import StudentData, distill
from pkd_tune.distillation.train_step import Graphs, TrainStep, stream_graphs

pytestmark = pytest.mark.gpu

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
GIB = 2**30


@pytest.fixture
def graphs() -> Iterator[Graphs]:
    graphs = stream_graphs(torch.device("cuda"))
    assert graphs is not None
    yield graphs
    graphs.clear()


@pytest.fixture
def data() -> StudentData:
    return made_up_student_data(GPU)


def repeat(work: Callable[[], None]) -> Callable[[], None]:
    """Does the work at every replay: eager steps with the shapes of captured ones."""
    return work


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from-the-host"])
def test_captured_steps_are_eager_ones(resident: bool, dropout: float, precision: Precision, graphs: Graphs) -> None:
    data, training = made_up_student_data(GPU, dropout=dropout), replace(TRAINING, precision=precision)
    captured = capturing_pool(data, 2, graphs, resident=resident)
    eager = capturing_pool(data, 2, Graphs(repeat), resident=resident)
    for config in (PKD, replace(PKD, alpha=0.9, beta=3.0), replace(PKD, beta=0.0), PKD):
        one, other = train(data, config, training, eager), train(data, config, training, captured)
        if precision == "fp32":
            assert_same(one, other)
        else:
            assert other[0][-1].losses == pytest.approx(one[0][-1].losses, rel=0.02, abs=1e-3)


def test_graphs_of_other_trainings_may_end_while_one_goes_on(data: StudentData, graphs: Graphs) -> None:
    """Were single graphs destroyed, the workspace that others use would be freed; memory is refilled in between."""
    model_pool = capturing_pool(data, 2, graphs, resident=True)
    expected = train(data, PKD, TRAINING, model_pool)
    for decay in (0.1, 0.2):
        train(data, PKD, replace(TRAINING, weight_decay=decay), model_pool)
    graphs.clear()
    gc.collect()
    torch.cuda.empty_cache()
    filled = [torch.full((2**20,), float("nan"), device=GPU) for _ in range(64)]
    assert_same(expected, train(data, PKD, TRAINING, model_pool))
    del filled


@pytest.mark.parametrize("resident", [True, False], ids=["resident", "from-the-host"])
def test_no_step_waits_for_the_gpu(resident: bool, data: StudentData, graphs: Graphs) -> None:
    model_pool = capturing_pool(data, 2, graphs, resident=resident)
    step = TrainStep.__call__

    def strict(self: TrainStep, inputs: object) -> None:
        torch.cuda.set_sync_debug_mode("error")
        try:
            step(self, inputs)  # type: ignore[arg-type]
        finally:
            torch.cuda.set_sync_debug_mode("default")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainStep, "__call__", strict)
        train(data, PKD, TRAINING, model_pool)
        train(data, PKD, TRAINING, model_pool)


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

    whole = train(made_up_student_data(after), PKD, TRAINING)
    with pytest.raises(Interrupted):
        distill(made_up_student_data(before), PKD, TRAINING, interrupt, EveryEpoch(tmp_path / "state"))
    distill(made_up_student_data(after), PKD, TRAINING, seen.append, EveryEpoch(tmp_path / "state"))
    assert [evaluation.number for evaluation in seen] == [3, 4, 5, 6]
    assert seen[-1].losses == pytest.approx(whole[0][-1].losses, rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("place", ["eager", "capture"])
def test_memory_that_really_runs_out_splits_batches(place: str, graphs: Graphs) -> None:
    """The process may use no more than what is allocated and a little when the step in question begins."""
    data = made_up_student_data(GPU)
    model_pool = capturing_pool(data, 2, graphs, resident=True)
    train_step = model_pool.train_steps[2, False]
    total = torch.cuda.get_device_properties(GPU).total_memory
    hog: list[torch.Tensor] = []
    forwards = []

    def limit(*_: object) -> None:
        forwards.append(1)
        if len(forwards) == (1 if place == "eager" else 2):
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**20) / total)
            hog.append(torch.empty(GIB, dtype=torch.uint8, device=GPU))

    train_step.model.bert.embeddings.LayerNorm.register_forward_pre_hook(limit)
    try:
        seen, _ = train(data, PKD, TRAINING, model_pool)
        assert seen[-1].micro_batches == 2
        torch.cuda.set_per_process_memory_fraction(1.0)
        assert train(data, PKD, TRAINING, model_pool)[0][-1].micro_batches == 2
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_scores_are_those_of_a_cpu(graphs: Graphs) -> None:
    one, other = (train(made_up_student_data(device), PKD, TRAINING)[0] for device in (CPU, GPU))
    for a, b in zip(one, other, strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-2, abs=1e-3)
        assert b.metrics == pytest.approx(a.metrics, abs=25)  # an example of five


def test_memory_stays_flat_over_twenty_trials(data: StudentData, graphs: Graphs) -> None:
    model_pool = capturing_pool(data, 2, graphs, resident=True)
    held = []
    for number in range(20):
        train(data, replace(PKD, alpha=number / 20), replace(TRAINING, seed=number, epochs=1), model_pool)
        held.append(torch.cuda.memory_reserved())
    assert held[-1] == held[2]
