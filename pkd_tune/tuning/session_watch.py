"""Watches Ray's own processes: a search ends with one line when one of them does."""

import os
import re
import select
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from ray._private import ray_constants
from ray._private import worker as ray_worker

WATCH_SECONDS = 0.5
"""How often it is looked which processes Ray has."""
_NEEDED = (ray_constants.PROCESS_TYPE_GCS_SERVER, ray_constants.PROCESS_TYPE_RAYLET)


@contextmanager
def watch_session(session: Path) -> Iterator[None]:
    """Ends this process with one line when Ray's own processes end while the block runs.

    Ray would end it as soon as it uses their connection, without a word, or keep trying to reach them for a minute. The
    journal has every trial, so nothing is lost.

    Args:
        session: Folder of the session, which is removed.
    """
    at_end, over = os.pipe()
    terminal = os.dup(2)

    def watch() -> None:
        watched: dict[int, str] = {at_end: ""}
        seen: set[int] = set()
        poll = select.poll()
        poll.register(at_end)
        connected = False
        while True:
            dead, living = _needed_processes()
            for pid, kind in living.items():
                if pid not in seen and (descriptor := _exit_of(pid)) is not None:
                    watched[descriptor] = kind
                    poll.register(descriptor)
                seen.add(pid)
            connected = connected or ray.is_initialized()
            ended = [watched[descriptor] for descriptor, _ in poll.poll(0 if dead else 1000 * WATCH_SECONDS)]
            if "" in ended or (connected and not ray.is_initialized()):  # or something here has shut Ray down
                break
            if ended := [*ended, *dead]:
                line = f"stopped: Ray ended ({ended[0]} was killed, or died); no trial is lost, and the same command "
                os.write(terminal, f"{line}continues\n".encode())
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # Ray's core has messages of its own
                ray_worker._global_node.kill_all_processes(check_alive=False, allow_graceful=False)
                shutil.rmtree(session, ignore_errors=True)
                os._exit(1)
        for descriptor in watched:
            os.close(descriptor)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.close(over)
        thread.join()
        os.close(terminal)


def _needed_processes() -> tuple[list[str], dict[int, str]]:
    """Returns the processes without which the Ray that this process has started ends: which of them have ended, and the
    ids of those that live.

    The raylet ends with its agents, which are children of it.
    """
    node = ray_worker._global_node
    if node is None:  # Ray has not begun to start
        return [], {}
    dead = [kind for kind, _ in node.dead_processes() if kind in _NEEDED]
    living = {process.pid: kind for kind, process in node.live_processes() if kind in _NEEDED}
    for pid in [pid for pid, kind in living.items() if kind == ray_constants.PROCESS_TYPE_RAYLET]:
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            titles = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in children}
        except OSError:
            continue  # one of them has just ended, or there is no such file on this system
        living |= {child: "an agent" for child, title in titles.items() if re.match(rb"ray::\w*Agent", title)}
    return dead, living


def _exit_of(pid: int) -> int | None:
    """Returns a descriptor that can be read as soon as a process has ended; None where the system has none."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # it has just ended, or this is another system, or an old one
        return None
