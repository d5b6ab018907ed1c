"""Work of a search that is no trial, such as its teacher's training, as Ray tasks on the nodes that run trials.

A job takes a whole GPU, or where there is none a node's cores. What it reports and logs appears in this process. When
its process or its node is lost, it is started again, and goes on from what it left on the shared storage.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.queue import Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pkd_tune.config import MachineError
from pkd_tune.tuning.process import prepare_process
from pkd_tune.tuning.resources import Resources

log = logging.getLogger(__name__)

RESTARTS = 3
"""Times a job is started again after its process died."""

POLL_SECONDS = 0.2
"""How often it is looked what jobs report."""
PATIENCE_SECONDS = 30
"""How long a job waits for a node before that is said."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A function that some node runs."""

    name: str
    """In messages and in the report."""
    function: Callable[..., Any]
    """Of a module that every node has. It should not repeat what it finds done when it is started again."""
    arguments: tuple[Any, ...] = ()
    report: Callable[[Any], None] | None = None
    """Called in this process with everything that the function passes to its last argument; None: it has no such
    argument."""
    node: str | None = None
    """Ray's id of the node that it runs on; None: any that has room."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a job returned, and the address of the node that it ended on."""

    result: Any
    node: str


@dataclass(frozen=True, slots=True)
class JobPlace:
    """What Ray reserves for each job, and how many run side by side."""

    cores: int
    gpus: int
    at_once: int


def job_place(resources: Resources, jobs: int, node_cores: Sequence[int]) -> JobPlace:
    """Returns where jobs run: each on a GPU, or on a node's cores, so that most of all cores work.

    Args:
        resources: Of the search.
        jobs: How many there are.
        node_cores: Cores of each node.
    """
    if resources.gpus:
        return JobPlace(cores=1, gpus=1, at_once=min(jobs, resources.gpus))
    sizes = sorted(node_cores, reverse=True)[:jobs]
    at_once = max(range(1, len(sizes) + 1), key=lambda number: number * sizes[number - 1])
    return JobPlace(cores=sizes[at_once - 1], gpus=0, at_once=at_once)


def run_jobs(jobs: Sequence[Job], place: JobPlace, *, restarts: int = RESTARTS) -> list[Done]:
    """Runs functions on the cluster that this process is connected to; returns what they return, in their order.

    Args:
        jobs: The functions; when one raises, the others are stopped.
        place: What each takes.
        restarts: How often a job is started again whose process or node died.

    Raises:
        MachineError: When a job's process died too often.
        Exception: What a job raises.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    waiting = deque(range(len(jobs)))
    running: dict[ray.ObjectRef, int] = {}
    results: list[Any] = [None] * len(jobs)
    nodes = [""] * len(jobs)
    deaths = [0] * len(jobs)
    begun_by = time.monotonic() + PATIENCE_SECONDS

    def deliver() -> None:
        while (number_of := mailbox.qsize()) > 0:
            for number, kind, content in mailbox.get_nowait_batch(number_of):
                if kind == "node":
                    nodes[number] = content
                elif kind == "log":
                    name, level, text = content
                    logging.getLogger(name).log(level, "%s", text)
                elif (report := jobs[number].report) is not None:
                    report(content)

    try:
        while waiting or running:
            while waiting and len(running) < place.at_once:
                number = waiting.popleft()
                running[_start(number, jobs[number], place, mailbox)] = number
            ended, _ = ray.wait([*running], timeout=POLL_SECONDS)
            deliver()
            if time.monotonic() > begun_by and not any(nodes):
                what = f"{place.gpus} GPU" if place.gpus else f"{place.cores} cores"
                log.info("waiting for a node with %s to be free; `ray status` shows what is used", what)
                begun_by = float("inf")
            for ref in ended:
                number = running.pop(ref)
                try:
                    results[number] = ray.get(ref)
                except RayTaskError as error:
                    raise error.cause from None if isinstance(error.cause, MachineError) else error
                except RayError as error:
                    deaths[number] += 1
                    where = f" on {nodes[number]}" if nodes[number] else ""
                    if deaths[number] > restarts:
                        why = str(error).strip().splitlines()[0]
                        raise MachineError(
                            f"{jobs[number].name}: its process{where} died {deaths[number]} times ({why}); free some "
                            "memory there, or see by `ray status` which nodes are lost"
                        ) from error
                    log.info("%s: its process%s died; it is started again", jobs[number].name, where)
                    waiting.append(number)
    finally:
        for ref in running:
            ray.cancel(ref, force=True)
        mailbox.shutdown(force=True)
    return [Done(result, node) for result, node in zip(results, nodes, strict=True)]


def _start(number: int, job: Job, place: JobPlace, mailbox: Queue) -> ray.ObjectRef:
    """Starts a job in a process of its own, with nothing left of earlier ones in its memory or on its GPU."""
    options: dict[str, Any] = {"num_cpus": place.cores, "num_gpus": place.gpus, "max_retries": 0}
    strategy = "SPREAD" if job.node is None else NodeAffinitySchedulingStrategy(job.node, soft=False)
    threads = None if place.gpus else place.cores
    task = _job.options(**options, scheduling_strategy=strategy)
    return task.remote(number, job.function, job.arguments, mailbox, threads, reports=job.report is not None)


@ray.remote(max_calls=1)  # type: ignore[untyped-decorator]
def _job(
    number: int,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    mailbox: Queue,
    threads: int | None,
    *,
    reports: bool,
) -> Any:
    """Runs a job on the node that Ray chose."""
    prepare_process()
    mailbox.put((number, "node", ray.util.get_node_ip_address()))
    if threads is not None:
        torch.set_num_threads(threads)
    logger = logging.getLogger("pkd_tune")
    handler = _ToDriver(number, mailbox)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        if reports:
            return function(*arguments, lambda content: mailbox.put((number, "report", content)))
        return function(*arguments)
    finally:
        logger.removeHandler(handler)


class _ToDriver(logging.Handler):
    """Sends log messages to the process that started the job."""

    def __init__(self, number: int, mailbox: Queue) -> None:
        super().__init__()
        self._number, self._mailbox = number, mailbox

    def emit(self, record: logging.LogRecord) -> None:
        """Sends a message."""
        self._mailbox.put((self._number, "log", (record.name, record.levelno, record.getMessage())))
