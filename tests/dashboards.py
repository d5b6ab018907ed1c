"""Running dashboards, asked over loopback."""

import json
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

SECONDS = 120
"""Longer than any server takes on a busy machine."""


def start(run: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pkd_tune.dashboard", str(run)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def get(address: str) -> tuple[int, str]:
    with urllib.request.urlopen(address, timeout=SECONDS) as answer:
        return answer.status, answer.read().decode()


def ask(address: str, what: dict[str, Any]) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(address, data=json.dumps(what).encode(), headers=headers)
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        found = json.loads(answer.read())
    assert isinstance(found, dict)
    return found


def scalars(tensorboard: str, trials: int) -> dict[str, Any]:
    """Returns TensorBoard's scalars by trial, once it knows as many; it reads events after it has begun to answer."""
    until = time.monotonic() + SECONDS
    found: dict[str, Any] = {}
    while len(found) < trials and time.monotonic() < until:
        time.sleep(0.1)  # asked without a pause, it has no time left to read
        found = json.loads(get(tensorboard + "data/plugin/scalars/tags")[1])
    return found


def family(process: int) -> list[int]:
    """Returns a process and all that it and its children started."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [process, *(each for child in children for each in family(int(child)))]
