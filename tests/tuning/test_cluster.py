"""Ray, started here or joined: what it does to this process, pretended GPUs, and several machines."""

import importlib.metadata
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
import ray
import trainables
from runner_runs import ALPHA, TWO, search

from pkd_tune.config import UserError
from pkd_tune.tuning import cluster
from pkd_tune.tuning.plan import StudyKey, StudyPlan
from pkd_tune.tuning.resources import Resources
from pkd_tune.tuning.runner import run_search
from pkd_tune.tuning.studies import Studies
from pkd_tune.tuning.trial import TrialContext
from pkd_tune.tuning.trial_tables import trial_rows


def test_our_ray_listens_on_loopback_only_and_leaves_sigterm_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the temporary folder is: this one's path leaves no room for a socket below it."""
    long = tmp_path / ("long" * 25)
    long.mkdir()
    monkeypatch.setenv("RAY_TMPDIR", str(long))
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with cluster.local_cluster(Resources(), tmp_path / "log"):
            assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
            worker = ray.get(ray.remote(lambda: os.getpid()).remote())
            processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
            assert worker in [process.pid for process in processes]
            sockets = [socket for process in processes for socket in process.net_connections("inet")]
            listening = {ip_address(socket.laddr.ip) for socket in sockets if socket.status == psutil.CONN_LISTEN}
            assert listening
            assert all((getattr(each, "ipv4_mapped", None) or each).is_loopback for each in listening), listening
            with (
                pytest.raises(UserError, match=r"Ray did not start \(.*twice.*/log says more"),
                cluster.local_cluster(Resources(), tmp_path / "log"),
            ):
                pass
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_session_is_private_and_gone_at_the_end_and_so_are_rays_variables(
    short_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short_folder))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("OMP_WAIT_POLICY", cluster.AUTH_MODE, cluster.AUTH_TOKEN, *cluster.RAY_ENVIRONMENT):
        monkeypatch.delenv(name, raising=False)

    @ray.remote(num_cpus=1)  # type: ignore[untyped-decorator]
    def seen() -> tuple[dict[str, str], Path]:
        return dict(os.environ), cluster.node_folder()

    with cluster.local_cluster(Resources(), tmp_path / "log"):
        variables, folder = ray.get(seen.remote())
        (session,) = short_folder.iterdir()
        assert stat.S_IMODE(session.stat().st_mode) == 0o700
        assert folder.is_relative_to(session)
        assert variables["OMP_WAIT_POLICY"] == "PASSIVE"
        assert variables.items() >= cluster.TRIAL_ENVIRONMENT.items()
        assert variables["HF_HUB_OFFLINE"] == "1"
        assert re.fullmatch(r"[0-9a-f]{64}", os.environ[cluster.AUTH_TOKEN])
        assert cluster.RAY_ENVIRONMENT.items() <= os.environ.items()
    assert list(short_folder.iterdir()) == []
    assert not {cluster.AUTH_MODE, cluster.AUTH_TOKEN, *cluster.RAY_ENVIRONMENT} & os.environ.keys()
    assert not (tmp_path / ".ray" / "auth_token").exists()


READ_CLUSTER = """
import sys
from ray._raylet import GcsClient
client = GcsClient(address=sys.argv[1])
print("NodeID", client.internal_kv_keys(b"", None, timeout=5), client.get_all_resource_usage(timeout=5))
"""
"""Reads Ray's key-value store, in which it keeps pickled functions, as anybody may try."""


@pytest.mark.slow
def test_every_start_has_a_token_of_its_own_that_no_file_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(cluster.AUTH_TOKEN, "the user's, for a cluster of theirs")
    monkeypatch.delenv(cluster.AUTH_MODE, raising=False)
    with cluster.local_cluster(Resources(), tmp_path / "log"):
        token = os.environ[cluster.AUTH_TOKEN]
        assert re.fullmatch(r"[0-9a-f]{64}", token)
        assert ray.get(ray.remote(lambda: os.environ["RAY_AUTH_TOKEN"]).remote()) == token
        address = ray.get_runtime_context().gcs_address
        said = {
            key: subprocess.run(
                [sys.executable, "-c", READ_CLUSTER, address],
                env={**os.environ, cluster.AUTH_TOKEN: key},
                capture_output=True,
                text=True,
                timeout=100,
            )
            for key in (token, "0" * 64)
        }
    assert "NodeID" in said[token].stdout, said[token].stderr
    assert "NodeID" not in said["0" * 64].stdout
    assert "InvalidAuthToken" in said["0" * 64].stderr, said["0" * 64].stderr
    assert os.environ[cluster.AUTH_TOKEN] == "the user's, for a cluster of theirs"
    assert cluster.AUTH_MODE not in os.environ
    assert not (tmp_path / ".ray" / "auth_token").exists()


@pytest.mark.slow
def test_a_session_without_a_token_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(cluster.AUTH_MODE, "disabled")
    with cluster.local_cluster(Resources(), tmp_path / "log"):
        pass
    assert "RAY_AUTH_MODE=disabled is set: every user of this machine can run code as you" in caplog.text


def test_what_ray_refuses_of_ours_is_a_bug_and_not_the_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "OBJECT_STORE_BYTES", 1)
    with (
        pytest.raises(ValueError, match="object store"),
        cluster.local_cluster(Resources(), tmp_path / "log"),
    ):
        pass


def test_no_cluster_at_an_address_is_one_clear_line(tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match=r"--address 127.0.0.1:1: no Ray cluster answers at this address"),
        cluster.connected_cluster("127.0.0.1:1", tmp_path / "log"),
    ):
        pass


def _silent(_: socket.socket) -> None:
    """Says nothing."""


def _web(connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _closing(connection: socket.socket) -> None:
    connection.close()


@pytest.mark.parametrize("answer", [_silent, _web, _closing])
def test_what_is_no_ray_cluster_is_not_asked_anything(
    answer: Callable[[socket.socket], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(cluster, "_PING", f"open({str(tmp_path / 'asked')!r}, 'w')")
    held: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        held.append(listener.accept()[0])
        answer(held[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        with (
            pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers at this address"),
            cluster.connected_cluster(address, tmp_path / "log"),
        ):
            pass
        thread.join()
    held[0].close()
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("address", ["auto", "ray://127.0.0.1:10001", "127.0.0.1"])
def test_an_address_that_is_none_is_one_clear_line(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "canonicalize_bootstrap_address", lambda address: None)
    with (
        pytest.raises(UserError, match=f"--address {address}: no Ray cluster answers .*(none|an address is auto)"),
        cluster.connected_cluster(address, tmp_path / "log"),
    ):
        pass


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sixteen_trials_share_eight_gpus_and_each_sees_one(context: TrialContext, tmp_path: Path) -> None:
    studies = Studies(tmp_path / "study.log", [StudyPlan(study_key=StudyKey(1, "pkd"), quota=16, parameters=ALPHA)])
    resources = Resources(gpus=8, trials_per_gpu=2)
    with cluster.local_cluster(resources, tmp_path / "log"):
        rows = search(replace(context, resources=resources), studies, trainables.together)
    assert [row["state"] for row in rows].count("failed") == 0
    seen = [path.read_text() for path in context.artifacts.folder.glob("*.here")]
    assert sorted(seen) == sorted([str(gpu) for gpu in range(8)] * 2)


@pytest.mark.slow
def test_a_node_that_differs_or_does_not_see_a_place_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place in the memory of this process is one that no node sees."""
    torch = importlib.metadata.version("torch").partition("+")[0]
    release, _, last = torch.rpartition(".")
    from ray.cluster_utils import Cluster

    machine = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27}
    machines = Cluster(initialize_head=True, head_node_args=machine)
    try:
        with cluster.connected_cluster(machines.address, tmp_path / "log"):
            places = [("--data-dir", str(tmp_path / "data")), ("--storage", "mock:///far")]
            with pytest.raises(UserError) as raised:
                cluster.check_shared(places)
            assert cluster.check_versions() == []
            others = {"torch": f"{release}.{int(last) + 1}+cpu"}
            version = importlib.metadata.version
            monkeypatch.setattr(importlib.metadata, "version", lambda name: others.get(name) or version(name))
            (note,) = cluster.check_versions()
            others |= {"torch": "1.0.0", "pkd_tune": "0.0.1"}
            with pytest.raises(UserError) as differing:
                cluster.check_versions()
    finally:
        machines.shutdown()
    assert re.fullmatch(rf"node [\d.]+ \(\w{{8}}\) has torch {torch} \(here {release}.{int(last) + 1}\)", note)
    (problem,) = differing.value.problems
    named = rf"pkd_tune \S+ \(here 0.0.1-\w{{8}}\), torch {torch} \(here 1.0.0\); install the same on every node"
    assert re.fullmatch(rf"node [\d.]+ \(\w{{8}}\) has {named}", problem)
    (problem,) = raised.value.problems
    assert re.fullmatch(r"--storage mock:///far: node [\d.]+ \(\w{8}\) does not see it; give a folder .*", problem)
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_lost_node_costs_nothing_but_time(context: TrialContext, tmp_path: Path) -> None:
    import threading

    from ray.cluster_utils import Cluster

    os.environ["RAY_health_check_period_ms"] = "1000"  # noqa: SIM112 - Ray's spelling
    machines = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": 2**27}
    )
    nodes = [machines.add_node(num_cpus=1, object_store_memory=2**27) for _ in range(2)]
    studies = Studies(tmp_path / "study.log", [StudyPlan(study_key=StudyKey(1, "pkd"), quota=4, parameters=ALPHA)])

    def lose_one() -> None:
        lost = nodes[0].node_id
        while not any(lost in path.read_text() for path in context.artifacts.folder.glob("*.nodes")):
            time.sleep(0.1)
        machines.remove_node(nodes[0], allow_graceful=False)

    try:
        with cluster.connected_cluster(machines.address, tmp_path / "log"):
            assert cluster.cluster_resources(0, None) == TWO
            cluster.check_shared([("--out", str(tmp_path)), ("--storage", f"file://{tmp_path}/far")])
            loser = threading.Thread(target=lose_one)
            loser.start()
            run_search(replace(context, resources=TWO), studies, tmp_path, trainable=trainables.patient)
            loser.join()
    finally:
        machines.shutdown()
    rows = trial_rows(studies)
    assert [row["state"] for row in rows] == ["complete"] * 4
    assert [row["evaluations"] for row in rows] == [10] * 4


def test_ray_that_runs_in_the_process_already_is_none_of_a_searchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a notebook: it has other resources and settings."""
    cluster.check_not_connected()
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    with pytest.raises(UserError, match=r"Ray runs in this process already; call ray\.shutdown\(\) first"):
        cluster.check_not_connected()
