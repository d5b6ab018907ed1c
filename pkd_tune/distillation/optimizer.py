"""The optimiser of a training."""

from typing import Any

import torch
from torch import Tensor

ADAM_EPSILON = 1e-6
"""BERT's own value, a hundred times PyTorch's default."""


def make_optimizer(
    trained: list[tuple[str, torch.nn.Parameter]], learning_rate: float | Tensor, *, capturable: bool
) -> torch.optim.AdamW:
    """Returns the optimiser of named parameters; the first group decays, biases and LayerNorms do not.

    Args:
        trained: Names and parameters.
        learning_rate: A tensor where steps are captured.
        capturable: Whether steps are captured.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in trained:
        (plain if name.endswith("bias") or "LayerNorm" in name else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, eps=ADAM_EPSILON, fused=True, capturable=capturable)
