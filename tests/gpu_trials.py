"""Processes that hold as much of a GPU as those of trials do; a module of its own, which they can import."""

from collections.abc import Mapping
from threading import Barrier

import torch

from pkd_tune.config import SearchConfig
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.train_step import stream_graphs
from pkd_tune.workflows.gpu_check import structures
from pkd_tune.workflows.timing import train_student

LIMIT = 300
"""Seconds within which all have trained."""


def train_and_wait(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, per_gpu: int, together: Barrier
) -> None:
    """Trains students of all depths with every loss of PKD, and holds what that takes until all are told to end."""
    model_pool = ModelPool(graphs=stream_graphs(device), per_gpu=per_gpu)
    for depth in config.depths:
        for loss in structures(["pkd"], depth):
            train_student(config, splits, splits["train"], loss, device, model_pool)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    together.wait(LIMIT)  # all have trained
    together.wait(LIMIT)  # all are measured
