"""What processes hold, each measured by itself: page faults are counted, not timed, and settings stay in it."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

FAULTS_OF_THE_SECOND_HALF = """
import resource, sys, torch
from pkd_tune.distillation.memory import give_back_freed_memory, keep_freed_memory
torch.set_num_threads(1)
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for step in range(20):
    if step == 10:
        before = faults()
    blocks = [torch.ones(megabytes, 2**18) for megabytes in (40, 64, 90)]
    del blocks
print(faults() - before)
held = faults()
give_back_freed_memory()
torch.ones(64, 2**18)
print(faults() - held)
"""


def faults(mode: str) -> tuple[int, int]:
    command = [sys.executable, "-c", FAULTS_OF_THE_SECOND_HALF, mode]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    repeated, after_giving_back = map(int, output.split())
    return repeated, after_giving_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_freed_memory_is_used_again_until_it_is_given_back() -> None:
    usual, _ = faults("usual")
    kept, after_giving_back = faults("keep")
    pages = 64 * 2**20 // 4096
    assert usual > 10 * pages
    assert kept < pages
    assert after_giving_back > pages / 2


def measured(what: str, examples: int, folder: Path) -> dict[str, int]:
    """Returns what a process of its own held, in bytes."""
    script = Path(__file__).parents[1] / "many_examples.py"
    done = subprocess.run([sys.executable, script, what, str(examples), folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds beyond mapped files")
def test_a_training_holds_no_more_of_a_large_task_than_of_a_small_one(tmp_path: Path) -> None:
    """Some bytes an example (its length, its place in the epoch) are there; tokens and teacher outputs are not."""
    small, large = (measured("train", examples, tmp_path)["own"] for examples in (2_000, 400_000))
    said = f"{large / 1e6:.0f} MB with 400,000 examples, {small / 1e6:.0f} MB with 2,000"
    assert large < 1.5e9, said
    assert large - small < 400_000 * 150, said


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux says what a process holds beyond mapped files")
def test_the_teachers_outputs_are_built_in_a_stream(tmp_path: Path) -> None:
    peak = measured("build", 400_000, tmp_path)["peak"]
    assert peak < 2e9, f"{peak / 1e6:.0f} MB"
