"""Serves a run in the browser: its trials in optuna-dashboard, its curves in TensorBoard, on loopback only.

It works while a search runs, which it does not disturb, and afterwards.
"""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NoReturn
from urllib.parse import urlsplit

from pkd_tune.config import UserError
from pkd_tune.files import DASHBOARD, JOURNAL, RAY, read_json

HOST = "127.0.0.1"
TRIALS_PORT, TENSORBOARD_PORT = 8080, 6006
"""Where people look for optuna-dashboard and TensorBoard; where one is in use, any free port is taken."""
POLL_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Server:
    """A server that was started."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    output: IO[bytes]
    """Receives all it prints."""


class ServerExitedError(Exception):
    """A server ended although nobody stopped it."""


def serve(run_dir: Path) -> NoReturn:
    """Starts the servers, prints their addresses, and serves until Ctrl-C.

    Args:
        run_dir: From `find_run()`.

    Raises:
        ServerExitedError: When a server ended by itself.
        KeyboardInterrupt: At Ctrl-C, after all servers were stopped.
    """
    journal, events = str(run_dir / JOURNAL), str(run_dir / RAY)
    show("run", str(run_dir))
    with ExitStack() as stack:
        port = free_port(TRIALS_PORT)
        command = ["pkd_tune.tuning.study_dashboard", journal, str(port)]
        trials = stack.enter_context(start_server("trials", port, command))
        port = free_port(TENSORBOARD_PORT)
        # Its fast loader is a process of its own, which outlives it a little.
        loader = "--load_fast=false"
        command = ["tensorboard.main", "--logdir", events, "--host", HOST, "--port", str(port), loader]
        curves = stack.enter_context(start_server("TensorBoard", port, command))
        servers = [trials, curves]
        for server in servers:
            while not accepts_connections(HOST, server.port):
                check_alive(servers)
                time.sleep(POLL_SECONDS)
            show(server.name, f"http://{HOST}:{server.port}/")
        show("note", f"no login: every user of this machine can read these pages while they listen on {HOST}")
        show("stop", "Ctrl-C")
        shown = None
        while True:
            check_alive(servers)
            if (address := ray_address(run_dir)) not in (None, shown):
                token = read_json(run_dir / DASHBOARD).get("token")
                show("Ray", f"{address}" + (f" (its token: {token})" if token else ""))
                shown = address
            time.sleep(POLL_SECONDS)


def find_run(run_dir: Path | None) -> Path:
    """Returns the folder of the run to show; by default the one below results/ whose journal was written last.

    Raises:
        UserError: When there is none, or it has no journal.
    """
    if run_dir is None:
        journals = sorted(Path("results").glob(f"*/*/{JOURNAL}"), key=lambda path: path.stat().st_mtime)
        if not journals:
            raise UserError("there is no run under results/ that has trials; give its folder as RUN")
        return journals[-1].parent.resolve()
    if not (run_dir / JOURNAL).is_file():
        raise UserError(f"{run_dir}: no {JOURNAL} there; give the folder of a run whose trials have begun")
    return run_dir.resolve()


@contextmanager
def start_server(name: str, port: int, command: Sequence[str]) -> Iterator[Server]:
    """Starts a server, and stops it at the end.

    Args:
        name: What people call it.
        port: Where it will listen.
        command: Module and arguments.
    """
    with tempfile.TemporaryFile() as output:
        arguments = [sys.executable, "-m", *command]
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            yield Server(name, port, process, output)
        finally:
            process.terminate()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def check_alive(servers: Sequence[Server]) -> None:
    """Raises when a server has ended.

    Raises:
        ServerExitedError: With the last line it printed.
    """
    for server in servers:
        if (code := server.process.poll()) is not None:
            server.output.seek(0)
            lines = server.output.read().decode(errors="replace").splitlines() or ["it printed nothing"]
            raise ServerExitedError(f"{server.name} ended with code {code}: {lines[-1].strip()}")


def free_port(usual: int) -> int:
    """Returns a port of this machine that nobody listens on: the usual one if possible."""
    for port in (usual, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port just left is free
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
            return found
    raise OSError(f"no free port on {HOST}")


def accepts_connections(host: str, port: int) -> bool:
    """Returns whether something listens there."""
    try:
        with socket.create_connection((host, port), timeout=1):
            return True
    except OSError:
        return False


def ray_address(run_dir: Path) -> str | None:
    """Returns the address of Ray's dashboard; None unless a search is running and has one.

    The record of a search that was killed stays behind, so the address must answer.
    """
    try:
        address = read_json(run_dir / DASHBOARD)["ray"]
    except FileNotFoundError:
        return None
    parts = urlsplit(address)
    return address if accepts_connections(parts.hostname or HOST, parts.port or 80) else None


def show(name: str, what: str) -> None:
    """Prints a line at once, also into a pipe."""
    print(f"{name + ':':<13}{what}", flush=True)
