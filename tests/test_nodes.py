"""A search on a cluster of real nodes, each with an address of its own, whose head node does no work."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import namespaces
import pandas as pd
import pytest
import torch
from killed_searches import RUN, journal, wait_for
from tiny import SPACE

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_features
from pkd_tune.distillation.teacher import finetune
from pkd_tune.encoders.folder import weights_key
from pkd_tune.tuning.space_file import load_space

pytestmark = pytest.mark.slow

LONG = (
    SPACE.replace("epochs = 6", "epochs = 60", 1)
    .replace("[3e-3]", "[3e-3, 2e-3]")
    .replace("epochs = 2\n", "epochs = 30\n", 1)
    .replace("evaluations_per_epoch = 2", "evaluations_per_epoch = 1")
    .replace("seeds = 0", "seeds = 1")
)
"""Training runs that last long enough to lose a node during one."""


@pytest.fixture
def machines() -> Iterator[namespaces.Network]:
    if not namespaces.allowed():
        pytest.skip("network namespaces are not allowed here")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, namespaces.network(Path(folder) / "r", 3) as made:
        made.environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "HOME": folder}
        made.environment["RAY_raylet_start_wait_time_s"] = "240"  # Ray's spelling; where the real machine is busy
        yield made


@pytest.mark.timeout(3600)
def test_workers_do_everything_and_two_lost_nodes_cost_nothing_but_time(
    machines: namespaces.Network, tiny_data: Path, tmp_path: Path
) -> None:
    head, one, other = machines.addresses
    home, output = tmp_path / "home", tmp_path / "home" / "output.txt"
    shutil.copytree(tiny_data, home / "data")
    (home / "space.toml").write_text(LONG)
    machines.start_ray(head, cores=0)
    for address in (one, other):
        machines.start_ray(address, cores=1)
    flags = ["--task", "MRPC", "--address", f"{head}:{namespaces.PORT}", "--teacher", "tiny", "--depths", "1"]
    flags += ["--space", "space.toml"]
    command = machines.command(head, sys.executable, "-m", "pkd_tune.search", *flags)
    with output.open("w") as file:
        process = subprocess.Popen(command, cwd=home, env=machines.environment, stdout=file, stderr=file, text=True)
    try:
        for rate in ("0.003", "0.002"):
            wait_for(process, output, f"teacher at learning rate {rate}: epoch 2.0", 1)
        machines.lose(one)
        wait_for(process, output, f"its process on {one} died; it is started again", 1)
        assert not (home / RUN / "run.log").exists()  # by which a continued search knows that trials began
        machines.start_ray(one, cores=1)
        wait_for(process, journal(home), f'"node":"{other}"', 1)
        machines.lose(other)
        assert process.wait(timeout=3000) == 0, output.read_text()
    finally:
        process.kill()

    work = json.loads((home / RUN / "run.json").read_text())["work"]
    assert {each["job"]: each["node"] in (one, other) for each in work} == dict.fromkeys(
        ("teacher at learning rate 0.003", "teacher at learning rate 0.002", "score of the teacher", "teacher outputs"),
        True,
    )
    assert set(pd.read_csv(home / RUN / "evaluations.csv")["node"]) == {one, other}
    trials = pd.read_csv(home / RUN / "trials.csv")
    assert (trials["state"] != "failed").all()
    assert (trials["state"] == "complete").any()
    report = (home / RUN / "report.md").read_text()
    assert f"{one}: " in report
    assert f"{other}: " in report
    assert f"{head}: " not in report

    torch.set_num_threads(1)
    data, task, tiny = home / "data", TASKS["MRPC"], home / "data/models/pretrained/tiny"
    trainings = [replace(training, seed=42) for training in load_space(home / "space.toml").teacher]
    splits = load_features(task, data, tiny, 32)
    here = finetune(
        task, splits, tiny, 4, tmp_path / "here", trainings, torch.device("cpu"), lambda evaluation: None, max_length=32
    )
    (there,) = (data / "models/finetuned/MRPC").glob("tiny-*-layer-*/")
    assert weights_key(here) == weights_key(there)
    assert json.loads((here / "training.json").read_text()) == json.loads((there / "training.json").read_text())
