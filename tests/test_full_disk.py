"""Disks that are full at any write: one line, nothing half-written, and the same command continues with more space."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny import SPACE

SEARCH = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--depths", "1", "2", "--space", "space.toml")
Mount = Callable[[Path, int], None]


@pytest.fixture
def mount() -> Iterator[Mount]:
    """Yields a function that makes a folder a file system of so many KiB, or changes its size."""
    mounted: list[Path] = []

    def resize(folder: Path, size: int) -> None:
        options = f"{'remount,' if folder in mounted else ''}size={size}k"
        folder.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        mounted.append(folder)

    yield resize
    for folder in set(mounted):
        subprocess.run(["umount", "-l", folder], check=True)


def used(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 1024


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["data", "results"])
def test_a_full_disk_is_one_line_and_the_same_command_continues(
    name: str, mount: Mount, tiny_data: Path, tmp_path: Path
) -> None:
    """From a disk that holds hardly more than the inputs, with 64 KiB more at every repeat, until the search ends."""
    (tmp_path / "space.toml").write_text(SPACE)
    shutil.copytree(
        tiny_data, tmp_path / "inputs", ignore=shutil.ignore_patterns("data_feat", "finetuned", "teacher_*")
    )
    size = used(tmp_path / "inputs") + 40 if name == "data" else 40
    mount(tmp_path / name, size)
    shutil.copytree(tmp_path / "inputs", tmp_path / "data", dirs_exist_ok=True)
    said = []
    while True:
        command = [sys.executable, "-m", "pkd_tune.search", *SEARCH, "--quiet"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        if done.returncode == 0:
            break
        assert "Traceback" not in done.stderr, done.stderr
        last = done.stderr.splitlines()[-1]
        assert done.returncode in (1, 2), done.stderr
        assert "No space left on device; free some space there" in last or "on a larger disk" in last, done.stderr
        assert not list((tmp_path / name).rglob("*.partial"))
        said.append(last)
        size += 64
        mount(tmp_path / name, size)
    assert len(said) > 2
    assert len(set(said)) > 1  # at several writes
