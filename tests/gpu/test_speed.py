"""Speed on a GPU, printed: replays and eager steps, several processes, and a dry run's time for an epoch.

Limits are wide: others may use the machine. `python -m pkd_tune.bench` measures more closely.
"""

import statistics
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch

from pkd_tune.benchmark.interleaving import Entry, Workload, run_interleaved
from pkd_tune.benchmark.settings import BenchConfig, resolve
from pkd_tune.config import SearchConfig
from pkd_tune.data.tokens import Split
from pkd_tune.distillation.student import ModelPool
from pkd_tune.distillation.train_step import Graphs, graphs_of_a_training
from pkd_tune.workflows.gpu_check import structures
from pkd_tune.workflows.timing import record_epoch_ends, time_student, train_student

pytestmark = pytest.mark.gpu

GPU = torch.device("cuda")
DEPTH = 4


def seconds_of_an_epoch(
    config: SearchConfig, splits: Mapping[str, Split], device: torch.device, graphs: Graphs | None
) -> float:
    """Returns how long an epoch of a real training takes, without the first, in which steps are captured."""
    ends: list[float] = []
    once = replace(config, student_training=replace(config.student_training, evaluations_per_epoch=1))
    train_student(
        once,
        splits,
        splits["train"],
        structures(["pkd"], DEPTH)[0],
        device,
        ModelPool(graphs=graphs),
        epochs=4,
        report=record_epoch_ends(ends),
    )
    return statistics.median(np.diff(ends))


def test_replays_are_no_slower_than_eager_steps(
    config: SearchConfig, splits: Mapping[str, Split], capsys: pytest.CaptureFixture[str]
) -> None:
    with graphs_of_a_training(GPU) as graphs:
        captured = seconds_of_an_epoch(config, splits, GPU, graphs)
    eager = seconds_of_an_epoch(config, splits, GPU, None)
    with capsys.disabled():
        print(f"\nan epoch of {len(splits['train'])} examples: {captured:.2f} s captured, {eager:.2f} s eager")
    assert captured < 1.1 * eager


def test_a_dry_run_predicts_an_epoch_within_thirty_percent(
    config: SearchConfig, splits: Mapping[str, Split], capsys: pytest.CaptureFixture[str]
) -> None:
    with graphs_of_a_training(GPU) as graphs:
        predicted = time_student(config, splits, DEPTH, GPU, graphs).epoch
    with graphs_of_a_training(GPU) as graphs:
        real = seconds_of_an_epoch(config, splits, GPU, graphs)
    with capsys.disabled():
        print(f"\nan epoch: {predicted:.2f} s by the dry run, {real:.2f} s in a training")
    assert predicted == pytest.approx(real, rel=0.3)


def test_processes_that_share_a_gpu_do_not_stop_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    base = resolve(BenchConfig(gpus=1, depths=(3,), steps=64, threads=1)).base
    rates = examples_per_second(replace(base, depth=3), (1, 2, 4))
    with capsys.disabled():
        print("\nexamples per second of processes on one GPU:")
        print(", ".join(f"{count}: {rate:.0f}" for count, rate in rates.items()))
    assert min(rates.values()) > 0.5 * rates[1]


def examples_per_second(base: Workload, counts: tuple[int, ...], repeats: int = 3) -> dict[int, float]:
    """Returns how many examples so many processes train on in a second, all together, on the same device."""
    workload = replace(base, kind="pkd", gpu=0, repeats=repeats * len(counts))
    entries = [Entry(name=str(count), workloads=(workload,) * count, first_process=0) for count in counts]
    answers = run_interleaved(entries, repeats, lambda name: None)
    return {
        count: statistics.median(
            count * len(base.lengths) / max(answer["seconds"] for answer in run) for run in answers[str(count)]
        )
        for count in counts
    }
