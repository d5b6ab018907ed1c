"""Processes that take cores of this machine: real ones."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

needs_affinity = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform")

TAKE = """
import os, sys, threading
from pathlib import Path
from pkd_tune.tuning.cores import bind_to_cores
os.sched_setaffinity(0, map(int, sys.argv[3:]))
def take():
    print(*bind_to_cores(Path(sys.argv[1]), int(sys.argv[2])), "of", *sorted(os.sched_getaffinity(0)), flush=True)
for _ in sys.stdin:
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
"""


@contextmanager
def process(folder: Path, cores: list[str], wants: int = 1) -> Iterator["subprocess.Popen[str]"]:
    """A process that answers every line with the cores it took and those it may run on, each time in a new thread."""
    command = [sys.executable, "-c", TAKE, str(folder), str(wants), *cores]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def ask(asked: "subprocess.Popen[str]") -> list[str]:
    assert asked.stdin is not None
    assert asked.stdout is not None
    asked.stdin.write("\n")
    asked.stdin.flush()
    return asked.stdout.readline().split()


@needs_affinity
def test_no_two_processes_share_a_core_and_death_gives_it_back(tmp_path: Path, all_cores: set[int]) -> None:
    cores = [str(core) for core in sorted(all_cores)][:2]
    if len(cores) < 2:
        pytest.skip("this machine has one core only")
    with process(tmp_path, cores) as first, process(tmp_path, cores) as second:
        assert ask(first) == [cores[0], "of", cores[0]]
        assert ask(first) == [cores[0], "of", cores[0]]  # the next trial, in a thread of its own
        assert ask(second) == [cores[1], "of", cores[1]]
        first.kill()
        first.wait()
        with process(tmp_path, cores) as third, process(tmp_path / "another-search", cores) as fourth:
            assert ask(third) == [cores[0], "of", cores[0]]
            assert ask(fourth) == [cores[0], "of", cores[0]]


@needs_affinity
def test_where_all_are_taken_a_process_stays_free(tmp_path: Path, all_cores: set[int]) -> None:
    cores = [str(core) for core in sorted(all_cores)][:2]
    with ExitStack() as stack:
        last, *others = [stack.enter_context(process(tmp_path, cores)) for _ in range(len(cores) + 1)]
        assert sorted(ask(other)[0] for other in others) == cores
        assert ask(last) == ["of", *cores]


@needs_affinity
def test_a_process_that_finds_too_few_cores_takes_none(tmp_path: Path, all_cores: set[int]) -> None:
    cores = [str(core) for core in sorted(all_cores)][:2]
    if len(cores) < 2:
        pytest.skip("this machine has one core only")
    with process(tmp_path, cores) as first, process(tmp_path, cores, wants=2) as second:
        assert ask(first) == [cores[0], "of", cores[0]]
        assert ask(second) == ["of", *cores]
        first.kill()
        first.wait()
        assert ask(second) == [*cores, "of", *cores]
