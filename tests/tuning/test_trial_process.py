"""Trial processes: real ones, which hold memory."""

import platform
import subprocess
import sys

import pytest
import torch

from pkd_tune.tuning import trial_process
from pkd_tune.tuning.trial_process import begin_trial

HOLD_THE_LAST = """
import sys, threading, torch
from pathlib import Path
from pkd_tune.tuning.trial_process import begin_trial
kept = []
def own():
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon"))
def trial():
    blocks = [bytearray(100_000) for _ in range(2_000)]
    kept.append(blocks[-1])  # what is freed below it is not at the end of the heap
before = own()
thread = threading.Thread(target=trial)
thread.start()
thread.join()
after = own()
begin_trial(threads=3)
print(after - before, own() - before, torch.get_num_threads())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc keeps memory in this way")
def test_memory_that_a_trial_freed_is_given_back_before_the_next() -> None:
    """Each trial has a thread of its own, and glibc a heap for each thread: freed memory would pile up there."""
    done = subprocess.run([sys.executable, "-c", HOLD_THE_LAST], capture_output=True, text=True, check=True)
    held, held_by_the_next, threads = map(int, done.stdout.split())
    assert held > 150_000
    assert held_by_the_next < 20_000
    assert threads == 3


def test_a_process_in_which_cuda_cannot_be_used_any_more_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch, which takes a failed capture to be going on, then refuses to give memory back."""

    def refuse() -> None:
        raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    monkeypatch.setattr(torch.cuda, "empty_cache", refuse)
    monkeypatch.setattr(trial_process, "_retired", "the trial before ended with RuntimeError")
    assert begin_trial(threads=None) == "the trial before ended with RuntimeError"
