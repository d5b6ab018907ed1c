"""Ray itself: started on this machine for one search, or joined where it runs already."""

import hashlib
import importlib.metadata
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow
import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.services import canonicalize_bootstrap_address
from ray._private.utils import get_dashboard_dependency_error
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pkd_tune.config import UserError
from pkd_tune.tuning.artifacts import REMEDY, ArtifactStore
from pkd_tune.tuning.process import environment
from pkd_tune.tuning.resources import Resources, resolve_resources
from pkd_tune.tuning.session_watch import watch_session
from pkd_tune.tuning.temporary import temporary_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

OBJECT_STORE_BYTES = 128 * 2**20
"""Size of Ray's object store, which holds nothing large: trials read the shared files themselves."""

RAY_ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
}
"""Variables that Ray reads as it starts and as it runs trials: no progress tables, usage reports, changes of the
working directory, or loggers of its own; the journal and `tensorboard` record every result."""

TRIAL_ENVIRONMENT = {"TUNE_FUNCTION_THREAD_TIMEOUT_S": "10"}
"""Variables of the processes of trials. On a busy machine a trial's thread may need more than the two seconds to end
that Ray gives it; Ray then tells nobody that the next trial did not start, and the search would wait for that. A search
that stops waits as long for trials that are between two evaluations."""

SESSION_BYTES = 64 * 2**20
"""Least free space in the temporary folder: Ray's logs, and nothing large."""
CONNECT_SECONDS = 3
"""How long a cluster has to accept a connection, and then to greet."""
JOIN_SECONDS = 20
"""How long a cluster that has greeted has to answer a question."""
NODE_SECONDS = 60
"""How long its nodes have, which start a process for it."""

_KIND = "accelerator_type:"
"""Begins the resource by which Ray names the kind of a node's GPUs."""

AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
"""Variables that say whether Ray requires a token, and which."""

_SOCKET = "/pkd-xxxxxxxx/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""Path of a socket of Ray's below the temporary folder, at its longest."""
_LONGEST_SOCKET_PATH = 103
"""What operating systems allow: 103 on macOS, 107 on Linux."""


@contextmanager
def local_cluster(resources: Resources, log_file: Path, *, dashboard: bool = False) -> Iterator[str | None]:
    """Starts Ray on this machine, listening on loopback only, and stops it at the end; yields its dashboard's address.

    Its session folder is readable by this user only, and removed at the end. Whoever connects to it needs a random
    token, which is in the environment of its processes and in no file.

    Args:
        resources: CPU cores and GPUs that it may use.
        log_file: Receives what Ray's core writes to standard error as it starts.
        dashboard: Whether to start Ray's own dashboard too.

    Raises:
        UserError: When it does not start, for which it gives itself half a minute.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(_variables(RAY_ENVIRONMENT))
            session = stack.enter_context(temporary_folder(session_parent()))
            # PyTorch would take a folder in the temporary one, by a name that others can foresee.
            stack.enter_context(_variables({"TORCHINDUCTOR_CACHE_DIR": str(session / "torch")}))
            stack.enter_context(_random_token())
            stack.callback(ray.shutdown)
            stack.enter_context(watch_session(session))
            with _stderr_to(log_file), _own_sigterm(), _on_loopback():
                # Trials are offline: this process has asked the hub for all they need.
                context = ray.init(
                    address="local",
                    num_cpus=resources.count * resources.threads,
                    num_gpus=resources.gpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": {**environment(), **TRIAL_ENVIRONMENT, "HF_HUB_OFFLINE": "1"}},
                    _temp_dir=str(session / "r"),  # Ray gives everybody access to the folder itself
                )
        except Exception as error:
            # Ray raises a bare Exception for a start that takes too long; what is more special may be a bug.
            if type(error) is not Exception and not isinstance(error, (OSError, RuntimeError)):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(
                f"Ray did not start ({reason}); if this machine is only busy, run the same command again; "
                f"{log_file} says more"
            ) from error
        yield f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None


def node_folder() -> Path:
    """Returns a folder of this search on the node that the calling trial runs on, below that of the Ray session.

    The session's name cannot be foreseen by other users. The folder of `local_cluster()` is removed at its end.
    """
    return Path(ray_worker._global_node.get_session_dir_path(), f"pkd_tune-{ray.get_runtime_context().get_job_id()}")


def session_parent() -> Path:
    """Returns the folder below which Ray's session is made.

    Where the path of the user's temporary folder is too long for a socket below it, that is /tmp.

    Raises:
        UserError: When there is too little space in it for Ray to start.
    """
    parent = os.path.expanduser(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
    if len(parent) + len(_SOCKET) > _LONGEST_SOCKET_PATH:
        parent = "/tmp"
    free = shutil.disk_usage(parent).free
    if free < SESSION_BYTES:
        raise UserError(
            f"{parent}: {free / 1e6:.0f} MB are free, but Ray needs {SESSION_BYTES / 1e6:.0f} MB; free some space "
            "there, or set TMPDIR to another folder"
        )
    return Path(parent)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables that are not set, and removes them again at the end."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextmanager
def _random_token() -> Iterator[None]:
    """Makes the Ray that is started in the block, and what it starts, require a new random token.

    Ray would otherwise make one that stays the same and write it to ~/.ray/auth_token, readable by everybody.
    """
    mode = os.environ.get(AUTH_MODE, "token")
    if mode.lower() != "token":
        log.warning(
            "%s=%s is set: every user of this machine can run code as you while a search runs; unset it",
            AUTH_MODE,
            mode,
        )
    before = {name: os.environ.get(name) for name in (AUTH_MODE, AUTH_TOKEN)}
    os.environ[AUTH_TOKEN] = secrets.token_hex(32)
    AuthenticationTokenLoader.instance().reset_cache()
    try:
        yield
    finally:
        for name, value in before.items():  # Ray sets the mode
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        AuthenticationTokenLoader.instance().reset_cache()
        Config.initialize("")  # reads the mode again


@contextmanager
def _on_loopback() -> Iterator[None]:
    """Makes Ray, and the processes it starts, use 127.0.0.1 as this machine's address and listen on it only.

    Ray replaces a loopback address that it is given by one that other machines reach, and listens on all interfaces.
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
def connected_cluster(address: str, log_file: Path) -> Iterator[None]:
    """Connects to a running Ray cluster, and disconnects at the end.

    Args:
        address: HOST:PORT of its head node, or `auto`.
        log_file: Receives what Ray's core writes to standard error as it connects.

    Raises:
        UserError: When none answers there, it wants a token, or it has no workers.
    """
    with ExitStack() as stack:
        stack.enter_context(_variables(RAY_ENVIRONMENT))
        stack.callback(ray.shutdown)
        try:
            with _stderr_to(log_file), _own_sigterm():
                _check_reachable(address)
                context = ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": {**environment(), **TRIAL_ENVIRONMENT}},
                )
        except UserError:
            raise
        except AuthenticationError as error:
            raise UserError(_token_wanted(address)) from error
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--address {address}: no Ray cluster answers at this address ({reason}); on its head node, `ray "
                "status` shows whether it runs"
            ) from error
        if not ray.cluster_resources().get("CPU"):
            raise UserError(
                f"--address {address}: this cluster has no workers; add nodes by `ray start --address HEAD:6379`, and "
                "see them by `ray status`"
            )
        if context.dashboard_url:
            log.info("Ray's dashboard: http://%s", context.dashboard_url)
        yield


def _token_wanted(address: str) -> str:
    return (
        f"--address {address}: this cluster wants another token; set {AUTH_MODE}=token, and {AUTH_TOKEN} to its token"
    )


_PING = """
import sys
from ray._raylet import GcsClient
GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=5)
"""


def _is_ray_head(connection: socket.socket) -> bool:
    """Returns whether a server speaks HTTP/2, as Ray's does over gRPC: it answers the client's preface with settings
    (RFC 9113, section 3.4)."""
    connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
    try:
        frame = connection.recv(9)
    except OSError:
        return False
    return len(frame) > 3 and frame[3] == 4


def _check_reachable(address: str) -> None:
    """Checks that a Ray cluster answers at HOST:PORT; Ray itself would keep trying for minutes.

    Raises:
        UserError: When the cluster wants another token.
        OSError: When nothing listens there, or something that is no Ray cluster.
        ValueError: When it is no address.
    """
    if address == "auto":  # what `ray start` left here, be it alive or not
        found = canonicalize_bootstrap_address(address)
        if found is None:
            raise OSError("this machine belongs to none")
        address = found
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise ValueError("an address is auto, or like 10.0.0.1:6379")
    with socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") == "0" and not _is_ray_head(connection):
            raise OSError("something listens there that is no Ray cluster")
    try:  # in a process of its own, because Ray's core gives no time-out, and may end its process
        command = [sys.executable, "-c", _PING, address]
        done = subprocess.run(command, capture_output=True, text=True, timeout=JOIN_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise OSError("something listens there that does not answer as Ray does") from error
    if done.returncode:
        if any(word in done.stderr for word in ("AuthToken", "Unauthenticated", "authentication")):
            raise UserError(_token_wanted(address))
        raise OSError("something listens there that is no Ray cluster")


def cluster_resources(gpus: int | None, trials_per_gpu: int | None) -> Resources:
    """Returns the resources of the cluster that this process is connected to.

    Args:
        gpus: As in `choose_resources()`.
        trials_per_gpu: As in `choose_resources()`.

    Raises:
        UserError: When it has fewer GPUs than asked for, or none for trials to share.
    """
    found = ray.cluster_resources()
    return resolve_resources(int(found.get("GPU", 0)), int(found.get("CPU", 1)), gpus, trials_per_gpu)


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A node of the cluster that runs trials."""

    id: str
    """Ray's."""
    address: str
    cores: int
    gpus: int
    kind: str
    """Of its GPUs, as Ray names it; empty where it does not know one."""

    @property
    def name(self) -> str:
        """What messages call it: several nodes may have one address."""
        return f"{self.address} ({self.id[:8]})"


def is_connected() -> bool:
    """Returns whether this process has started Ray, or joined a cluster."""
    return bool(ray.is_initialized())


def check_not_connected() -> None:
    """Checks that a search starts Ray itself: one that runs already has other resources and settings.

    Raises:
        UserError: When Ray runs in this process.
    """
    if is_connected():
        raise UserError(
            "Ray runs in this process already; call ray.shutdown() first, and give the address of a cluster that the "
            "search is to join as --address"
        )


def nodes() -> list[Node]:
    """Returns the nodes that have cores or GPUs for trials; a head node may have none."""
    found = []
    for node in ray.nodes():
        amounts = node["Resources"]
        kinds = [name.removeprefix(_KIND) for name in amounts if name.startswith(_KIND)]
        cores, gpus = int(amounts.get("CPU", 0)), int(amounts.get("GPU", 0))
        if node["Alive"] and (cores or gpus):
            found.append(
                Node(
                    id=node["NodeID"],
                    address=node["NodeManagerAddress"],
                    cores=cores,
                    gpus=gpus,
                    kind=kinds[0] if gpus and kinds else "",
                )
            )
    return sorted(found, key=lambda node: node.address)


def check_versions() -> list[str]:
    """Checks that every node of the cluster has this process's libraries.

    Returns:
        A line for each node whose torch, transformers or Ray differ in the last part of the version alone.

    Raises:
        UserError: A line for each node whose libraries differ more, or that has another pkd_tune: its trials would not
            be what this process records.
    """
    answers, problems = _ask_every_node(_versions)
    here, notes = _versions(), []
    for node, there in answers.items():
        differing = [name for name in here if there[name] != here[name]]
        text = ", ".join(f"{name} {there[name]} (here {here[name]})" for name in differing)
        if any(name == "pkd_tune" or _release(there[name]) != _release(here[name]) for name in differing):
            problems.append(f"node {node} has {text}; install the same on every node")
        elif differing:
            notes.append(f"node {node} has {text}")
    if problems:
        raise UserError(*problems)
    return notes


def _versions() -> dict[str, str]:
    """Returns the versions of what trials depend on; that of pkd_tune with a hash of its modules.

    Local parts of a version, such as the `+cu130` of torch, are left out: a head node may do without a GPU's torch.
    """
    found = {name: importlib.metadata.version(name).partition("+")[0] for name in ("torch", "transformers", "ray")}
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    return {"pkd_tune": f"{importlib.metadata.version('pkd_tune')}-{digest.hexdigest()[:8]}", **found}


def _release(version: str) -> list[str]:
    return version.split(".")[:2]


def check_shared(places: Sequence[tuple[str, str]]) -> None:
    """Checks that every node of the cluster sees what this process writes to these folders and URIs.

    Args:
        places: Pairs of a flag and the folder or URI that it names.

    Raises:
        UserError: One line per node and place.
    """
    marker = f".pkd_tune-{uuid.uuid4().hex}"
    artifact_stores = [
        ArtifactStore(Path(tempfile.gettempdir()) / marker, where)
        if "://" in where
        else ArtifactStore(Path(where).resolve())
        for _, where in places
    ]
    try:
        for artifacts in artifact_stores:
            artifacts.folder.mkdir(parents=True, exist_ok=True)
            artifacts.path(marker).touch()
            artifacts.publish(marker)
        elsewhere = [
            ArtifactStore(Path(os.devnull), artifacts.uri) if artifacts.uri else artifacts
            for artifacts in artifact_stores
        ]
        answers, problems = _ask_every_node(_nodes_without_access, elsewhere, marker)
    finally:
        for artifacts in artifact_stores:
            artifacts.delete(marker)
            artifacts.evict_all()
    for node, unseen in answers.items():
        for i, why in unseen.items():
            flag, where = places[i]
            problems.append(f"{flag} {where}: node {node} {why}; {REMEDY}")
    if problems:
        raise UserError(*problems)


def _nodes_without_access(artifact_stores: Sequence[ArtifactStore], marker: str) -> dict[int, str]:
    """Returns why this node does not see a marker in a store, by the number of the store."""
    found = {}
    for i, artifacts in enumerate(artifact_stores):
        try:
            if marker not in artifacts.names():
                found[i] = "does not see it"
        except (OSError, pyarrow.ArrowException) as error:
            found[i] = f"does not see it ({str(error).splitlines()[0]})"
    return found


def _ask_every_node(function: Callable[..., T], *arguments: object) -> tuple[dict[str, T], list[str]]:
    """Calls a function of this module on every node, those without cores for trials included.

    Returns:
        What it returns, by the name of the node, and a line for each node that does not answer.
    """
    task = ray.remote(num_cpus=0)(function)
    asked = {
        f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})": task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(*arguments)
        for node in ray.nodes()
        if node["Alive"]
    }
    until = time.monotonic() + NODE_SECONDS
    answers, problems = {}, []
    for node, answer in asked.items():
        try:
            answers[node] = ray.get(answer, timeout=max(1, until - time.monotonic()))
        except ray.exceptions.RayError as error:
            problems.append(f"node {node} cannot run trials: {_failure_reason(error)}")
    return answers, problems


def _failure_reason(error: ray.exceptions.RayError) -> str:
    """Returns in one line why a task did not run on a node, and the remedy."""
    if isinstance(error, ray.exceptions.GetTimeoutError):
        return "it does not answer; see it by `ray status`"
    missing = re.search(r"No module named '?([\w.]+)", str(error))
    if missing:
        return f"it has no module {missing[1]}; install the same pkd_tune on every node"
    return f"{type(error).__name__}, so it may be lost; see it by `ray status`, and give the same command again"


def check_dashboard() -> None:
    """Checks that Ray's dashboard can be started.

    Raises:
        UserError: When its packages are missing.
    """
    if (error := get_dashboard_dependency_error()) is not None:
        raise UserError(
            f'--ray-dashboard: {error.name} is not installed; pip install "ray[default]=={ray.__version__}"'
        )


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keeps the present handler of SIGTERM; Ray installs others as it starts, which exit or print a stack trace.

    Raises:
        KeyboardInterrupt: When a SIGTERM came in the block.
    """
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit as ended:
        raise KeyboardInterrupt from ended
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _stderr_to(path: Path) -> Iterator[None]:
    """Appends what this process writes to standard error to a file, C++ libraries included.

    Ray's core warns there about a machine, such as one without a network; no setting of Ray turns that off.
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
