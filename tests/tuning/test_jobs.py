"""Jobs on a real Ray: what comes back of them, and what happens when their processes die."""

import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runner_runs import TWO

from pkd_tune.config import MachineError, UserError
from pkd_tune.tuning import cluster
from pkd_tune.tuning.jobs import Done, Job, JobPlace, job_place, run_jobs
from pkd_tune.tuning.resources import Resources

ONE_CORE = JobPlace(cores=1, gpus=0, at_once=2)


def test_jobs_take_the_nodes_whose_cores_are_most_together() -> None:
    on_cpu = Resources(cpu_trials=8)
    assert job_place(on_cpu, 3, [8]) == JobPlace(cores=8, gpus=0, at_once=1)
    assert job_place(on_cpu, 3, [64, 1, 64]) == JobPlace(cores=64, gpus=0, at_once=2)
    assert job_place(on_cpu, 3, [16, 16, 12, 16]) == JobPlace(cores=16, gpus=0, at_once=3)
    assert job_place(on_cpu, 1, [4, 8]) == JobPlace(cores=8, gpus=0, at_once=1)
    on_gpus = Resources(gpus=2, trials_per_gpu=4)
    assert job_place(on_gpus, 3, [16, 16]) == JobPlace(cores=1, gpus=1, at_once=2)
    assert job_place(on_gpus, 1, [16, 16]) == JobPlace(cores=1, gpus=1, at_once=1)


@pytest.mark.slow
def test_what_jobs_report_and_log_comes_back_and_a_dead_one_starts_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reported: list[tuple[str, object]] = []

    def counts(to: int, report: Callable[[object], None]) -> list[int]:
        import torch

        logging.getLogger("pkd_tune.made_up").warning("counting to %d", to)
        for number in range(to):
            report(number)
        return [to, torch.get_num_threads()]

    def dies_once(marker: Path, report: Callable[[object], None]) -> str:
        if not marker.exists():
            report("first")
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        report("second")
        return "done"

    def note(name: str) -> Callable[[Any], None]:
        return lambda content: reported.append((name, content))

    with cluster.local_cluster(TWO, tmp_path / "log"):
        jobs = [
            Job(name="counting", function=counts, arguments=(3,), report=note("counting")),
            Job(name="dying", function=dies_once, arguments=(tmp_path / "marker",), report=note("dying")),
        ]
        assert run_jobs(jobs, ONE_CORE) == [Done([3, 1], "127.0.0.1"), Done("done", "127.0.0.1")]
    assert [content for name, content in reported if name == "counting"] == [0, 1, 2]
    assert [content for name, content in reported if name == "dying"] == ["first", "second"]
    assert ("pkd_tune.made_up", logging.WARNING, "counting to 3") in caplog.record_tuples
    assert "dying: its process on 127.0.0.1 died; it is started again" in caplog.messages


@pytest.mark.slow
def test_what_a_job_raises_is_raised_here_and_ends_the_others(tmp_path: Path) -> None:
    def refuses() -> None:
        raise UserError("one", "two")

    def lasts(folder: Path) -> None:
        import time

        (folder / "begun").touch()
        time.sleep(1000)

    def dies() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with cluster.local_cluster(TWO, tmp_path / "log"):
        with pytest.raises(UserError) as raised:
            run_jobs(
                [Job(name="refusing", function=refuses), Job(name="lasting", function=lasts, arguments=(tmp_path,))],
                ONE_CORE,
            )
        assert raised.value.problems == ("one", "two")
        with pytest.raises(MachineError, match=r"^dying: its process on 127\.0\.0\.1 died 2 times \(.*\); free some"):
            run_jobs([Job(name="dying", function=dies)], JobPlace(cores=2, gpus=0, at_once=1), restarts=1)
