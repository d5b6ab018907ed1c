"""In which number format matrices are multiplied.

Commands import this module to check a flag: torch, which takes seconds, is loaded only where it is asked something.
"""

from contextlib import nullcontext
from typing import TYPE_CHECKING

from pkd_tune.config import Precision, UserError

if TYPE_CHECKING:
    import torch


def has_bf16(device: str) -> bool:
    """Tells whether this machine's `cpu` or `cuda` multiplies bf16 matrices in hardware."""
    import torch

    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # The public torch.cpu.get_capabilities() is not in every release that we allow.
    return bool(torch.cpu._is_avx512_bf16_supported())


def check_precision(precision: Precision, device: str) -> None:
    """Refuses bf16 where this machine's `cpu` or `cuda` does not have it in hardware.

    Raises:
        UserError: With the remedy.
    """
    if precision == "bf16" and not has_bf16(device):
        raise UserError(
            f"--precision bf16: the {device.upper()} here does not multiply bf16 in hardware; give --precision fp32, "
            "or auto, which takes bf16 where it is there"
        )


def mixed_precision(device: "torch.device", precision: Precision) -> "torch.autocast | nullcontext[None]":
    """Returns bf16 autocast, or a context that does nothing.

    Master weights, losses and optimiser state stay fp32 either way.

    Args:
        device: Where the model runs.
        precision: `auto` is bf16 where the device has it in hardware.

    Raises:
        UserError: When bf16 is asked for and the device has it not.
    """
    import torch

    check_precision(precision, device.type)
    if precision == "fp32" or not has_bf16(device.type):
        return nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
