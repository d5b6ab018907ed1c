"""Where trials run: how many at once, on what."""

import os
from dataclasses import dataclass, replace

from pkd_tune.config import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Room for a number of trials at once."""

    device: str
    """`cpu` or `cuda`."""
    count: int
    """Trials at once, over all machines."""
    per_gpu: int = 1
    """Trials that share a GPU; without meaning on the CPU."""
    threads: int = 1
    """CPU cores for each trial."""

    @property
    def resources(self) -> dict[str, float]:
        """What Ray reserves for one trial."""
        return {"cpu": self.threads, **({"gpu": 1 / self.per_gpu} if self.device == "cuda" else {})}


def choose_resources(gpus: int | None, per_gpu: int | None = None) -> Resources:
    """Returns the slots of this machine.

    Args:
        gpus: A slot, or several, for each; 0: a slot for each CPU core; None: all GPUs found, else the CPU.
        per_gpu: Trials that share a GPU; None: one each.

    Raises:
        UserError: When there are fewer GPUs than asked for, or none for trials to share.
    """
    import torch  # takes seconds, which --help need not wait for

    return resources_among(torch.cuda.device_count(), len(os.sched_getaffinity(0)), gpus, per_gpu)


def gpu_names() -> list[str]:
    """Returns what this machine's GPUs are called, one name for each."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def resources_among(found_gpus: int, cores: int, gpus: int | None, per_gpu: int | None) -> Resources:
    """Returns the slots of a machine, or a cluster, that has these GPUs and CPU cores.

    Args:
        found_gpus: How many there are.
        cores: How many there are.
        gpus: As in `choose_resources()`.
        per_gpu: As in `choose_resources()`.

    Raises:
        UserError: When there are fewer GPUs than asked for, or none for trials to share.
    """
    if gpus is not None and gpus < 0:
        raise UserError(f"--gpus must be 0 or more, but got {gpus}")
    if gpus is not None and gpus > found_gpus:
        cpu = " (CPU)" if not found_gpus else ""
        raise UserError(f"--gpus {gpus}: only {found_gpus} found here; give --gpus {found_gpus}{cpu}")
    wanted = found_gpus if gpus is None else gpus
    if wanted:
        share = per_gpu or 1
        return Resources(device="cuda", count=wanted * share, per_gpu=share)
    if per_gpu:
        raise UserError(f"--trials-per-gpu {per_gpu}: trials run on the CPU; leave it out")
    return Resources(device="cpu", count=max(1, cores))


def share_cores(resources: Resources, trials: int, trial_bytes: int, free_bytes: int) -> Resources:
    """Returns a CPU's slots for one search: a core for each is fastest, while there are trials and memory for all.

    Where whole cores for each are left over, the trials get several.

    Args:
        slots: One for each core.
        trials: How many there will be.
        trial_bytes: What one takes of memory.
        free_bytes: What they may take together.
    """
    count = max(1, min(resources.count, trials, free_bytes // trial_bytes))
    return replace(resources, count=count, threads=resources.count // count)
