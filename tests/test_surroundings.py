"""Whole searches where a machine lacks something: an entry for the user, a home, cores, UTF-8, locks, hard links."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny import SPACE, write_bert, write_mrpc

pytestmark = pytest.mark.slow

SEARCH = (
    *("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--space", "space.toml"),
    *("--depths", "1", "--trials", "1"),
)
NOBODY = 61003
"""A user without an entry in /etc/passwd."""
OF_PYTHON = ("PYTHON", "LC_", "LANG")


@pytest.fixture
def home() -> Iterator[Path]:
    """Yields a working folder that every user of the machine may enter."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        write_mrpc(folder / "data" / "data_raw" / "MRPC")
        write_bert(folder / "data" / "models" / "pretrained" / "tiny")
        (folder / "space.toml").write_text(SPACE)
        yield folder


def run(
    home: Path, module: str, *flags: str, environment: Mapping[str, str] | None = None, **others: Any
) -> subprocess.CompletedProcess[str]:
    """Runs a command; what it prints is read as UTF-8."""
    command = [sys.executable, "-m", f"pkd_tune.{module}", *flags]
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, encoding="utf-8", timeout=350, **others
    )


def check_run(home: Path, done: subprocess.CompletedProcess[str]) -> None:
    """Checks that a search has left a report and a student, and has printed no traceback."""
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    run_dir = home / "results" / "MRPC" / "tiny"
    assert (run_dir / "report.html").is_file()
    assert (run_dir / "best" / "1-layer" / "model.safetensors").is_file()


def test_a_user_without_entry_and_writable_home_searches_with_a_long_temporary_folder(home: Path) -> None:
    """As in a container that is run with a number for a user."""
    if os.getuid():
        pytest.skip("only root can be another user")
    environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    as_nobody: dict[str, Any] = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    try:
        probe = [sys.executable, "-c", "import pkd_tune"]
        subprocess.run(probe, cwd="/", env=environment, check=True, **as_nobody)
    except (PermissionError, subprocess.CalledProcessError):
        pytest.skip("this installation cannot be read by other users")
    temporary = home / "tmp" / ("x" * (100 - len(str(home / "tmp")) - 1))
    temporary.mkdir(parents=True)
    (home / "of-user").mkdir(mode=0o555)
    for folder in (home, temporary, *(home / "data").rglob("*"), home / "data"):
        os.chown(folder, NOBODY, NOBODY)
    for variables in ({"HOME": str(home / "of-user")}, {}):
        shutil.rmtree(home / "results", ignore_errors=True)
        done = run(
            home, "search", *SEARCH, environment={**environment, "TMPDIR": str(temporary), **variables}, **as_nobody
        )
        check_run(home, done)
    assert [path.name for path in temporary.iterdir()] == [
        f"torchinductor_uid_{NOBODY}"
    ]  # PyTorch's, made as it starts
    assert list((temporary / f"torchinductor_uid_{NOBODY}").iterdir()) == []
    assert list((home / "of-user").iterdir()) == []


def test_a_terminal_of_ascii_gets_every_message(home: Path) -> None:
    """`±` and `–` are none of its letters; files are UTF-8 all the same."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OF_PYTHON)}
    environment |= {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii"}
    (home / "data/data_raw/MRPC/train.tsv").open("a", encoding="utf-8").write("1\t1\t2\tthé réd .\tthé réd same .\n")
    done = run(home, "search", *SEARCH, environment=environment)
    check_run(home, done)
    assert done.stderr.isascii()
    assert done.stdout.isascii()
    run_dir = home / "results" / "MRPC" / "tiny"
    (home / "new.csv").write_text("sentence1,sentence2\nthé réd .,thé réd same .\n", encoding="utf-8")
    for command in (
        ("report", str(run_dir)),
        ("predict", "--task", "MRPC", "--model", str(run_dir / "best/1-layer"), "--gpus", "0"),
        ("export", str(run_dir), "--to", "exported"),
    ):
        again = run(home, *command, environment=environment)
        assert again.returncode == 0, again.stderr
        assert again.stderr.isascii()
    (run_dir / "report.md").read_text(encoding="utf-8")


LIMIT = "100000"


@pytest.fixture
def one_core() -> Iterator[Path]:
    """Yields a control group, of either version, whose processes have the time of one core."""
    for parent, name, limit in (
        (Path("/sys/fs/cgroup"), "cpu.max", f"{LIMIT} {LIMIT}"),
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us", LIMIT),
    ):
        group = parent / f"pkd-{os.getpid()}"
        if (parent / "cgroup.procs").exists() and os.access(parent, os.W_OK):
            group.mkdir()
            try:
                if (group / name).exists():
                    (group / name).write_text(limit)
                    yield group
                    return
            finally:
                group.rmdir()
    pytest.skip("no control group can be made here")


def test_a_container_with_one_core_runs_one_trial_at_once(home: Path, one_core: Path) -> None:
    def enter() -> None:
        (one_core / "cgroup.procs").write_text(str(os.getpid()))

    done = run(home, "search", *SEARCH, preexec_fn=enter)
    check_run(home, done)
    assert "1 trial at once on cpu" in done.stderr


SHIM = """
#define _GNU_SOURCE
#include <errno.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
int link(const char *from, const char *to) { errno = EPERM; return -1; }
int linkat(int a, const char *from, int b, const char *to, int flags) { errno = EPERM; return -1; }
int flock(int file, int operation) {
    if (getenv("NO_LOCKS")) { errno = ENOLCK; return -1; }
    return ((int (*)(int, int)) dlsym(RTLD_NEXT, "flock"))(file, operation);
}
"""
"""A file system without hard links, and with NO_LOCKS without locks either, as some on a network or of FUSE are."""


@pytest.fixture
def shim(tmp_path: Path) -> Path:
    if shutil.which("gcc") is None:
        pytest.skip("no C compiler")
    (tmp_path / "shim.c").write_text(SHIM)
    command = ["gcc", "-shared", "-fPIC", "-o", "shim.so", "shim.c", "-ldl"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "shim.so"


def test_a_file_system_without_hard_links_is_enough(home: Path, shim: Path) -> None:
    check_run(home, run(home, "search", *SEARCH, environment={**os.environ, "LD_PRELOAD": str(shim)}))


def test_a_file_system_without_locks_is_named_in_one_line(home: Path, shim: Path) -> None:
    environment = {**os.environ, "LD_PRELOAD": str(shim), "NO_LOCKS": "1"}
    done = run(home, "search", *SEARCH, environment=environment)
    assert done.returncode == 2
    (line,) = {line for line in done.stderr.splitlines() if "lock a file" in line and "--out" in line}
    assert "refuses to lock a file (No locks available); give a folder on another one" in line
    assert "Traceback" not in done.stderr
