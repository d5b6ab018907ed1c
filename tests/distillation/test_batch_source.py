"""Batches gathered from a resident split against those that are put together on the host."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from pkd_tune.data.batches import Batch, training_batches
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import (
    BatchSource,
    ResidentData,
    TeacherTargets,
    epoch_inputs,
    make_batch,
    make_resident,
    open_source,
    resident_bytes,
    resident_where_it_fits,
)
from pkd_tune.distillation.teacher_outputs import TeacherOutputs

CPU = torch.device("cpu")
PAD = 9
LENGTHS = np.array([5, 3, 8, 1, 12, 7, 16])


@pytest.fixture
def split() -> Split:
    return Split(
        name="train",
        key="k",
        input_ids=np.arange(10, 10 + LENGTHS.sum(), dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(LENGTHS)]),
        first_lengths=np.array([2, 3, 1, 1, 11, 4, 5], np.int32),
        labels=np.array([1, 0, 1, 1, 0, 0, 1]),
    )


@pytest.fixture
def outputs() -> TeacherOutputs:
    n = len(LENGTHS)
    states = torch.arange(n * 3 * 2, dtype=torch.float16).view(n, 3, 2)
    return TeacherOutputs(torch.arange(n * 2.0).view(n, 2), states, torch.tensor([4, 2, 0, 6, 1, 3, 5]))


def batches(source: BatchSource) -> list[Batch]:
    epoch = training_batches(LENGTHS, 3, np.random.default_rng(0))
    return [make_batch(source, inputs.tensors, inputs.length) for inputs in epoch_inputs(source, epoch)]


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize(("logits", "layers"), [(True, (1, 3)), (True, ()), (False, (2,)), (False, ())])
def test_a_resident_split_gives_the_batches_that_the_host_gives(
    split: Split, outputs: TeacherOutputs, multiple: int, logits: bool, layers: tuple[int, ...]
) -> None:
    targets = TeacherTargets(outputs, logits, layers)

    def source(resident: ResidentData | None) -> BatchSource:
        return open_source(split, CPU, PAD, targets, resident, multiple=multiple)

    pairs = list(zip(batches(source(None)), batches(source(make_resident(split, outputs, CPU))), strict=True))
    assert len(pairs) == 3
    for host, gathered in pairs:
        assert host.input_ids_BT.shape[1] % multiple == 0
        for field in fields(Batch):
            one, other = getattr(host, field.name), getattr(gathered, field.name)
            assert (one is None) == (other is None), field.name
            if one is not None:
                assert (one.dtype, one.tolist()) == (other.dtype, other.tolist()), field.name


def test_the_teacher_says_what_it_said_of_the_same_examples(split: Split, outputs: TeacherOutputs) -> None:
    for batch in batches(open_source(split, CPU, PAD, TeacherTargets(outputs, True, (3, 1)))):
        rows = outputs.row_of_example_N[batch.example_ids_B].tolist()
        assert batch.teacher_logits_BC is not None
        assert batch.teacher_cls_BKH is not None
        assert batch.teacher_logits_BC.tolist() == [[2.0 * row, 2.0 * row + 1] for row in rows]
        assert batch.teacher_cls_BKH[:, :, 0].tolist() == [[6.0 * row + 4, 6.0 * row] for row in rows]


def test_nothing_is_copied_on_a_cpu(split: Split, outputs: TeacherOutputs) -> None:
    assert resident_where_it_fits(split, outputs, CPU) is None


def test_trials_that_share_a_gpu_share_what_examples_may_take_there(
    split: Split, outputs: TeacherOutputs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where memory turns out to be taken by then, a training goes on with the host's."""
    tried: list[torch.device] = []

    def full(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        tried.append(device)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    gpu, free = torch.device("cuda"), 8 * resident_bytes(split, outputs)  # enough for two
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.Tensor, "to", full)
    assert resident_where_it_fits(split, outputs, gpu, per_gpu=3) is None
    assert tried == []
    assert resident_where_it_fits(split, outputs, gpu, per_gpu=2) is None
    assert tried == [gpu]
    assert "no room left for the examples of train" in caplog.text


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_what_is_small_lives_on_the_gpu(split: Split, outputs: TeacherOutputs) -> None:
    resident = resident_where_it_fits(split, outputs, torch.device("cuda"))
    assert resident is not None
    assert resident.input_ids_S.is_cuda
    source = open_source(split, torch.device("cuda"), PAD, TeacherTargets(outputs, True, (1,)), resident, multiple=8)
    assert all(batch.teacher_logits_BC is not None and batch.teacher_logits_BC.is_cuda for batch in batches(source))
