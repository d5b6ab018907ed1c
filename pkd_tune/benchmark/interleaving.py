"""Interleaved runs: every entry has worker processes of its own, which are idle except during the entry's runs."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeAlias

from pkd_tune.config import Precision
from pkd_tune.encoders.families import FAMILIES
from pkd_tune.reporting.formatting import plural

Answer: TypeAlias = dict[str, float]
Process: TypeAlias = "subprocess.Popen[str]"

PLAIN, REFERENCE, FAST, GENERAL = "plain loop", "BERT, fast", "fast", "general"
"""Names of the entries of a family."""

EAGER = "pkd_tune, PKD, eager steps"
"""Name of the entry whose steps are not captured, on a GPU."""

PKD_TUNE_WORKLOADS = {"finetune": "fine-tuning", "kd": "KD", "pkd": "PKD"}
"""Workload kinds that run pkd_tune's training loop, and their names in tables."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What one worker process does in each run."""

    kind: str
    """`plain`, `finetune`, `kd` or `pkd`: an epoch of training; `peak`: matrix products; `overheads`: what a trial does
    besides training steps."""
    precision: Precision
    """`fp32`, or `bf16` where the device supports it."""
    device: str
    """`cpu` or `cuda`."""
    gpu: int
    """Index of the GPU, where the device is one."""
    threads: int
    model: dict[str, int]
    """Shape of the model under the names of `BertConfig`, without its depth."""
    family: str = "bert"
    """Its `model_type`."""
    general: bool = False
    """Whether pkd_tune's loop runs transformers' forward pass also where the family has a fast one."""
    captured: bool = True
    """Whether pkd_tune's loop captures training steps as CUDA graphs on a GPU."""
    depth: int
    """Layers of the student."""
    lengths: list[int]
    """Length of each training example of an epoch, in tokens."""
    dev_lengths: list[int]
    """The same of the dev split."""
    batch_size: int
    max_length: int
    """Length to which the plain loop pads."""
    repeats: int
    """Number of runs after the warm-up."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One row of the tables: worker processes that run at the same time, in most entries a single one."""

    name: str
    workloads: tuple[Workload, ...]
    first_process: int
    """Index of its first process, the others follow. Entries may share processes."""

    @property
    def processes(self) -> range:
        """Indices of its processes."""
        return range(self.first_process, self.first_process + len(self.workloads))


def make_entries(base: Workload, concurrent: Sequence[int], gpus: int = 1) -> list[Entry]:
    """Returns the entries of one depth, the plain loop in fp32 first.

    On a GPU, PKD with eager steps is among them. Concurrent trials that are more than the GPUs share them.

    Args:
        base: What they share: depth, shape, lengths, all threads, and the precision of pkd_tune's loop.
        concurrent: Numbers of concurrent trials: on a CPU with one thread each, on GPUs with each GPU in turn.
        gpus: GPUs that they share, where the device is one.
    """
    on_gpu = base.device == "cuda"
    trial = replace(base, threads=base.threads if on_gpu else 1)  # as `tuning.trial` has it
    # All steps of the plain loop cost the same: a quarter of them will do.
    plain = replace(base, kind="plain", lengths=base.lengths[:: 4 if len(base.lengths) >= 4 * base.batch_size else 1])
    workloads = {
        "plain loop": replace(plain, precision="fp32"),
        **({} if base.precision == "fp32" else {f"plain loop, {base.precision}": plain}),
        **{f"pkd_tune, {title}": replace(base, kind=kind) for kind, title in PKD_TUNE_WORKLOADS.items()},
        **({EAGER: replace(base, captured=False)} if on_gpu else {}),
        "peak": replace(base, kind="peak"),
        "overheads": replace(trial, kind="overheads"),
    }
    single = [
        Entry(name=name, workloads=(workload,), first_process=i) for i, (name, workload) in enumerate(workloads.items())
    ]
    return single + [
        Entry(
            name=f"pkd_tune, PKD, {plural(count, 'trial')}"
            + (f" on {plural(min(count, gpus), 'GPU')}" if on_gpu else ""),
            workloads=tuple(
                replace(trial, gpu=number % gpus, repeats=base.repeats * len(concurrent)) for number in range(count)
            ),
            first_process=len(single),
        )
        for count in concurrent
    ]


def family_entries(base: Workload, families: Sequence[str]) -> dict[str, list[Entry]]:
    """Returns for each family the entries that are compared: the plain loop, and PKD with each of its forward passes.

    BERT's fast forward pass is among those of every family, so that all can be compared with it.

    Args:
        base: What they share: depth, shape, lengths, threads and precision.
        families: Their model types.
    """
    found = {}
    for family in families:
        own = replace(base, family=family)
        workloads = {
            PLAIN: replace(own, kind="plain", lengths=base.lengths[::4] if len(base.lengths) >= 64 else base.lengths),
            REFERENCE: replace(base, family="bert"),
            **({FAST: own} if FAMILIES[family].paths is not None and family != "bert" else {}),
            GENERAL: replace(own, general=True),
        }
        found[family] = [
            Entry(name=name, workloads=(workload,), first_process=i)
            for i, (name, workload) in enumerate(workloads.items())
        ]
    return found


def run_interleaved(
    entries: Sequence[Entry], repeats: int, show: Callable[[str], None]
) -> dict[str, list[list[Answer]]]:
    """Runs all entries once, then all of them again, and so on, so that other load on the machine affects all alike.

    Args:
        entries: In the order of their runs.
        repeats: Runs of each.
        show: Called with an entry's name before each of its runs.

    Returns:
        For each entry name, the answers of its processes in every run.

    Raises:
        RuntimeError: When a process ended early; its error is on standard error.
    """
    workloads = {i: workload for entry in entries for i, workload in zip(entry.processes, entry.workloads, strict=True)}
    answers: dict[str, list[list[Answer]]] = {entry.name: [] for entry in entries}
    with _running([workloads[i] for i in sorted(workloads)]) as processes:
        for process in processes:
            _receive(process)  # the warm-up
        for _ in range(repeats):
            for entry in entries:
                show(entry.name)
                for i in entry.processes:
                    _send(processes[i], "")
                answers[entry.name].append([_receive(processes[i]) for i in entry.processes])
    return answers


@contextmanager
def _running(workloads: Sequence[Workload]) -> Iterator[list[Process]]:
    """Starts a worker process for each workload, and ends them all."""
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for workload in workloads:
                gpu = visible[workload.gpu] if visible else str(workload.gpu)
                gpus = {"CUDA_VISIBLE_DEVICES": gpu} if workload.device == "cuda" else {}
                process = subprocess.Popen(
                    [sys.executable, "-m", "pkd_tune.benchmark.worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(workload.threads), "TMPDIR": folder, **gpus},
                    start_new_session=True,  # Ctrl-C reaches this process alone, which ends the workers
                )
                processes.append(process)
                _send(process, json.dumps(asdict(workload)))
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _send(process: Process, line: str) -> None:
    """Writes a line to a worker: its workload first, then an empty line for every run."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended; `_receive()` raises
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _receive(process: Process) -> Answer:
    """Waits for a worker's next answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a benchmark worker ended with exit code {process.wait()}; its error is above")
    answer: Answer = json.loads(line)
    return answer
