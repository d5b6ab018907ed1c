"""Where trials run: how many at once, on what."""

import os
from dataclasses import dataclass

import torch

from pkd_tune.config import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Slots:
    """Room for a number of trials at once."""

    device: str
    """`cpu` or `cuda`."""
    count: int
    """One per GPU, or one per CPU core."""


def choose_slots(gpus: int | None) -> Slots:
    """Returns a slot for each GPU asked for; for 0, a slot for each CPU core; for None, all GPUs found, else the CPU.

    Raises:
        UserError: When there are fewer GPUs than asked for.
    """
    found = torch.cuda.device_count()
    if gpus is not None and gpus < 0:
        raise UserError(f"--gpus must be 0 or more, but got {gpus}")
    if gpus is not None and gpus > found:
        raise UserError(
            f"--gpus {gpus}: only {found} found here; give --gpus {found}" + (" (CPU)" if not found else "")
        )
    wanted = found if gpus is None else gpus
    if wanted:
        return Slots(device="cuda", count=wanted)
    return Slots(device="cpu", count=len(os.sched_getaffinity(0)))
