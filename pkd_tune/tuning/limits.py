"""CPU cores and memory that this process may use: of the machine, its container, and the job it runs in.

Containers, Kubernetes and Slurm limit CPU time and memory by control groups, of the process or of a group around it;
batch systems also say in environment variables what a job was given.
"""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

GROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
"""Where Linux mounts control groups, and where it says which ones this process is in; cgroups(7)."""

JOB_CORES = ("SLURM_CPUS_PER_TASK", "PBS_NCPUS", "NCPUS", "LSB_DJOB_NUMPROC", "NSLOTS")
"""Variables in which Slurm, PBS, LSF and Grid Engine say how many cores a job's process has on its node."""
JOB_MEGABYTES = ("SLURM_MEM_PER_NODE",)
"""Variables in which Slurm says how much memory a job has on its node, in MiB."""
JOB_MEGABYTES_PER_CORE, CORES_OF_NODE = "SLURM_MEM_PER_CPU", ("SLURM_CPUS_ON_NODE", "SLURM_CPUS_PER_TASK")
"""Variables in which Slurm says that instead for each core that the job has on its node, and how many these are."""


def usable_cores(
    groups: Path = GROUPS, membership: Path = MEMBERSHIP, environment: Mapping[str, str] = os.environ
) -> int:
    """Returns how many CPU cores this process may use, at least 1.

    The smallest of: the cores it may run on, the CPU time of its control groups (part of a core counts as none), and
    what the batch system gave the job. Slurm's `--cpus-per-task` is of one task, which a command is.

    Args:
        groups: Where control groups are mounted.
        membership: The file that says which ones this process is in.
        environment: Environment variables.
    """
    # macOS has no affinity.
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    of_groups = [quota for folder in _groups("cpu", groups, membership) if (quota := _cores_of(folder)) is not None]
    of_job = [float(text) for name in JOB_CORES if (text := environment.get(name, "")).isdigit() and int(text)]
    return max(1, math.floor(min([bound, *of_groups, *of_job])))


def limit_threads(
    groups: Path = GROUPS, membership: Path = MEMBERSHIP, environment: Mapping[str, str] = os.environ
) -> None:
    """Has torch compute in this process with no more threads than `usable_cores()`.

    Its own default is that of the machine, or `OMP_NUM_THREADS`; where that is fewer threads, it stays.
    """
    import torch  # takes seconds, which --help need not wait for

    torch.set_num_threads(min(torch.get_num_threads(), usable_cores(groups, membership, environment)))


def free_memory(
    groups: Path = GROUPS, membership: Path = MEMBERSHIP, environment: Mapping[str, str] = os.environ
) -> int:
    """Returns the bytes of memory that are left to this process: of the machine, of its control groups, of its job.

    Args:
        groups: Where control groups are mounted.
        membership: The file that says which ones this process is in.
        environment: Environment variables.
    """
    of_groups = [left for folder in _groups("memory", groups, membership) if (left := _bytes_left(folder)) is not None]
    of_job = [int(text) * 2**20 for name in JOB_MEGABYTES if (text := environment.get(name, "")).isdigit()]
    cores = next((int(text) for name in CORES_OF_NODE if (text := environment.get(name, "")).isdigit()), 1)
    if (text := environment.get(JOB_MEGABYTES_PER_CORE, "")).isdigit():
        of_job.append(int(text) * 2**20 * cores)
    return min([psutil.virtual_memory().available, *of_groups, *filter(None, of_job)])


def _groups(controller: str, mount: Path, membership: Path) -> Iterator[Path]:
    """Yields the folders of the control groups of this process, of version 2 and 1, and of the groups around them.

    In a container the paths in `membership` may be those of the host; the container's own group is then mounted at
    the top, which is among the folders in any case.
    """
    lines = membership.read_text(encoding="utf-8").splitlines() if membership.exists() else []
    for line in [*lines, "0::/", f"0:{controller}:/"]:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for top in {mount / controllers, mount / controller} if controllers else {mount, mount / "unified"}:
            folder = top / path.lstrip("/")
            while folder.is_relative_to(top):
                yield folder
                folder = folder.parent


def _cores_of(group: Path) -> float | None:
    """Returns the CPU time that a control group may use, in cores; None where it sets no limit.

    Version 2 has quota and period in `cpu.max`, version 1 in `cpu.cfs_quota_us` and `cpu.cfs_period_us`.
    """
    quota, period = "", ""
    if (group / "cpu.max").exists():
        quota, period = (group / "cpu.max").read_text().split()
    elif (group / "cpu.cfs_quota_us").exists():
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() else None  # no limit is `max` or -1


def _bytes_left(group: Path) -> int | None:
    """Returns the bytes of memory that a control group has left; None where it sets no limit.

    What it holds of files counts as left: the system gives that up when it is asked for memory. Version 2 has two
    limits: above `memory.max` processes are killed, and above `memory.high` they are slowed down.
    """
    for limits, used, total in (
        (("memory.max", "memory.high"), "memory.current", ""),
        (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_"),
    ):
        texts = [(group / limit).read_text().strip() for limit in limits if (group / limit).exists()]
        if allowed := [int(text) for text in texts if text.isdigit()]:
            held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            files = int(held[f"{total}active_file"]) + int(held[f"{total}inactive_file"])
            return min(allowed) - int((group / used).read_text()) + files
    return None
