"""What limits CPU time and memory: control groups of both versions, wherever they are set, and batch systems."""

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from pkd_tune.tuning.limits import free_memory, limit_threads, usable_cores

CORES = 8


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(CORES)))


def groups(folder: Path, membership: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Writes control groups; returns where they are mounted and the file of memberships."""
    (folder / "self").write_text(membership)
    for name, text in files.items():
        (folder / "mount" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "mount" / name).write_text(text)
    return folder / "mount", folder / "self"


V1 = "12:cpuset:/a/b\n4:cpu,cpuacct:/a/b\n3:memory:/a/b\n"


@pytest.mark.parametrize(
    ("membership", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "100000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, CORES),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/job/step\n", {"job/step/cpu.max": "max 100000\n", "job/cpu.max": "350000 100000\n"}, 3),
        ("0::/on/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        (V1, {"cpu,cpuacct/a/b/cpu.cfs_quota_us": "-1\n", "cpu,cpuacct/a/b/cpu.cfs_period_us": "100000\n"}, CORES),
        (V1, {"cpu,cpuacct/a/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/a/cpu.cfs_period_us": "100000\n"}, 4),
        (V1, {"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ("", {}, CORES),
    ],
)
def test_cores_are_those_that_control_groups_leave(
    membership: str, files: dict[str, str], cores: int, tmp_path: Path
) -> None:
    assert usable_cores(*groups(tmp_path, membership, files), {}) == cores


@pytest.mark.parametrize(
    ("environment", "cores"),
    [
        ({"SLURM_CPUS_PER_TASK": "3"}, 3),
        ({"SLURM_CPUS_PER_TASK": "64"}, CORES),
        ({"PBS_NCPUS": "4", "NCPUS": "2"}, 2),
        ({"SLURM_CPUS_PER_TASK": ""}, CORES),
        ({"NSLOTS": "undefined"}, CORES),
    ],
)
def test_cores_are_those_that_a_batch_system_gave(environment: dict[str, str], cores: int, tmp_path: Path) -> None:
    assert usable_cores(*groups(tmp_path, "", {}), environment) == cores


def test_cores_are_all_where_a_platform_has_no_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores(*groups(tmp_path, "", {}), {}) == os.cpu_count()


@pytest.mark.parametrize(("before", "after"), [(6, 3), (2, 2)])
def test_threads_are_no_more_than_the_cores_that_control_groups_leave(before: int, after: int, tmp_path: Path) -> None:
    """And fewer where the user says so by `OMP_NUM_THREADS`, which torch reads when it is imported."""
    usual = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        limit_threads(*groups(tmp_path, "0::/\n", {"cpu.max": "300000 100000\n"}), {})
        assert torch.get_num_threads() == after
    finally:
        torch.set_num_threads(usual)


SECOND = {
    "memory.max": "4000000000\n",
    "memory.current": "1000000000\n",
    "memory.stat": "anon 700000000\nactive_file 100000000\ninactive_file 200000000\n",
}
FIRST = {
    "memory.limit_in_bytes": "4000000000\n",
    "memory.usage_in_bytes": "1000000000\n",
    "memory.stat": "active_file 1\ninactive_file 2\ntotal_active_file 0\ntotal_inactive_file 300000000\n",
}


@pytest.mark.parametrize(
    ("membership", "files"),
    [
        ("0::/\n", SECOND),
        ("0::/pod/container\n", {f"pod/{name}": text for name, text in SECOND.items()}),
        ("0::/\n", {**SECOND, "memory.max": "max\n", "memory.high": "4000000000\n"}),
        ("0::/\n", {**SECOND, "memory.max": "9000000000\n", "memory.high": "4000000000\n"}),
        ("0::/\n", {**SECOND, "memory.high": "9000000000\n"}),
        (V1, {f"memory/{name}": text for name, text in FIRST.items()}),
        (V1, {f"memory/a/b/{name}": text for name, text in FIRST.items()}),
    ],
)
def test_memory_is_what_control_groups_leave(
    membership: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a limit, what programs use is taken, and what is held of files is not."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    assert free_memory(*groups(tmp_path, membership, files), {}) == 3_300_000_000
    assert free_memory(*groups(tmp_path, membership, files), {"SLURM_MEM_PER_NODE": "1000"}) == 1000 * 2**20


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_ON_NODE": "4", "SLURM_CPUS_PER_TASK": "2"}, 2000),
        ({"SLURM_MEM_PER_CPU": "500", "SLURM_CPUS_PER_TASK": "2"}, 1000),
        ({"SLURM_MEM_PER_CPU": "500"}, 500),
        ({"SLURM_MEM_PER_CPU": "0", "SLURM_MEM_PER_NODE": "900"}, 900),  # 0: all of the node's
    ],
)
def test_memory_is_what_a_batch_system_gave(
    environment: dict[str, str], megabytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10**12))
    assert free_memory(*groups(tmp_path, "", {}), environment) == megabytes * 2**20


def test_memory_is_the_machines_where_nothing_limits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    available = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: available)
    unlimited = {**SECOND, "memory.max": "max\n", "memory.high": "max\n"}
    assert free_memory(*groups(tmp_path, "0::/\n", unlimited), {}) == available.available
