"""Ray itself: started on this machine for one search, or joined where it runs already."""

import logging
import os
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyarrow
import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pkd_tune.config import UserError
from pkd_tune.tuning.artifacts import REMEDY, ArtifactStore
from pkd_tune.tuning.process import environment
from pkd_tune.tuning.resources import Resources, resources_among

log = logging.getLogger(__name__)

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

AUTH_MODE, AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
"""Variables that say whether Ray requires a token, and which."""

_SOCKET = "/pkd-xxxxxxxx/r/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store"
"""Path of a socket of Ray's below the temporary folder, at its longest."""
_LONGEST_SOCKET_PATH = 103
"""What operating systems allow: 103 on macOS, 107 on Linux."""


@contextmanager
def own_cluster(resources: Resources, log_file: Path, *, dashboard: bool = False) -> Iterator[str | None]:
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
            session = stack.enter_context(_session_folder())
            stack.enter_context(_random_token())
            stack.callback(ray.shutdown)
            with _stderr_to(log_file), _own_sigterm(), _on_loopback():
                context = ray.init(
                    address="local",
                    num_cpus=resources.count * resources.threads,
                    num_gpus=resources.gpus,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=dashboard,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": environment()},
                    _temp_dir=str(session),
                )
        except Exception as error:
            # Ray raises a bare Exception for a start that takes too long; what is more special may be a bug.
            if type(error) is not Exception and not isinstance(error, (OSError, RuntimeError)):
                raise
            reason = str(error).splitlines()[0]
            raise UserError(
                f"Ray did not start ({reason}); where this machine is only busy, the same command again may do; "
                f"{log_file} says more"
            ) from error
        yield f"http://{context.dashboard_url}" if dashboard and context.dashboard_url else None


def node_folder() -> Path:
    """Returns a folder of this search on the node that the calling trial runs on, below that of the Ray session.

    The session's name cannot be foreseen by other users. The folder of `own_cluster()` is removed at its end.
    """
    return Path(ray_worker._global_node.get_session_dir_path(), f"pkd_tune-{ray.get_runtime_context().get_job_id()}")


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Yields a new temporary folder for Ray's session that only this user can enter, and removes it at the end.

    Where the path of the user's temporary folder is too long for a socket below it, the folder is made in /tmp.
    """
    parent = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    if len(parent) + len(_SOCKET) > _LONGEST_SOCKET_PATH:
        parent = "/tmp"
    folder = tempfile.mkdtemp(prefix="pkd-", dir=parent)
    try:
        yield Path(folder, "r")  # Ray gives everybody access to the folder itself
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
def joined_cluster(address: str, log_file: Path) -> Iterator[None]:
    """Connects to a running Ray cluster, and disconnects at the end.

    Args:
        address: HOST:PORT of its head node, or `auto`.
        log_file: Receives what Ray's core writes to standard error as it connects.

    Raises:
        UserError: When none answers there.
    """
    with ExitStack() as stack:
        stack.enter_context(_variables(RAY_ENVIRONMENT))
        stack.callback(ray.shutdown)
        try:
            with _stderr_to(log_file), _own_sigterm():
                _check_reachable(address)
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"env_vars": environment()},
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--address {address}: no Ray cluster answers there ({reason}); on its head node, `ray status` "
                "shows whether it runs"
            ) from error
        yield


def _check_reachable(address: str) -> None:
    """Raises OSError or ValueError when nothing listens at an address; Ray itself would keep trying for minutes."""
    if address == "auto" or "://" in address:
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("an address is like 10.0.0.1:6379")
    socket.create_connection((host, int(port)), timeout=5).close()


def cluster_resources(gpus: int | None, trials_per_gpu: int | None) -> Resources:
    """Returns the resources of the cluster that this process is connected to.

    Args:
        gpus: As in `choose_resources()`.
        trials_per_gpu: As in `choose_resources()`.

    Raises:
        UserError: When it has fewer GPUs than asked for, or none for trials to share.
    """
    found = ray.cluster_resources()
    return resources_among(int(found.get("GPU", 0)), int(found.get("CPU", 1)), gpus, trials_per_gpu)


def check_shared(places: Sequence[tuple[str, str]]) -> None:
    """Checks that every node of the cluster sees what this process writes to these folders and URIs.

    Args:
        places: Pairs of a flag and the folder or URI that it names.

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
    """Keeps the present handler of SIGTERM; Ray installs one as it starts, which prints a stack trace."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
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
