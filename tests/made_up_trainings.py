"""Training runs of a tiny student on made-up examples and teacher outputs, with eager or captured steps."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.config import DistillConfig, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.tokens import Split, used_tokens
from pkd_tune.distillation.batch_source import BatchSource, make_resident
from pkd_tune.distillation.checkpoint import Checkpoint
from pkd_tune.distillation.loop import Evaluation, FitResult
from pkd_tune.distillation.student import ModelPool, StudentData, distill
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import Graphs, TrainStep

CPU = torch.device("cpu")
SHAPE = {"vocab_size": 60, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
HEADS_OF_64 = {"vocab_size": 60, "hidden_size": 128, "num_attention_heads": 2, "intermediate_size": 512}
PKD = DistillConfig(student_layers=2, alpha=0.5, beta=20.0, temperature=5.0, strategy="skip", normalize=True)
TRAINING = TrainingConfig(epochs=3, batch_size=4, learning_rate=2e-3, evaluations_per_epoch=2, precision="fp32")
N, LAYERS = 27, 4  # seven batches an epoch, the last of three


@dataclass(frozen=True, slots=True)
class Size:
    """Of a made-up student and its examples."""

    shape: dict[str, int]
    shortest: int
    longest: int
    positions: int
    examples: int = N


SMALL = Size(SHAPE, shortest=3, longest=29, positions=40)
WIDE = Size(HEADS_OF_64, shortest=24, longest=128, positions=128)
"""With heads and lengths as those of BERT on MRPC, for which a GPU has kernels of its own."""

Trained = tuple[list[Evaluation], dict[str, torch.Tensor]]


class EveryEpoch(Checkpoint):
    """Is written at the end of every epoch, however little time that took."""

    def is_due(self, size: int) -> bool:
        return True


def made_up_split(name: str = "train", n: int = N, size: Size = SMALL) -> Split:
    rng = np.random.default_rng(n)
    lengths = rng.integers(size.shortest, size.longest + 1, n)
    lengths[lengths.argmin()], lengths[lengths.argmax()] = size.shortest, size.longest
    return Split(
        name=name,
        key=f"made up {n}, {size.shortest} to {size.longest}",
        input_ids=rng.integers(1, 50, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        first_lengths=(lengths // 2).astype(np.int32),
        labels=rng.integers(0, 2, n),
    )


def made_up_outputs(n: int, width: int) -> TeacherOutputs:
    """Returns random teacher outputs, stored in another order than that of the examples."""
    rows = torch.from_numpy(np.random.default_rng(n).permutation(n))
    return TeacherOutputs(torch.randn(n, 2), torch.randn(n, LAYERS, width).half(), rows)


def made_up_student_data(
    device: torch.device = CPU, dropout: float = 0.0, teacher_width: int | None = None, size: Size = SMALL
) -> StudentData:
    """Returns the data of students that train the embeddings of the used tokens, which is all but eleven of 60."""
    torch.manual_seed(0)
    drop = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    width = size.shape["hidden_size"]
    config = BertConfig(
        **size.shape,
        num_hidden_layers=3,
        max_position_embeddings=size.positions,
        initializer_range=0.8 / width**0.5,
        **drop,
    )
    start, dev = BertForSequenceClassification(config).to(device), {"dev": made_up_split("dev", 5, size)}
    train = made_up_split("train", size.examples, size)
    return StudentData(
        task=TASKS["MRPC"],
        train=train,
        tokens=used_tokens([train, *dev.values()]),
        dev=dev,
        official_dev=dev,
        start=lambda init, seed: start,
        teacher_train=made_up_outputs(size.examples, teacher_width or width),
        teacher_dev={"dev": made_up_outputs(5, teacher_width or width)},
        device=device,
    )


def train(
    student_data: StudentData, config: DistillConfig, training: TrainingConfig, model_pool: ModelPool | None = None
) -> Trained:
    seen: list[Evaluation] = []
    student: BertForSequenceClassification
    result: FitResult
    student, result = distill(student_data, config, training, seen.append, model_pool=model_pool)
    assert result.last == seen[-1]
    return seen, {name: tensor.detach().clone().cpu() for name, tensor in student.state_dict().items()}


def capturing_pool(student_data: StudentData, depth: int, graphs: Graphs, *, resident: bool) -> ModelPool:
    """Returns a model pool with a train step that captures, whose model has another student's weights."""
    model_pool = ModelPool(graphs=graphs)
    config = BertConfig.from_dict({**student_data.start("pretrained", 0).config.to_dict(), "num_hidden_layers": depth})
    config._attn_implementation = "sdpa"
    student = BertForSequenceClassification(config).to(student_data.device)
    width, teacher_width = config.hidden_size, student_data.teacher_train.cls_NLH.shape[2]
    narrow = teacher_width != width
    projection = torch.nn.Linear(width, teacher_width) if narrow else None
    model_pool.train_steps[depth, narrow, ()] = TrainStep(
        student, projection, tokens=student_data.tokens, graphs=graphs
    )
    model_pool.sources[student_data.train.key] = made_up_source(student_data, resident=resident)
    return model_pool


def made_up_source(student_data: StudentData, *, resident: bool) -> BatchSource:
    """Returns the batch source of the training split, whether or not it would be resident on this device."""
    split, outputs, device = student_data.train, student_data.teacher_train, student_data.device
    there = make_resident(split, outputs, device) if resident else None
    positions = student_data.start("pretrained", 0).config.max_position_embeddings
    return BatchSource(split, split.lengths, outputs, device, pad_id=0, positions=positions, resident=there)


def assert_same(one: Trained, other: Trained) -> None:
    for a, b in zip(one[0], other[0], strict=True):
        assert b.losses == pytest.approx(a.losses, rel=1e-5, abs=1e-6)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=1e-5)
        assert b.learning_rate == a.learning_rate
    for name, tensor in one[1].items():
        if not name.endswith("key.bias"):  # softmax cancels it: its gradient is rounding alone, which Adam blows up
            torch.testing.assert_close(other[1][name], tensor, rtol=1e-5, atol=1e-5)
