"""The demo's files, written once for all tests that only read them."""

from pathlib import Path

import pytest

from pkd_tune.glue.demo import DEMO_TASKS, write_demo


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a data folder that tests share and must not change: every task's demo side by side."""
    data_dir = tmp_path_factory.mktemp("demo")
    for task in DEMO_TASKS:
        write_demo(data_dir, task)
    return data_dir
