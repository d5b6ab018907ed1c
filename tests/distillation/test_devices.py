"""The real training on fake CUDA tensors: no operation mixes devices, and no step waits for the GPU."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


ASYNCHRONOUS, BLOCKING = "asynchronous copy to the GPU", "blocking copy to the GPU"


@pytest.mark.parametrize(
    ("size", "trainings", "variants"),
    [
        ("few", 1, {"resident": 1, "memory": 1}),
        pytest.param("resident", 4, {"resident": 2}, marks=pytest.mark.slow),
        pytest.param("memory", 4, {"memory": 2}, marks=pytest.mark.slow),
    ],
)
def test_a_training_keeps_to_its_gpu_and_no_step_waits_for_it(
    library: Path, size: str, trainings: int, variants: dict[str, int]
) -> None:
    """With examples on the GPU, and from the host's memory: with a projection and without, one each where few are."""
    script = Path(__file__).parents[1] / "fake_cuda.py"
    done = subprocess.run([sys.executable, script, library, size], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {place: len(each) for place, each in told.items()} == variants
    for place, each in told.items():
        for training in each:
            check_phases(training, trainings, resident=place == "resident")


def check_phases(told: dict[str, Any], trainings: int, *, resident: bool) -> None:
    """Checks what a training did in steps, in between, and when it was evaluated."""
    evaluations = told["evaluations"]
    assert evaluations == 4 * trainings
    seen: dict[str, set[str]] = {}
    for what in told["seen"]:
        phase, _, did = what.partition(": ")
        seen.setdefault(phase, set()).add(did)
    of_steps = {phase: seen.get(phase, set()) for phase in ("eager step", "replay inputs", "capture", "replay")}
    copies = set() if resident else {ASYNCHRONOUS}  # resident examples are gathered there
    assert of_steps == {"eager step": copies, "replay inputs": copies, "capture": set(), "replay": set()}
    assert seen.get("inputs", set()) == ({BLOCKING} if resident else set())  # ids, once an epoch
    assert told["seen"]["outside: item"] == 5 * evaluations  # mean losses and gradient norm, not every step
    # Its copies are plain ones: ids, types, mask and labels of one batch; logits, for the similarity too, and [CLS].
    assert seen["evaluation"] == {BLOCKING, "copy from the GPU"}
    assert told["seen"][f"evaluation: {BLOCKING}"] == 4 * evaluations
    assert told["seen"]["evaluation: copy from the GPU"] <= 3 * evaluations
