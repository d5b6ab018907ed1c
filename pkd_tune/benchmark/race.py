"""Contestants taking turns: each is a process of its own, idle until it is told to do its work once more."""

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
from pkd_tune.reporting.formatting import plural

Answer: TypeAlias = dict[str, float]
Process: TypeAlias = "subprocess.Popen[str]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one contestant does in a turn."""

    kind: str
    """`plain`, `finetune`, `kd` or `pkd`: an epoch of training; `peak`: matrix products; `costs`: the rest of a
    trial."""
    precision: Precision
    """`fp32`, or `bf16` where the device has it in hardware."""
    device: str
    """`cpu` or `cuda`."""
    gpu: int
    """Number of the GPU, where the device is one."""
    threads: int
    model: dict[str, int]
    """Shape of the model, as `BertConfig` names it, without its depth."""
    depth: int
    """Layers of the student."""
    lengths: list[int]
    """Word pieces of each example of an epoch."""
    dev_lengths: list[int]
    """The same of the dev split."""
    batch_size: int
    max_length: int
    """Length to which the plain loop pads."""
    turns: int
    """How often its turn comes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Processes that take their turn at the same time; most entries have one."""

    name: str
    works: tuple[Work, ...]
    first_process: int
    """Its processes are this one and those that follow. Entries may share processes."""

    @property
    def processes(self) -> range:
        """Numbers of its processes."""
        return range(self.first_process, self.first_process + len(self.works))


OWN_TRAININGS = {"finetune": "fine-tuning", "kd": "KD", "pkd": "PKD"}
"""Our own ways of training, and what tables call them."""


def lineup(base: Work, resources: Sequence[int]) -> list[Entry]:
    """Returns the contestants of one depth, the plain loop in fp32 first.

    Args:
        base: What they share: depth, shape, lengths, all threads, and the precision of our own loop.
        slots: How many trials are run at once, with one thread or one GPU each.
    """
    ours = base.precision
    trial = replace(base, threads=1 if base.device == "cpu" else base.threads)  # as `tuning.trial` has it
    # All its steps cost the same: a quarter of them will do.
    plain = replace(base, kind="plain", lengths=base.lengths[:: 4 if len(base.lengths) >= 4 * base.batch_size else 1])
    works = {
        "plain loop": replace(plain, precision="fp32"),
        **({} if ours == "fp32" else {f"plain loop, {ours}": plain}),
        **{f"ours, {title}": replace(base, kind=kind) for kind, title in OWN_TRAININGS.items()},
        "peak": replace(base, kind="peak"),
        "costs": replace(trial, kind="costs"),
    }
    entries = [Entry(name=name, works=(work,), first_process=i) for i, (name, work) in enumerate(works.items())]
    return entries + [
        Entry(
            name=f"ours, PKD, {plural(count, 'slot')}",
            works=tuple(replace(trial, gpu=gpu, turns=base.turns * len(resources)) for gpu in range(count)),
            first_process=len(entries),
        )
        for count in resources
    ]


def race(entries: Sequence[Entry], repeats: int, show: Callable[[str], None]) -> dict[str, list[list[Answer]]]:
    """Lets the entries take their turns, round by round.

    Args:
        entries: In the order of their turns.
        repeats: Rounds.
        show: Called with an entry's name before its turn.

    Returns:
        Of each entry, by its name, the answers of its processes in every round.

    Raises:
        RuntimeError: When a process ended before its time; standard error has what it said of it.
    """
    works = {i: work for entry in entries for i, work in zip(entry.processes, entry.works, strict=True)}
    found: dict[str, list[list[Answer]]] = {entry.name: [] for entry in entries}
    with _running([works[i] for i in sorted(works)]) as processes:
        for process in processes:
            _answer(process)  # has warmed up
        for _ in range(repeats):
            for entry in entries:
                show(entry.name)
                for i in entry.processes:
                    _tell(processes[i], "")
                found[entry.name].append([_answer(processes[i]) for i in entry.processes])
    return found


@contextmanager
def _running(works: Sequence[Work]) -> Iterator[list[Process]]:
    """Starts a process for each work, and ends them all."""
    visible = [gpu for gpu in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpu]
    processes: list[Process] = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            for work in works:
                gpu = visible[work.gpu] if visible else str(work.gpu)
                gpus = {"CUDA_VISIBLE_DEVICES": gpu} if work.device == "cuda" else {}
                process = subprocess.Popen(
                    [sys.executable, "-m", "pkd_tune.benchmark.contestant"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, "OMP_NUM_THREADS": str(work.threads), "TMPDIR": folder, **gpus},
                    start_new_session=True,  # Ctrl-C is for this process alone, which ends the others
                )
                processes.append(process)
                _tell(process, json.dumps(asdict(work)))
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.communicate()


def _tell(process: Process, line: str) -> None:
    """Writes a line to a process: its work first, then one for every turn."""
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has ended, and will not answer
        process.stdin.write(line + "\n")
        process.stdin.flush()


def _answer(process: Process) -> Answer:
    """Waits for a process's next answer."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process of the bench ended with exit code {process.wait()}; see above what it said")
    answer: Answer = json.loads(line)
    return answer
