"""One contestant of the bench: a process that does its work once for every line on its standard input.

`pkd_tune.bench` starts it and writes what the work is as JSON on the first line. Every line of its standard output is
the JSON of one answer; the first one says that it has warmed up.

Shapes: N examples, T tokens.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.benchmark.race import Work
from pkd_tune.config import DistillConfig, TrainingConfig
from pkd_tune.data.batches import collate
from pkd_tune.data.glue import find_trainable
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.checkpoint import write_tensors
from pkd_tune.distillation.inference import TeacherSimilarity, evaluate
from pkd_tune.distillation.loop import fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.student import StudentData, distill
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import TrainStep, graph_capture
from pkd_tune.encoders.modeling import cut_to_layers

Turn = Callable[[dict[str, Any]], None]

TASK = find_trainable("MRPC")
LEARNING_RATE = 1e-5
PEAK_SECONDS = 0.5
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}
SOFTWARE_SIZE = 256
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class BenchOverError(Exception):
    """There are no more lines to read."""


def main() -> None:
    """Does the work of the first line until the input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer

    def turn(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers)
        if not sys.stdin.readline():
            raise BenchOverError

    work = Work(**json.loads(sys.stdin.readline()))
    torch.set_num_threads(work.threads)
    torch.manual_seed(0)
    kinds: dict[str, Callable[[Work, Turn], None]] = {
        "plain": plain,
        "finetune": finetune,
        "peak": peak,
        "costs": costs,
    }
    with suppress(BenchOverError):
        kinds.get(work.kind, distillation)(work, turn)


def plain(work: Work, turn: Turn) -> None:
    """Trains as most scripts do: Hugging Face's forward pass, every batch padded to the longest possible, AdamW."""
    device = torch.device(work.device)
    model = BertForSequenceClassification(BertConfig(**work.model, num_hidden_layers=work.depth)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    whole = collate(made_up_split("train", work, work.lengths), np.arange(len(work.lengths)), torch.device("cpu"), 0)
    padding = (0, work.max_length - whole.input_ids_BT.shape[1])
    columns = (torch.nn.functional.pad(x, padding) for x in (whole.input_ids_BT, whole.mask_BT, whole.token_types_BT))
    batches = DataLoader(TensorDataset(*columns, whole.labels_B), batch_size=work.batch_size, shuffle=True)
    epoch_ends = _epoch_clock(device, turn)
    while True:
        for columns_BT in batches:
            input_ids_BT, mask_BT, token_types_BT, labels_B = (column.to(device) for column in columns_BT)
            with torch.autocast(device.type, torch.bfloat16, enabled=work.precision == "bf16"):
                output = model(
                    input_ids=input_ids_BT, attention_mask=mask_BT, token_type_ids=token_types_BT, labels=labels_B
                )
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        epoch_ends(None)


def finetune(work: Work, turn: Turn) -> None:
    """Trains without a teacher, with the program's own loop."""
    student_data = made_up_student_data(work)
    model = cut_to_layers(student_data.start, range(1, work.depth + 1)).to(student_data.device)

    fit(
        TrainStep(model, capture=graph_capture(model.device)),
        Loss(),
        open_source(student_data.train, model),
        student_data.dev,
        TASK,
        _training(work),
        _epoch_clock(student_data.device, turn),
    )


def distillation(work: Work, turn: Turn) -> None:
    """Distils a student as a trial does."""
    student_data = made_up_student_data(work)
    distill(student_data, _distillation(work), _training(work), _epoch_clock(student_data.device, turn))


def peak(work: Work, turn: Turn) -> None:
    """Multiplies large square matrices, in each precision, as fast as this machine can."""
    device = torch.device(work.device)
    size = PEAK_SIZES[device.type]
    while True:
        answer = {}
        for precision, dtype in PRECISIONS.items():
            in_hardware = precision in ("fp32", work.precision)
            answer[precision] = _products_per_second(size if in_hardware else SOFTWARE_SIZE, dtype, device)
        turn(answer)


def costs(work: Work, turn: Turn) -> None:
    """Does once what a trial does besides training: an evaluation, a checkpoint, and all that begins and ends it."""
    student_data = made_up_student_data(work)
    student = cut_to_layers(student_data.start, range(1, work.depth + 1)).to(student_data.device)
    dev = made_up_split("dev", work, work.dev_lengths)
    similarity = TeacherSimilarity({"dev": _made_up_outputs(work, len(dev))}, ())
    one_example = _training(work, epochs=1, batch_size=1)
    folder = Path(tempfile.mkdtemp())  # inside one of the bench, which removes it

    def evaluation() -> None:
        evaluate(student, {"dev": dev}, TASK, precision=work.precision, similarity=similarity)
        similarity.compute()

    state = {
        f"{copy}.{name}": tensor.detach().clone()
        for copy in ("model", "best", "exp_avg", "exp_avg_sq")
        for name, tensor in student.state_dict().items()
    }

    def checkpoint() -> None:
        write_tensors(folder / "state", state)

    def reset() -> None:
        distill(student_data, _distillation(work), one_example, lambda evaluation: None)

    while True:
        answer = {}
        for what in (evaluation, checkpoint, reset):
            started = time.perf_counter()
            what()
            answer[what.__name__] = _seconds_since(started, student_data.device)
        turn(answer)


def made_up_split(name: str, work: Work, lengths: list[int]) -> Split:
    """Returns examples of the given lengths; their tokens are as unevenly frequent as words are (Zipf's law)."""
    rng = np.random.default_rng(len(lengths))
    vocabulary = work.model["vocab_size"]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids_T = vocabulary ** rng.random(offsets[-1])  # log-uniform: rank r with probability proportional to 1/r
    return Split(
        name=name,
        key="made up",
        input_ids=np.minimum(ids_T, vocabulary - 1).astype(np.int32),
        offsets=offsets,
        first_lengths=(np.array(lengths, np.int32) + 1) // 2,
        labels=rng.integers(0, 2, len(lengths)),
    )


def made_up_student_data(work: Work) -> StudentData:
    """Returns a student data with random weights and a teacher twice as deep as the deepest student, who says nothing."""
    lengths = work.lengths[:1] if work.kind == "costs" else work.lengths
    dev = {"dev": made_up_split("dev", work, work.lengths[:1])}
    return StudentData(
        task=TASK,
        train=made_up_split("train", work, lengths),
        dev=dev,
        official_dev=dev,
        start=BertForSequenceClassification(BertConfig(**work.model, num_hidden_layers=work.depth)),
        init="pretrained",
        teacher_train=_made_up_outputs(work, len(lengths)),
        teacher_dev={"dev": _made_up_outputs(work, 1)},
        device=torch.device(work.device),
    )


def _made_up_outputs(work: Work, n: int) -> TeacherOutputs:
    states_NLH = torch.randn(n, 2 * work.depth, work.model["hidden_size"]).half()
    return TeacherOutputs(torch.randn(n, TASK.outputs), states_NLH, torch.arange(n))


def _distillation(work: Work) -> DistillConfig:
    return DistillConfig(
        student_layers=work.depth,
        alpha=0.5,
        beta=0.0 if work.kind == "kd" else 100.0,
        temperature=10.0,
        strategy="skip",
        normalize=True,
    )


def _training(work: Work, **changes: int) -> TrainingConfig:
    whole = {"epochs": work.turns + 1, "batch_size": work.batch_size, **changes}
    return TrainingConfig(learning_rate=LEARNING_RATE, evaluations_per_epoch=1, precision=work.precision, **whole)


def _epoch_clock(device: torch.device, turn: Turn) -> Callable[[object], None]:
    """Returns what to call at the end of each epoch: it answers with the epoch's seconds and waits for the next.

    Seconds on the clock, and seconds in which this process was computing: what others leave it does not change those.
    """
    started, computing = time.perf_counter(), time.process_time()

    def report(evaluation: object) -> None:
        nonlocal started, computing
        turn({"seconds": _seconds_since(started, device), "cpu_seconds": time.process_time() - computing})
        started, computing = time.perf_counter(), time.process_time()

    return report


def _products_per_second(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Returns floating-point operations per second, after a product that warms up."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))
    out = torch.mm(a, b)
    started, products = time.perf_counter(), 0
    while products == 0 or _seconds_since(started, device) < PEAK_SECONDS:
        torch.mm(a, b, out=out)
        products += 1
    return products * 2 * size**3 / _seconds_since(started, device)


def _seconds_since(started: float, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
