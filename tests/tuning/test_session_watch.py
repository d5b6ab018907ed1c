"""What a search does when Ray's own processes end."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ENDING = """
import os, sys, psutil, ray
from pathlib import Path
from pkd_tune.tuning import cluster
from pkd_tune.tuning.resources import Resources
with cluster.local_cluster(Resources(), Path(sys.argv[1], "log")):
    kept = ray.put(bytes(2**20))
    while True:
        children = psutil.Process().children(recursive=True)
        titles = {child: child.name() + " ".join(child.cmdline()) for child in children}
        if any("ray::DashboardAgent" in title for title in titles.values()):
            break
    next(child for child, title in titles.items() if title.startswith(sys.argv[2])).kill()
    sys.stdin.read()
"""
"""Starts Ray, keeps something there, as a search does, and kills a process of it."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "called"), [("gcs_server", "gcs_server"), ("raylet", "raylet"), ("ray::D", "an agent")]
)
def test_without_its_ray_a_process_ends_with_one_line(short_folder: Path, title: str, called: str) -> None:
    """Ray would end it without a word, or keep trying to reach what is gone."""
    done = subprocess.Popen(
        [sys.executable, "-c", ENDING, str(short_folder), title],
        env={**os.environ, "RAY_TMPDIR": str(short_folder)},
        stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert done.wait(timeout=200) == 1
    assert done.stderr is not None
    line = f"stopped: Ray ended ({called} was killed, or died); no trial is lost, and the same command continues"
    assert line in done.stderr.read().splitlines()
