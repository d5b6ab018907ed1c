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


@dataclass(frozen=True, slots=True)
class Choice:
    """The recording that a search would choose, from a moment on."""

    epochs: float
    """Epochs spent by then, in all slots together."""
    recording: int


def simulate(table: Table, seed: int, policy: Policy, slots: int, epochs: float, rng: random.Random) -> list[Choice]:
    """Runs a policy until it has spent a number of epochs, or has no more trials.

    The choice of a search is the trial with the best score of those that have used their whole budget, or of all
    before there is one.

    Args:
        table: What is searched.
        seed: Number of the seed whose scores the policy sees.
        policy: Is used once.
        slots: Trials that run at the same time.
        epochs: In all slots together.
        rng: Of how fast each trial is.

    Returns:
        The choices, each from the epochs on at which it was made.
    """
    order = itertools.count()
    events: list[tuple[float, int, Job, float, int]] = []  # when, tie-break, job, time per epoch, evaluation
    running: dict[int, tuple[float, float]] = {}  # by trial: start and time per epoch of the evaluation it waits for
    now = spent_before = 0.0
    free = slots
    choices: list[Choice] = []
    best: tuple[bool, float] = (False, float("-inf"))

    def epoch_of(job: Job, evaluation: int) -> float:
        return table.recordings[job.recording].trainings[seed].epochs[evaluation - 1] if evaluation else 0.0

    def advance(job: Job, evaluation: int, pace: float) -> None:
        running[job.trial] = now, pace
        wait = (epoch_of(job, evaluation) - epoch_of(job, evaluation - 1)) * pace
        heapq.heappush(events, (now + wait, next(order), job, pace, evaluation))

    while True:
        while free and (job := policy.ask()) is not None:
            free -= 1
            advance(job, job.begin + 1, rng.uniform(1 - JITTER, 1 + JITTER))
        if not events:
            return choices
        now, _, job, pace, evaluation = heapq.heappop(events)
        training = table.recordings[job.recording].trainings[seed]
        del running[job.trial]
        spent_before += epoch_of(job, evaluation) - epoch_of(job, evaluation - 1)
        spent = spent_before + sum((now - start) / of_other for start, of_other in running.values())
        if spent > epochs:
            return choices
        last = evaluation == len(training.scores)
        score = training.scores[evaluation - 1]
        seen = Seen(evaluation, score, training.epochs[evaluation - 1], training.degenerate[evaluation - 1], last)
        stop = policy.report(job, seen)
        rank = (last, training.best if last else score)
        if rank > best:
            best = rank
            choices.append(Choice(spent, job.recording))
        if stop or last or evaluation == job.end:
            free += 1
            policy.end(job, seen)
        else:
            advance(job, evaluation + 1, pace)
