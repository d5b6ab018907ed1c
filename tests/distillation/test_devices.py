"""The real training on fake CUDA tensors: no operation mixes devices, and no step waits for the GPU."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from fake_cuda import GUARD

COMPILER = shutil.which("c++")

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler to make a guard for CUDA with")


@pytest.fixture(scope="module")
def library(once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    def compile_guard(folder: Path) -> None:
        (folder / "guard.cpp").write_text(GUARD)
        of_torch = Path(torch.__file__).parent
        command = [str(COMPILER), "-O0", "-std=c++20", "-shared", "-fPIC", f"-I{of_torch / 'include'}", "-o"]
        command += [str(folder / "guard.so"), str(folder / "guard.cpp"), f"-L{of_torch / 'lib'}", "-lc10"]
        subprocess.run(command, check=True, timeout=120)

    return once("cuda-guard", compile_guard) / "guard.so"


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param((), marks=pytest.mark.slow, id="from memory"),
        pytest.param(("resident",), marks=pytest.mark.slow, id="resident"),
        pytest.param(("resident", "projection"), id="resident, with a projection"),
    ],
)
def test_a_training_keeps_to_its_gpu_and_no_step_waits_for_it(library: Path, flags: tuple[str, ...]) -> None:
    script = Path(__file__).parents[1] / "fake_cuda.py"
    done = subprocess.run([sys.executable, script, library, *flags], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["evaluations"] == 4 * 4
    in_steps = {what for what in told["seen"] if what.split(":")[0] in ("eager step", "capture", "replay")}
    assert in_steps <= {"eager step: asynchronous copy to the GPU"}
    by_inputs = {what for what in told["seen"] if what.startswith("inputs:")}
    assert by_inputs == ({"inputs: blocking copy to the GPU"} if "resident" in flags else set())  # ids, once an epoch
    assert told["seen"]["outside: item"] == 5 * told["evaluations"]  # mean losses and gradient norm, not every step
