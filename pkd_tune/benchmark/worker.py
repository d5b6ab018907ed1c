"""One worker process of a benchmark: it runs its workload once for every line on its standard input.

`interleaving.run_interleaved()` starts it and sends the workload as JSON on the first line. Every line of its standard
output is one answer as JSON; the first answer is that of the warm-up.

Shapes: N examples, B examples of a batch, T tokens, L layers, H hidden size.
"""

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import AutoConfig, AutoModelForSequenceClassification

from pkd_tune.benchmark.interleaving import Workload
from pkd_tune.config import DistillConfig, TrainingConfig
from pkd_tune.data.batches import collate
from pkd_tune.data.glue import glue_task
from pkd_tune.data.tokens import Split, used_tokens
from pkd_tune.distillation.batch_source import open_source
from pkd_tune.distillation.checkpoint import write_tensors
from pkd_tune.distillation.inference import TeacherSimilarity, evaluate
from pkd_tune.distillation.loop import fit
from pkd_tune.distillation.losses import Loss
from pkd_tune.distillation.student import ModelPool, StudentData, distill
from pkd_tune.distillation.teacher_outputs import TeacherOutputs
from pkd_tune.distillation.train_step import TrainStep, graphs_of_a_training
from pkd_tune.encoders.families import FAMILIES
from pkd_tune.encoders.modeling import cut_to_layers, takes_segment_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Answer = Callable[[dict[str, Any]], None]
"""Sends an answer and waits for the next run."""

PECULIAR: dict[str, dict[str, Any]] = {
    "deberta-v2": {  # as DeBERTa-v3
        "relative_attention": True,
        "position_buckets": 256,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
    },
    "modernbert": {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2},
}
"""Settings of a family's pretrained models, on which its speed depends; token ids that are in a small vocabulary."""

TASK = glue_task("MRPC")
LEARNING_RATE = 1e-5
CORPUS_TOKENS = 100_000
"""Size of the training split of which the examples are a part, about CoLA's: how many tokens occur depends on it."""
PEAK_SECONDS = 0.5
PEAK_SIZES = {"cpu": 2048, "cuda": 8192}
"""Rows and columns of the matrices whose products are the machine's peak."""
EMULATED_SIZE = 256
"""The same for a precision that the device only emulates, which is much slower."""
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class InputClosedError(Exception):
    """Standard input was closed: the benchmark is over."""


def main() -> None:
    """Runs the workload of the first line until standard input is closed."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers)
        if not sys.stdin.readline():
            raise InputClosedError

    workload = Workload(**json.loads(sys.stdin.readline()))
    if workload.general:
        FAMILIES[workload.family] = replace(FAMILIES[workload.family], paths=None)
    torch.set_num_threads(workload.threads)
    torch.manual_seed(0)
    kinds = {"plain": plain, "peak": peak, "overheads": overheads}
    with suppress(InputClosedError):
        kinds.get(workload.kind, training)(workload, answer)


def plain(workload: Workload, answer: Answer) -> None:
    """Trains as a minimal script does: Hugging Face's forward pass, batches padded to the maximum length, AdamW."""
    device = torch.device(workload.device)
    model = random_model(workload).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    split = synthetic_split("train", workload, workload.lengths)
    whole = collate(split, np.arange(len(split)), torch.device("cpu"), model.config.pad_token_id)
    padding = (0, workload.max_length - whole.input_ids_BT.shape[1])
    columns = (torch.nn.functional.pad(x, padding) for x in (whole.input_ids_BT, whole.mask_BT, whole.token_types_BT))
    batches = DataLoader(TensorDataset(*columns, whole.labels_B), batch_size=workload.batch_size, shuffle=True)
    with_segment_ids = takes_segment_ids(model)
    end_epoch = _epoch_clock(device, answer)
    while True:
        for columns_BT in batches:
            input_ids_BT, mask_BT, token_types_BT, labels_B = (column.to(device) for column in columns_BT)
            with torch.autocast(device.type, torch.bfloat16, enabled=workload.precision == "bf16"):
                segment_ids = {"token_type_ids": token_types_BT} if with_segment_ids else {}
                output = model(input_ids=input_ids_BT, attention_mask=mask_BT.long(), labels=labels_B, **segment_ids)
            output.loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        end_epoch(None)


def training(workload: Workload, answer: Answer) -> None:
    """Trains with pkd_tune's loop, as commands and trials do, and answers after every epoch."""
    student_data = synthetic_student_data(workload)
    train(student_data, workload, _training_config(workload), _epoch_clock(student_data.device, answer))


def train(student_data: StudentData, workload: Workload, config: TrainingConfig, report: Callable[[Any], None]) -> None:
    """Fine-tunes or distils one student, by the kind of the workload; `report` is called after every evaluation."""
    with graphs_of_a_training(student_data.device, captured=workload.captured) as graphs:
        if workload.kind != "finetune":
            model_pool = ModelPool(graphs=graphs)
            distill(student_data, _distill_config(workload), config, report, model_pool=model_pool)
            return
        model = cut_to_layers(student_data.start("pretrained", 0), range(1, workload.depth + 1)).to(student_data.device)
        train_step = TrainStep(model, tokens=student_data.tokens, graphs=graphs)
        fit(train_step, Loss(), open_source(student_data.train, model), student_data.dev, TASK, config, report)


def peak(workload: Workload, answer: Answer) -> None:
    """Multiplies large square matrices in each precision, as fast as this machine can."""
    device = torch.device(workload.device)
    while True:
        rates = {}
        for precision, dtype in PRECISIONS.items():
            supported = precision in ("fp32", workload.precision)
            size = PEAK_SIZES[device.type] if supported else EMULATED_SIZE
            rates[precision] = _products_per_second(size, dtype, device)
        answer(rates)


def overheads(workload: Workload, answer: Answer) -> None:
    """Does what a trial does besides training steps: an evaluation, a checkpoint, and the start and end of a trial."""
    student_data = synthetic_student_data(workload)
    student = cut_to_layers(student_data.start("pretrained", 0), range(1, workload.depth + 1)).to(student_data.device)
    dev = synthetic_split("dev", workload, workload.dev_lengths)
    similarity = TeacherSimilarity({"dev": _synthetic_outputs(workload, len(dev))}, ())
    one_example = _training_config(workload, epochs=1, batch_size=1)
    folder = Path(tempfile.mkdtemp())  # inside the benchmark's temporary folder, which is removed at the end

    def evaluation() -> None:
        evaluate(student, {"dev": dev}, TASK, precision=workload.precision, similarity=similarity)
        similarity.compute()

    state = {
        f"{copy}.{name}": tensor.detach().clone()
        for copy in ("model", "best", "exp_avg", "exp_avg_sq")
        for name, tensor in student.state_dict().items()
    }

    def checkpoint() -> None:
        write_tensors(folder / "state", state)

    def reset() -> None:
        train(student_data, workload, one_example, lambda evaluation: None)

    while True:
        seconds = {}
        for overhead in (evaluation, checkpoint, reset):
            started = time.perf_counter()
            overhead()
            seconds[overhead.__name__] = _seconds_since(started, student_data.device)
        answer(seconds)


def random_model(workload: Workload, *, attention: str | None = None) -> "PreTrainedModel":
    """Returns a classifier of the workload's family, shape and depth with random weights.

    Args:
        workload: Says its family and shape.
        attention: Implementation of attention; None: the one that transformers chooses.
    """
    family = FAMILIES[workload.family]
    shape = {family.name(name): size for name, size in {**workload.model, "num_hidden_layers": workload.depth}.items()}
    config = AutoConfig.for_model(workload.family, **{**shape, **PECULIAR.get(workload.family, {})})
    chosen = {} if attention is None else {"attn_implementation": attention}
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config, **chosen)
    return model


def synthetic_split(name: str, workload: Workload, lengths: list[int]) -> Split:
    """Returns examples of the given lengths whose tokens follow Zipf's law, as words do."""
    rng = np.random.default_rng(len(lengths))
    vocabulary = workload.model["vocab_size"]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids_T = vocabulary ** rng.random(offsets[-1])  # log-uniform: rank r with probability proportional to 1/r
    return Split(
        name=name,
        key="synthetic",
        input_ids=np.minimum(ids_T, vocabulary - 1).astype(np.int32),
        offsets=offsets,
        first_lengths=(np.array(lengths, np.int32) + 1) // 2,
        labels=rng.integers(0, 2, len(lengths)),
    )


def synthetic_student_data(workload: Workload) -> StudentData:
    """Returns student data with random initial weights, and random outputs of a teacher twice as deep."""
    lengths = workload.lengths[:1] if workload.kind == "overheads" else workload.lengths
    train, dev = synthetic_split("train", workload, lengths), {"dev": synthetic_split("dev", workload, lengths[:1])}
    corpus = synthetic_split("corpus", workload, [CORPUS_TOKENS])
    start = random_model(workload, attention=FAMILIES[workload.family].attention)
    return StudentData(
        task=TASK,
        train=train,
        dev=dev,
        official_dev=dev,
        start=lambda init, seed: start,
        teacher_train=_synthetic_outputs(workload, len(lengths)),
        teacher_dev={"dev": _synthetic_outputs(workload, 1)},
        device=torch.device(workload.device),
        tokens=used_tokens([corpus, train, dev["dev"]]),
    )


def _synthetic_outputs(workload: Workload, n: int) -> TeacherOutputs:
    states_NLH = torch.randn(n, 2 * workload.depth, workload.model["hidden_size"]).half()
    return TeacherOutputs(torch.randn(n, TASK.outputs), states_NLH, torch.arange(n))


def _distill_config(workload: Workload) -> DistillConfig:
    return DistillConfig(
        student_layers=workload.depth,
        alpha=0.5,
        beta=0.0 if workload.kind == "kd" else 100.0,
        temperature=10.0,
        strategy="skip",
        normalize=True,
    )


def _training_config(workload: Workload, **changes: int) -> TrainingConfig:
    fields = {"epochs": workload.repeats + 1, "batch_size": workload.batch_size, **changes}
    return TrainingConfig(learning_rate=LEARNING_RATE, evaluations_per_epoch=1, precision=workload.precision, **fields)


def _epoch_clock(device: torch.device, answer: Answer) -> Callable[[object], None]:
    """Returns what to call at the end of each epoch: it answers with the epoch's wall and CPU time in seconds.

    CPU time hardly depends on how much of the machine other processes use.
    """
    started, computing = time.perf_counter(), time.process_time()

    def report(evaluation: object) -> None:
        nonlocal started, computing
        answer({"seconds": _seconds_since(started, device), "cpu_seconds": time.process_time() - computing})
        started, computing = time.perf_counter(), time.process_time()

    return report


def _products_per_second(size: int, dtype: torch.dtype, device: torch.device) -> float:
    """Returns floating-point operations per second, after one product as a warm-up."""
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
