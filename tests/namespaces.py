"""Machines on one machine: network namespaces with addresses of their own, and nodes of a Ray cluster in them."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HEAD = "10.77.0.1"
PORT = 6379
AGENT_PORTS = {
    "--metrics-export-port": 8090,
    "--dashboard-agent-listen-port": 8091,
    "--dashboard-agent-grpc-port": 8092,
    "--runtime-env-agent-port": 8093,
}
"""Ports that are known need not be waited for, which a node does for seconds only, however busy the real machine is."""


@dataclass
class Network:
    """Namespaces that a bridge in the first of them connects."""

    name: str
    folder: Path
    """For Ray's session; its path must be short."""
    addresses: list[str]
    environment: dict[str, str] = field(default_factory=dict)

    def namespace(self, address: str) -> str:
        return f"{self.name}-{self.addresses.index(address)}"

    def command(self, address: str, *command: str) -> list[str]:
        """Returns what runs a command on the machine with this address."""
        return ["ip", "netns", "exec", self.namespace(address), *command]

    def start_ray(self, address: str, cores: int) -> None:
        """Starts the node of a machine: the head on the first, else one that joins it."""
        of_head = ["--head", "--port", str(PORT), "--include-dashboard", "false", "--temp-dir", str(self.folder)]
        flags = of_head if address == HEAD else ["--address", f"{HEAD}:{PORT}"]
        flags += ["--node-ip-address", address, "--num-cpus", str(cores), "--num-gpus", "0", "--disable-usage-stats"]
        flags += [word for name, port in AGENT_PORTS.items() for word in (name, str(port))]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags, "--object-store-memory", str(2**27)]
        log = self.folder.with_suffix(".log")
        with log.open("a") as file:
            command = self.command(address, *ray)
            done = subprocess.run(command, env=self.environment, stdout=file, stderr=file, timeout=300)
        assert done.returncode == 0, log.read_text()

    def lose(self, address: str) -> None:
        """Kills everything that runs on a machine."""
        listed = subprocess.run(
            ["ip", "netns", "pids", self.namespace(address)], capture_output=True, text=True, check=True
        )
        for pid in listed.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue


def allowed() -> bool:
    """Returns whether this process may make network namespaces."""
    if shutil.which("ip") is None:
        return False
    name = f"pkd{os.getpid()}"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
        return False
    with _removed(name):
        bridge = ["ip", "-n", name, "link", "add", "bridge0", "type", "bridge"]
        return subprocess.run(bridge, capture_output=True).returncode == 0


@contextmanager
def network(folder: Path, machines: int) -> Iterator[Network]:
    """Yields that many machines; what runs on them is killed at the end."""
    addresses = [f"10.77.0.{number}" for number in range(1, machines + 1)]
    made = Network(f"pkd{os.getpid()}", folder, addresses)
    with ExitStack() as stack:
        for address in addresses:
            _ip("netns", "add", made.namespace(address))
            stack.enter_context(_removed(made.namespace(address)))
            stack.callback(made.lose, address)
            _ip("-n", made.namespace(address), "link", "set", "lo", "up")
        hub = made.namespace(HEAD)
        _ip("-n", hub, "link", "add", "bridge0", "type", "bridge")
        _ip("-n", hub, "addr", "add", f"{HEAD}/24", "dev", "bridge0")
        _ip("-n", hub, "link", "set", "bridge0", "up")
        for address in addresses[1:]:
            there, port = made.namespace(address), f"port{addresses.index(address)}"
            _ip("-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", there)
            _ip("-n", hub, "link", "set", port, "master", "bridge0", "up")
            _ip("-n", there, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", there, "link", "set", "eth0", "up")
        yield made


@contextmanager
def _removed(name: str) -> Iterator[None]:
    try:
        yield
    finally:
        _ip("netns", "del", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
