"""Ray itself: started on this machine for one search, or joined where it runs already."""

import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Ray reads these when it is imported. Its own progress tables, tips and usage reports have no place in our output.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the journal has every result; see curves.py

import pyarrow
import ray
from ray._private import ray_constants
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pkd_tune.config import UserError
from pkd_tune.tuning.artifacts import REMEDY, ArtifactStore
from pkd_tune.tuning.resources import Resources, resources_among

OBJECT_STORE_BYTES = 128 * 2**20
"""Nothing large goes through Ray's object store: trials read the shared files themselves."""


@contextmanager
def own_cluster(resources: Resources, log: Path, *, dashboard: bool = False) -> Iterator[str | None]:
    """Starts Ray on this machine, listening on loopback only, and stops it at the end; yields its dashboard's address.

    Args:
        slots: Decide how many CPUs and GPUs it may use.
        log: Receives what Ray's core says as it starts.
        dashboard: Whether to start Ray's own dashboard too.

    Raises:
        UserError: When it does not start, for which it gives itself half a minute.
    """
    try:
        with _stderr_to(log), _own_sigterm(), _on_loopback():
            try:
                context = ray.init(
                    address="local",
                    num_cpus=resources.count * resources.threads,
                    num_gpus=resources.gpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                )
            except Exception as error:
                # Ray raises a bare Exception for a start that takes too long; what is more special may be a bug.
                if type(error) is not Exception and not isinstance(error, (OSError, RuntimeError)):
                    raise
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"Ray did not start ({reason}); where this machine is only busy, the same command again may do; "
                    f"{log} says more"
                ) from error
        yield f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None
    finally:
        ray.shutdown()


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray, and the processes it starts, take 127.0.0.1 for this machine's address; they listen there alone then.

    Given that address itself, Ray would turn it into one that other machines reach, and listen on all of them.
    """
    name, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    in_environment = os.environ.get(name)
    os.environ[name], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(name)
        if in_environment is not None:
            os.environ[name] = in_environment


@contextmanager
def joined_cluster(address: str, log: Path) -> Iterator[None]:
    """Connects to a running Ray cluster, and leaves it again at the end.

    Raises:
        UserError: When none answers there.
    """
    try:
        with _stderr_to(log), _own_sigterm():
            try:
                _reach(address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            except (OSError, ValueError, RuntimeError) as error:
                reason = str(error).splitlines()[0]
                raise UserError(
                    f"--address {address}: no Ray cluster answers there ({reason}); on its head node, `ray status` "
                    "shows whether it runs"
                ) from error
        yield
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Raises OSError or ValueError where nothing listens at an address; Ray itself would go on trying for minutes."""
    if address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is like 10.0.0.1:6379")
    socket.create_connection((host, int(port)), timeout=5).close()


def cluster_resources(gpus: int | None, trials_per_gpu: int | None) -> Resources:
    """Returns the slots of the cluster this process is connected to.

    Args:
        gpus: As in `choose_resources()`.
        trials_per_gpu: As in `choose_resources()`.

    Raises:
        UserError: When it has fewer GPUs than asked for, or none for trials to share.
    """
    found = ray.cluster_resources()
    return resources_among(int(found.get("GPU", 0)), int(found.get("CPU", 1)), gpus, trials_per_gpu)


def check_shared(places: Sequence[tuple[str, str]]) -> None:
    """Makes sure that every node of the cluster sees these places with what this process writes there.

    Args:
        places: Folders or URIs, each with the flag that names it.

    Raises:
        UserError: One line per node and place.
    """

    @ray.remote(num_cpus=0)  # type: ignore[untyped-decorator]
    def unseen(artifact_stores: list[ArtifactStore], marker: str) -> dict[int, str]:
        found = {}
        for i, artifacts in enumerate(artifact_stores):
            try:
                if marker not in artifacts.names():
                    found[i] = "does not see it"
            except (OSError, pyarrow.ArrowException) as error:
                found[i] = f"does not see it ({str(error).splitlines()[0]})"
        return found

    marker = f".pkd_tune-{uuid.uuid4().hex}"
    artifact_stores = [
        ArtifactStore(Path(tempfile.gettempdir()) / marker, where)
        if "://" in where
        else ArtifactStore(Path(where).resolve())
        for _, where in places
    ]
    problems = []
    try:
        for artifacts in artifact_stores:
            artifacts.folder.mkdir(parents=True, exist_ok=True)
            artifacts.path(marker).touch()
            artifacts.publish(marker)
        elsewhere = [
            ArtifactStore(Path(os.devnull), artifacts.uri) if artifacts.uri else artifacts
            for artifacts in artifact_stores
        ]
        asked = {
            f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": unseen.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            ).remote(elsewhere, marker)
            for node in ray.nodes()
            if node["Alive"]
        }
        for node, answer in asked.items():
            for i, why in ray.get(answer).items():
                flag, where = places[i]
                problems.append(f"{flag} {where}: node {node} {why}; {REMEDY}")
    finally:
        for artifacts in artifact_stores:
            artifacts.delete(marker)
            artifacts.forget_all()
    if problems:
        raise UserError(*problems)


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leaves a SIGTERM to whoever handles it now; Ray, as it starts, makes it end the process with a stack trace."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Sends what this process writes to standard error to the end of a file, C++ libraries included.

    Ray's core says there what it finds odd about a machine, such as having no network; no setting of it keeps it quiet.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
