"""Where trials run: which devices they use, and how many run at once."""

from dataclasses import dataclass, replace
from typing import Any

from pkd_tune.config import UserError
from pkd_tune.tuning.limits import usable_cores


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The GPUs, or the CPU cores, that the trials of a search share; over all nodes of a cluster."""

    gpus: int = 0
    """GPUs in use; 0: trials run on the CPU."""
    trials_per_gpu: int = 1
    """Concurrent trials that share a GPU."""
    cpu_trials: int = 1
    """Concurrent trials where there is no GPU."""
    threads: int = 1
    """CPU cores reserved for each trial."""
    eager: str | None = None
    """Why training steps are not captured as CUDA graphs on GPUs; None: they are."""

    @property
    def device(self) -> str:
        """The device type of trials, as torch names it: `cuda` or `cpu`."""
        return "cuda" if self.gpus else "cpu"

    @property
    def count(self) -> int:
        """Concurrent trials."""
        return self.gpus * self.trials_per_gpu if self.gpus else self.cpu_trials

    @property
    def trial_resources(self) -> dict[str, float]:
        """What Ray reserves for one trial."""
        return {"cpu": self.threads, **({"gpu": 1 / self.trials_per_gpu} if self.gpus else {})}

    @property
    def record(self) -> dict[str, Any]:
        """The resources as run.json has them."""
        return {
            "device": self.device,
            "count": self.count,
            "per_gpu": self.trials_per_gpu,
            "threads": self.threads,
            **({"eager": self.eager} if self.gpus else {}),
        }


def choose_resources(gpus: int | None, trials_per_gpu: int | None = None) -> Resources:
    """Returns the resources of this machine.

    Args:
        gpus: How many GPUs to use; 0: the CPU, with a trial for each core; None: all GPUs found, else the CPU.
        trials_per_gpu: Concurrent trials that share a GPU; None: one.

    Raises:
        UserError: When there are fewer GPUs than asked for, or none for trials to share.
    """
    import torch  # takes seconds, which --help need not wait for

    return resolve_resources(torch.cuda.device_count(), usable_cores(), gpus, trials_per_gpu)


def gpu_names() -> list[str]:
    """Returns the product name of each GPU of this machine."""
    import torch

    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def resolve_resources(found_gpus: int, cores: int, gpus: int | None, trials_per_gpu: int | None) -> Resources:
    """Returns the resources of a machine, or a cluster.

    Args:
        found_gpus: GPUs it has.
        cores: CPU cores it has.
        gpus: As in `choose_resources()`.
        trials_per_gpu: As in `choose_resources()`.

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
        return Resources(gpus=wanted, trials_per_gpu=trials_per_gpu or 1)
    if trials_per_gpu:
        raise UserError(f"--trials-per-gpu {trials_per_gpu}: trials run on the CPU; leave it out")
    return Resources(cpu_trials=max(1, cores))


def share_cores(resources: Resources, trials: int, trial_bytes: int, free_bytes: int) -> Resources:
    """Returns a CPU's resources for one search: as many concurrent trials as there are trials and memory for.

    One core for each trial is fastest. Where there are more cores than concurrent trials, each trial gets several.

    Args:
        resources: One concurrent trial for each core.
        trials: Trials of the search.
        trial_bytes: Bytes of memory that one trial takes.
        free_bytes: Bytes of memory that all trials may take.
    """
    count = max(1, min(resources.count, trials, free_bytes // trial_bytes))
    return replace(resources, cpu_trials=count, threads=resources.count // count)


def share_gpus(resources: Resources, trials: int, room: int) -> Resources:
    """Returns the resources of a search on GPUs: trials share a GPU only where each has one, as far as there is room.

    Ray fills one GPU before it uses the next. So there are as many trials on each as all GPUs can have at once: 12
    trials on 8 GPUs run one on each, and the other 4 after them.

    Args:
        resources: The GPUs.
        trials: Trials of the search.
        room: Trials that a GPU has room for.
    """
    return replace(resources, trials_per_gpu=max(1, min(room, trials // resources.gpus)))
