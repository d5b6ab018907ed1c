"""Measures the memory of a process with many examples; a script that does one of four things.

    python tests/many_examples.py train 400000 /tmp/folder
    python tests/many_examples.py train-real 400000 /tmp/folder
    python tests/many_examples.py train-long 3200 /tmp/folder
    python tests/many_examples.py build 400000 /tmp/folder

It prints bytes as JSON: `own`, the peak of anonymous memory (without mapped files), `own_by_evaluation`, its peak
between one evaluation and the next, and `peak`, that of all memory.
"""

import json
import resource
import sys
import threading
from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from pkd_tune.config import DistillConfig, TrainingConfig
from pkd_tune.data.glue import TASKS
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.loop import Evaluation
from pkd_tune.distillation.student import StudentData, distill
from pkd_tune.distillation.teacher_outputs import TeacherOutputs, teacher_outputs

MEAN_LENGTH = {"train": 39, "build": 8}
"""Tokens per example: MNLI's, and fewer where all examples go through a model."""
SMALL = {"vocab_size": 100, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
LARGE = {"vocab_size": 30522, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
EVALUATIONS = 2
"""Evaluations after which a training is stopped, unless it is to be of full length; every 20 steps."""
EPOCHS = 4


class EnoughError(Exception):
    """The training has been measured."""


def own_bytes() -> int:
    """Returns the anonymous memory of this process."""
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))


def mapped_split(folder: Path, name: str, n: int, mean_length: int) -> Split:
    """Returns random examples with memory-mapped tokens, as those of a task are."""
    rng = np.random.default_rng(n)
    lengths = np.clip(rng.gamma(4, mean_length / 4, n).astype(np.int64), 3, 120)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.memmap(folder / f"{name}-{n}.tokens", np.int32, "w+", shape=(int(offsets[-1]),))
    for start in range(0, len(tokens), 2**20):
        tokens[start : start + 2**20] = rng.integers(1, 100, len(tokens[start : start + 2**20]))
    tokens.flush()
    return Split(
        name=name,
        key=f"{name} {n}",
        input_ids=np.memmap(folder / f"{name}-{n}.tokens", np.int32, "r"),
        offsets=offsets,
        first_lengths=(lengths // 2).astype(np.int32),
        labels=rng.integers(0, 2, n),
    )


def bert(shape: dict[str, int], layers: int) -> BertForSequenceClassification:
    """Returns a model with random weights."""
    return BertForSequenceClassification(BertConfig(**shape, num_hidden_layers=layers, num_labels=2))


def build(n: int, folder: Path) -> list[int]:
    """Computes the outputs of a one-layer teacher for all examples; returns the anonymous memory."""
    teacher_outputs(folder, mapped_split(folder, "train", n, MEAN_LENGTH["build"]), "tiny", lambda: bert(SMALL, 1))
    return [own_bytes()]


def mapped_outputs(folder: Path, split: Split, layers: int, width: int) -> TeacherOutputs:
    """Returns random memory-mapped teacher outputs."""
    n, rng = len(split), np.random.default_rng(len(split))
    shapes = {"logits": ((n, 2), np.float32), "cls": ((n, layers, width), np.float16)}
    for name, (shape, dtype) in shapes.items():
        array = np.memmap(folder / f"{split.name}-{n}.{name}", dtype, "w+", shape=shape)
        for start in range(0, n, 2**14):
            array[start : start + 2**14] = rng.random(array[start : start + 2**14].shape, np.float32)
        array.flush()
    mapped = {
        name: torch.from_file(
            str(folder / f"{split.name}-{n}.{name}"),
            shared=True,
            size=int(np.prod(shape)),
            dtype=torch.float32 if dtype is np.float32 else torch.float16,
        ).view(shape)
        for name, (shape, dtype) in shapes.items()
    }
    return TeacherOutputs(mapped["logits"], mapped["cls"], torch.from_numpy(rng.permutation(n)))


def train(n: int, folder: Path, shape: dict[str, int], layers: int, evaluations: int | None = EVALUATIONS) -> list[int]:
    """Trains a student of this depth; returns the peak of anonymous memory up to each evaluation.

    Args:
        n: Examples.
        folder: For files of tokens and teacher outputs.
        shape: Of the model.
        layers: Of the student.
        evaluations: After which it is stopped; None: after all epochs.
    """
    splits = {
        name: mapped_split(folder, name, size, MEAN_LENGTH["train"]) for name, size in (("train", n), ("dev", 50))
    }
    outputs = {name: mapped_outputs(folder, split, layers + 1, shape["hidden_size"]) for name, split in splits.items()}
    start, dev = bert(shape, layers), {"dev": splits["dev"]}
    student_data = StudentData(
        task=TASKS["RTE"],
        train=splits["train"],
        dev=dev,
        official_dev=dev,
        start=lambda init, seed: start,
        teacher_train=outputs["train"],
        teacher_dev={"dev": outputs["dev"]},
        device=torch.device("cpu"),
    )
    held, over = [[0]], threading.Event()

    def sample() -> None:
        while not over.wait(0.01):
            held[-1].append(own_bytes())

    def report(evaluation: Evaluation) -> None:
        if evaluation.number == evaluations:
            raise EnoughError
        held.append([0])

    config = DistillConfig(student_layers=layers, alpha=0.5, beta=10, temperature=5, strategy="skip", normalize=True)
    threading.Thread(target=sample).start()
    try:
        distill(
            student_data, config, TrainingConfig(epochs=EPOCHS, evaluations_per_epoch=max(3, n // 32 // 20)), report
        )
    except EnoughError:
        pass
    else:
        assert evaluations is None, "the training ended before it was stopped"
        held.pop()  # what follows the last evaluation
    finally:
        over.set()
    return [max(samples) for samples in held]


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = {
        "train": lambda n, folder: train(n, folder, SMALL, 2),
        "train-real": lambda n, folder: train(n, folder, LARGE, 6),  # 22.7 million parameters
        "train-long": lambda n, folder: train(n, folder, LARGE, 3, evaluations=None),
        "build": build,
    }
    held = work[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
    print(
        json.dumps(
            {
                "own": max(held),
                "own_by_evaluation": held,
                "peak": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )
