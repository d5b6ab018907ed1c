"""Batches gathered from resident data against those collated on the host."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.data.batches import Batch, training_batches
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import (
    BatchSource,
    epoch_inputs,
    make_batch,
    make_resident,
    open_source,
    resident_bytes,
)
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.teacher_outputs import TeacherOutputs

CPU = torch.device("cpu")
PAD = 9
LENGTHS = np.array([5, 3, 8, 1, 12, 7, 16])
LAYERS_3_1 = Loss(alpha=0.5, beta=1.0, imitated=(3, 1))


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


@pytest.fixture
def model() -> BertForSequenceClassification:
    shape = {"vocab_size": 10, "hidden_size": 4, "num_attention_heads": 1, "intermediate_size": 4}
    return BertForSequenceClassification(BertConfig(**shape, num_hidden_layers=1, pad_token_id=PAD))


def batches(source: BatchSource, loss: Loss, multiple: int = 1) -> list[Batch]:
    epoch = training_batches(LENGTHS, 3, np.random.default_rng(0))
    inputs = epoch_inputs(source, loss, epoch, multiple=multiple)
    return [make_batch(source, loss, each.tensors, each.length) for each in inputs]


@pytest.mark.parametrize("multiple", [1, 8])
@pytest.mark.parametrize(
    ("loss", "present"),
    [
        (LAYERS_3_1, {"teacher_logits_BC", "teacher_cls_BKH"}),
        (replace(LAYERS_3_1, beta=0.0), {"teacher_logits_BC"}),
        (replace(LAYERS_3_1, alpha=0.0), {"teacher_cls_BKH"}),
        (Loss(), set()),
    ],
    ids=["pkd", "kd", "patience", "finetuning"],
)
@pytest.mark.parametrize("labelled", [None, np.arange(7) < 4], ids=["labelled", "some"])
def test_resident_data_gives_the_batches_that_the_host_gives(
    split: Split,
    outputs: TeacherOutputs,
    model: BertForSequenceClassification,
    multiple: int,
    loss: Loss,
    present: set[str],
    labelled: np.ndarray | None,
) -> None:
    """With the teacher outputs that the loss needs, and no others, and with what has a label where not all have one."""
    split = replace(split, labelled=labelled)
    on_host = open_source(split, model, outputs)
    resident = replace(on_host, resident=make_resident(split, outputs, CPU))
    pairs = list(zip(batches(on_host, loss, multiple), batches(resident, loss, multiple), strict=True))
    assert len(pairs) == 3
    for host, gathered in pairs:
        assert host.input_ids_BT.shape[1] % multiple == 0
        teacher_fields = {"teacher_logits_BC", "teacher_cls_BKH"}
        assert {name for name in teacher_fields if getattr(host, name) is not None} == present
        for field in fields(Batch):
            one, other = getattr(host, field.name), getattr(gathered, field.name)
            assert (one is None) == (other is None), field.name
            if one is not None:
                assert (one.dtype, one.tolist()) == (other.dtype, other.tolist()), field.name


def test_teacher_outputs_are_those_of_the_batchs_examples(
    split: Split, outputs: TeacherOutputs, model: BertForSequenceClassification
) -> None:
    for batch in batches(open_source(split, model, outputs), LAYERS_3_1):
        rows = outputs.row_of_example_N[batch.example_ids_B].tolist()
        assert batch.teacher_logits_BC is not None
        assert batch.teacher_cls_BKH is not None
        assert batch.teacher_logits_BC.tolist() == [[2.0 * row, 2.0 * row + 1] for row in rows]
        assert batch.teacher_cls_BKH[:, :, 0].tolist() == [[6.0 * row + 4, 6.0 * row] for row in rows]


def test_nothing_is_copied_on_a_cpu(
    split: Split, outputs: TeacherOutputs, model: BertForSequenceClassification
) -> None:
    assert open_source(split, model, outputs).resident is None


def test_concurrent_trials_on_a_gpu_share_the_memory_for_examples(
    split: Split,
    outputs: TeacherOutputs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the memory is taken by then, batches are collated on the host."""
    tried: list[torch.device] = []

    def full(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        tried.append(device)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    class OnGpu:
        device = torch.device("cuda")
        config = BertConfig(pad_token_id=PAD)

    free = 8 * resident_bytes(split, outputs)  # enough for two
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2 * free))
    monkeypatch.setattr(torch.Tensor, "to", full)
    assert open_source(split, OnGpu(), outputs, per_gpu=3).resident is None
    assert tried == []
    assert open_source(split, OnGpu(), outputs, per_gpu=2).resident is None
    assert tried == [OnGpu.device]
    assert "not enough GPU memory for the examples of train" in caplog.text


@pytest.mark.gpu
def test_small_data_is_resident_on_a_gpu(
    split: Split, outputs: TeacherOutputs, model: BertForSequenceClassification
) -> None:
    source = open_source(split, model.to("cuda"), outputs)
    assert source.resident is not None
    assert source.resident.input_ids_S.is_cuda
    made = batches(source, LAYERS_3_1, multiple=8)
    assert all(batch.teacher_logits_BC is not None and batch.teacher_logits_BC.is_cuda for batch in made)
