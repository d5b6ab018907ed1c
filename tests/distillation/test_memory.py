"""Page faults are counted, not timed; in a process of its own, since the settings stay."""

import platform
import subprocess
import sys

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
