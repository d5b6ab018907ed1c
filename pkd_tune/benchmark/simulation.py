"""A simulated search: a policy asks for trials on a recorded table, slots run them side by side, a clock tells when
each evaluation comes.

All epochs take the same time, up to 10 % more or less for each trial, so that trials end in no fixed order. Slots are
asynchronous: a slot that is free starts the next trial at once, if the policy has one.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass

from pkd_tune.benchmark.recorded import Table

_ROUNDING = 1e-6

JITTER = 0.1
"""How much longer or shorter than usual the epochs of a trial take at most."""


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


def simulate(table: Table, seed: int, policy: Policy, slots: int, epochs: float, rng: random.Random) -> int:
    """Runs a policy as a search with a budget of epochs.

    No trial begins that could exceed the budget together with those that run. What a stopped trial leaves of its epochs
    is free for others. The search ends when all trials have ended and the next one does not fit, or there is none.

    Args:
        table: What is searched.
        seed: Number of the seed whose scores the policy sees.
        policy: Is used once.
        slots: Trials that run at the same time.
        epochs: In all slots together.
        rng: Of how fast each trial is.

    Returns:
        The recording that the search chooses: with the best score of those that have used their whole budget, or of all
        where there is none.

    Raises:
        ValueError: When the budget is too small for any trial.
    """
    order = itertools.count()
    events: list[tuple[float, int, Job, float, int]] = []  # when, tie-break, job, time per epoch, evaluation
    now, left, free = 0.0, epochs, slots
    waiting: Job | None = None
    best, chosen = (False, float("-inf")), -1

    def epochs_of(job: Job, begin: int, end: int | None) -> float:
        done = (0.0, *table.recordings[job.recording].trainings[seed].epochs)
        return done[-1 if end is None else end] - done[begin]

    def wait_for(job: Job, evaluation: int, pace: float) -> None:
        duration = epochs_of(job, evaluation - 1, evaluation) * pace
        heapq.heappush(events, (now + duration, next(order), job, pace, evaluation))

    while True:
        while free and (job := waiting or policy.ask()) is not None:
            if (cost := epochs_of(job, job.begin, job.end)) > left + _ROUNDING:
                waiting = job
                break
            waiting, free, left = None, free - 1, left - cost
            wait_for(job, job.begin + 1, rng.uniform(1 - JITTER, 1 + JITTER))
        if not events:
            if chosen < 0:
                raise ValueError(f"{epochs:g} epochs are too few for a trial of {table.name}")
            return chosen
        now, _, job, pace, evaluation = heapq.heappop(events)
        training = table.recordings[job.recording].trainings[seed]
        last = evaluation == len(training.scores)
        score = training.scores[evaluation - 1]
        seen = Seen(evaluation, score, training.epochs[evaluation - 1], training.degenerate[evaluation - 1], last)
        stop = policy.report(job, seen)
        rank = (last, training.best if last else score)
        if rank > best:
            best, chosen = rank, job.recording
        if stop or last or evaluation == job.end:
            free, left = free + 1, left + epochs_of(job, evaluation, job.end)
            policy.end(job, seen)
        else:
            wait_for(job, evaluation + 1, pace)
