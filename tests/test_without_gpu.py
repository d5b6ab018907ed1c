"""`pytest -m gpu` on a machine without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_tests_that_need_a_gpu_are_skipped_where_there_is_none() -> None:
    """In one process: the tests would otherwise share the GPU, and disturb each other's measurements."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "-rs", "-p", "no:cacheprovider", "tests/gpu/test_demo.py"],
        cwd=ROOT,
        env={**environment, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "there is no CUDA GPU here" in done.stdout
    assert re.search(r"=+ 1 skipped in ", done.stdout.splitlines()[-1]), done.stdout
    assert "workers" not in done.stdout
