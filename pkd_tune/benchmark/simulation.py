"""A simulated search: a policy asks for trials on a recorded table, slots run them side by side, a clock tells when
each evaluation comes.

All epochs take the same time, up to 10 % more or less for each trial, so that trials end in no fixed order. Slots are
asynchronous: a slot that is free starts the next trial at once, if the policy has one.
"""

import heapq
import itertools
import json
import os
import random
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pkd_tune.benchmark.recorded import Table

_ROUNDING = 1e-6

JITTER = 0.1
"""How much longer or shorter than usual the epochs of a trial take at most."""


Chosen: TypeAlias = dict[int, int]
"""The recording that a search chooses at each depth: with the best score of those that were trained to their end, or of
all where there is none."""


@dataclass(frozen=True, slots=True)
class Job:
    """A trial that a slot runs, or a part of one."""

    trial: int
    """The policy's own number of the trial."""
    recording: int
    """What it trains: number of a recording of the table."""
    begin: int = 0
    """Evaluations that were done before: it continues from there."""
    end: int | None = None
    """Evaluation that ends it; None: that of its whole budget."""


@dataclass(frozen=True, slots=True)
class Seen:
    """An evaluation of a running trial."""

    evaluation: int
    """Its number, from 1."""
    score: float
    epoch: float
    degenerate: bool
    last: bool
    """Whether it is the last of the trial's whole budget."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """How a search chooses and stops trials."""

    ask: Callable[[], Job | None]
    """Returns what a free slot runs next; None: nothing before another evaluation or end."""
    report: Callable[[Job, Seen], bool]
    """Takes an evaluation; returns whether the job is stopped."""
    end: Callable[[Job, Seen], None]
    """Takes the end of a job and its last evaluation."""


def simulate(
    table: Table, seed: int, policy: Policy, slots: int, budgets: Sequence[float], rng: random.Random
) -> list[Chosen]:
    """Runs a policy as searches with several budgets of epochs.

    No trial begins that could exceed the budget together with those that run. What a stopped trial leaves of its epochs
    is free for others. A search ends when all trials have ended and the next one does not fit, or there is none.

    Two searches are the same up to the first trial that does not fit into the smaller budget. There the process is
    forked, and the copy, with all that the policy knows, ends the search with that budget: each choice is the one that
    a search with its budget alone would make, and most of the work is done once. Needs a POSIX system.

    Args:
        table: What is searched.
        seed: Number of the seed whose scores the policy sees.
        policy: Is used once.
        slots: Trials that run at the same time.
        budgets: Epochs in all slots together, of each search.
        rng: Of how fast each trial is.

    Returns:
        For each budget what the search chooses.

    Raises:
        ValueError: When a budget is too small for any trial.
    """
    order = itertools.count()
    events: list[tuple[float, int, Job, float, int]] = []  # when, tie-break, job, time per epoch, evaluation
    now, spent, free = 0.0, 0.0, slots
    waiting: Job | None = None
    best: dict[int, tuple[bool, float]] = {}
    chosen: Chosen = {}
    found: dict[float, Chosen] = {}

    def epochs_of(job: Job, begin: int, end: int | None) -> float:
        done = (0.0, *table.recordings[job.recording].trainings[seed].epochs)
        return done[-1 if end is None else end] - done[begin]

    def wait_for(job: Job, evaluation: int, pace: float) -> None:
        duration = epochs_of(job, evaluation - 1, evaluation) * pace
        heapq.heappush(events, (now + duration, next(order), job, pace, evaluation))

    def fill_slots(limits: list[float]) -> None:
        nonlocal waiting, free, spent
        while free and (job := waiting or policy.ask()) is not None:
            waiting, cost = job, epochs_of(job, job.begin, job.end)
            while len(limits) > 1 and spent + cost > limits[0] + _ROUNDING:
                smallest = limits.pop(0)
                found[smallest] = _in_a_copy(partial(run, [smallest]))
            if spent + cost > limits[0] + _ROUNDING:
                return
            waiting, free, spent = None, free - 1, spent + cost
            wait_for(job, job.begin + 1, rng.uniform(1 - JITTER, 1 + JITTER))

    def run(limits: list[float]) -> Chosen:
        """Runs the search to its end with the last of some limits, and from where they differ with the others."""
        nonlocal now, free, spent
        fill_slots(limits)
        while events:
            now, _, job, pace, evaluation = heapq.heappop(events)
            recording = table.recordings[job.recording]
            training = recording.trainings[seed]
            last = evaluation == len(training.scores)
            score = training.scores[evaluation - 1]
            seen = Seen(evaluation, score, training.epochs[evaluation - 1], training.degenerate[evaluation - 1], last)
            stop = policy.report(job, seen)
            rank = (last, training.best if last else score)
            if recording.depth not in best or rank > best[recording.depth]:
                best[recording.depth], chosen[recording.depth] = rank, job.recording
            if stop or last or evaluation == job.end:
                free, spent = free + 1, spent - epochs_of(job, evaluation, job.end)
                policy.end(job, seen)
                fill_slots(limits)
            else:
                wait_for(job, evaluation + 1, pace)
                fill_slots(limits)  # a policy may have waited for this score
        return chosen

    last = run(sorted(set(budgets)))
    choices = [found.get(budget, last) for budget in budgets]
    for budget, choice in zip(budgets, choices, strict=True):
        if len(choice) < len(table.depths):
            each = " at each depth" if len(table.depths) > 1 else ""
            raise ValueError(f"{budget:g} epochs are too few for a trial of {table.name}{each}")
    return choices


def _in_a_copy(work: Callable[[], Chosen]) -> Chosen:
    """Returns what a function returns in a copy of this process, which leaves everything here as it is.

    Raises:
        RuntimeError: When it fails there; its traceback is on stderr.
    """
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        try:
            os.write(writer, json.dumps([*work().items()]).encode())
        except BaseException:  # nothing of a copy may go on as if it were this process
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        answer = stream.read()
    _, status = os.waitpid(process, 0)
    if status:
        raise RuntimeError("a simulated search failed in a copy of the process")
    return dict(json.loads(answer))
