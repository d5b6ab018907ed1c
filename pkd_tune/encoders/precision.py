"""Precision of matrix products: fp32, or bf16 autocast where the device supports it.

torch is imported inside the functions, because commands import this module to check a flag, and torch takes seconds.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pkd_tune.config import Precision, UserError

if TYPE_CHECKING:
    import torch


def has_bf16(device: str) -> bool:
    """Returns whether this machine's `cpu` or `cuda` supports bf16, not counting emulation."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The public torch.cpu.get_capabilities() is missing from older supported releases.
    return bool(torch.cpu._is_avx512_bf16_supported())


def check_precision(precision: Precision, device: str) -> None:
    """Checks that this machine's `cpu` or `cuda` supports a precision.

    Raises:
        UserError: When bf16 is requested and not supported.
    """
    if precision == "bf16" and not has_bf16(device):
        raise UserError(
            f"--precision bf16: the {device.upper()} of this machine does not support bf16; give --precision fp32, or "
            "auto, which uses bf16 where it is supported"
        )


def mixed_precision(device: "torch.device", precision: Precision) -> "torch.autocast | nullcontext[None]":
    """Returns bf16 autocast, or a context that does nothing.

    Master weights, losses and optimiser state are fp32 in any case.

    Args:
        device: Where the model runs.
        precision: `auto` is bf16 where the device supports it, else fp32.

    Raises:
        UserError: When bf16 is requested and not supported.
    """
    import torch

    check_precision(precision, device.type)
    if precision == "fp32" or not has_bf16(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
