"""What every test may use: tiny data that tests share, and a space whose trainings take a second."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import SPACE, write_bert, write_mrpc

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for the network
os.environ["OMP_NUM_THREADS"] = "1"  # models are tiny: more threads only wait for each other
ALL_CORES = os.sched_getaffinity(0)
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # Each test process, and what it starts, keeps to a core of its own: a search then has one slot, and starts one
    # process for its trials, which takes longer to start than tiny trials do.
    os.sched_setaffinity(0, {sorted(ALL_CORES)[int(worker.removeprefix("gw")) % len(ALL_CORES)]})


LONGEST = ("test_interruptions", "test_methods", "test_export", "test_search", "test_engine", "test_finetune")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first: begun last, one of them would leave a test process without work."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture(scope="session")
def all_cores() -> set[int]:
    """Returns the cores this machine has, for a test that needs several slots."""
    return ALL_CORES


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder that tests share and must not change: MRPC and the model `tiny`."""
    data_dir = tmp_path_factory.mktemp("tiny") / "data"
    write_mrpc(data_dir / "data_raw" / "MRPC")
    write_bert(data_dir / "models" / "pretrained" / "tiny")
    return data_dir


@pytest.fixture
def tiny_space(tmp_path: Path) -> Path:
    """Returns a space file whose trainings take a second."""
    path = tmp_path / "tiny.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Returns the run folder of a finished search that tests share and must not change: two trials of one layer."""
    home = tmp_path_factory.mktemp("searched")
    shutil.copytree(tiny_data, home / "data")
    (home / "space.toml").write_text(SPACE.replace("epochs = 2", "epochs = 6"))
    flags = ["--task", "MRPC", "--teacher", "tiny", "--depths", "1", "--trials", "2", "--space", "space.toml"]
    flags += ["--control-trials", "0", "--seeds", "0"]
    command = [sys.executable, "-m", "pkd_tune.search", "--gpus", "0", *flags]
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return home / "results" / "MRPC" / "tiny"
