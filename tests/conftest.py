"""What every test may use: tiny data that tests share, and a space whose training runs take a second."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from tiny import SPACE, TINY_SEARCH, write_bert, write_mrpc

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network
os.environ["OMP_NUM_THREADS"] = "1"  # models are tiny: more threads only wait for each other
ALL_CORES = os.sched_getaffinity(0)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Each test process, and what it starts, keeps to a core of its own: a search then has one slot, and starts one
    # process for its trials, which takes longer to start than tiny trials do.
    os.sched_setaffinity(0, {sorted(ALL_CORES)[int(worker.removeprefix("gw")) % len(ALL_CORES)]})


LONGEST = (
    *("test_methods", "test_search", "test_runner", "test_export", "test_cluster"),  # whole searches, Ray, ONNX
    *("test_interleaving", "test_finetune", "test_dry_run", "test_report", "test_cores", "test_process"),
    *("test_train_step", "test_student", "test_conversion", "test_dashboard"),
)
"""Files of tests by the time they take, the longest first."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Keeps tests that need a GPU in one process, as by `-n 0`: at once they would disturb each other's measurements.

    None: as many processes as cores.
    """
    return 0 if re.search(r"(?<!not )\bgpu\b", config.option.markexpr) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: begun last, one of them would leave a test process without work.

    Tests marked `gpu` are skipped where there is none.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))
    of_gpu = [item for item in items if item.get_closest_marker("gpu") is not None]
    if of_gpu:
        import torch  # only here: it takes seconds

        for item in of_gpu if not torch.cuda.is_available() else ():
            item.add_marker(pytest.mark.skip(reason="there is no CUDA GPU here"))


@pytest.fixture(scope="session")
def all_cores() -> set[int]:
    """Returns the cores this machine has, for a test that needs several slots."""
    return ALL_CORES


Make = Callable[[Path], object]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Make], Path]:
    """Returns a function that returns a folder after making its content, once for all test processes of this run.

    Tests share the folder and must not change it.
    """
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / "shared"
    shared.mkdir(exist_ok=True)

    def make_once(name: str, make: Make) -> Path:
        folder = shared / name
        with FileLock(shared / f"{name}.lock"):
            if not (shared / f"{name}.done").exists():
                folder.mkdir()
                make(folder)
                (shared / f"{name}.done").touch()
        return folder

    return make_once


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder that the tests of a process share and must not change: MRPC and the model `tiny`."""
    data_dir = tmp_path_factory.mktemp("tiny") / "data"
    write_mrpc(data_dir / "data_raw" / "MRPC")
    write_bert(data_dir / "models" / "pretrained" / "tiny")
    return data_dir


@pytest.fixture
def tiny_space(tmp_path: Path) -> Path:
    """Returns a space file whose training runs take a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def tiny_search(once: Callable[[str, Make], Path], tiny_data: Path) -> Path:
    """Returns a working folder in which a search has run, two trials of one layer and two of three, on two cores.

    It holds data/, results/MRPC/tiny/, space.toml, and what the command printed in stdout.txt and stderr.txt.
    """

    def make(home: Path) -> None:
        shutil.copytree(tiny_data, home / "data")
        (home / "space.toml").write_text(SPACE.replace("epochs = 2", "epochs = 6"))
        cores = ",".join(map(str, sorted(ALL_CORES)[:2]))
        command = ["taskset", "--cpu-list", cores, sys.executable, "-m", "pkd_tune.search", *TINY_SEARCH]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (home / "stdout.txt").write_text(done.stdout)
        (home / "stderr.txt").write_text(done.stderr)

    return once("tiny-search", make)


@pytest.fixture(scope="session")
def tiny_run(tiny_search: Path) -> Path:
    """Returns the run folder of the shared search."""
    return tiny_search / "results" / "MRPC" / "tiny"
