"""Searches that send results to MLflow and Weights & Biases, and keep files of trials in an S3 bucket: local ones."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tiny import SPACE

pytestmark = pytest.mark.services

RUN = Path("results/MRPC/tiny")
BLOCK = 32 * 1024
FLAGS = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--depths", "2", "--space", "space.toml")


@pytest.fixture
def home(tmp_path: Path, tiny_data: Path) -> Path:
    """Returns a working folder for a search of two trials."""
    shutil.copytree(tiny_data, tmp_path / "data")
    (tmp_path / "space.toml").write_text(SPACE.replace("trials = 4", "trials = 2"))
    return tmp_path


def search(home: Path, *flags: str, **environment: str) -> pd.DataFrame:
    """Runs a search; returns its table of trials."""
    command = [sys.executable, "-m", "pkd_tune.search", *FLAGS, *flags]
    everything = {**os.environ, **environment}
    done = subprocess.run(command, cwd=home, env=everything, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr + (home / RUN / "run.log").read_text()
    return pd.read_csv(home / RUN / "trials.csv")


SEARCHED = ("alpha", "beta", "learning_rate")


def test_mlflow_receives_the_settings_and_scores_of_every_trial(home: Path) -> None:
    mlflow = pytest.importorskip("mlflow", reason='mlflow is not installed: pip install "pkd_tune[mlflow]"')
    uri = f"sqlite:///{home}/mlflow.db"
    trials = search(home, "--log", "mlflow", MLFLOW_TRACKING_URI=uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.get_experiment_by_name("pkd_tune MRPC tiny")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert sorted(runs) == [f"2-layer-pkd-trial-{number:04d}" for number in trials["trial"]]
    for row in trials.to_dict("records"):
        run = runs[f"2-layer-pkd-trial-{row['trial']:04d}"]
        assert run.info.status == "FINISHED"
        assert {name: float(run.data.params[f"settings/{name}"]) for name in SEARCHED} == pytest.approx(
            {name: row[name] for name in SEARCHED}
        )
        assert run.data.params["settings/strategy"] == row["strategy"]
        history = {each.step: each.value for each in client.get_metric_history(run.info.run_id, "score")}
        assert len(history) >= row["evaluations"]
        assert max(history.values()) == pytest.approx(row["score"])
        assert run.data.metrics["metrics/f1"] > 0


def test_wandb_receives_the_settings_and_scores_of_every_trial(home: Path) -> None:
    """Of a trial that ends as the search does, too."""
    pytest.importorskip("wandb", reason='wandb is not installed: pip install "pkd_tune[wandb]"')
    trials = search(home, "--log", "wandb", WANDB_MODE="offline", WANDB_CACHE_DIR=str(home / "cache"))
    runs = [records(file) for file in (home / RUN).glob("wandb/offline-run-*/*.wandb")]
    named = {each["run"][0].run.display_name: each for each in runs}
    assert sorted(named) == [f"2-layer-pkd-trial-{number:04d}" for number in trials["trial"]]
    for row in trials.to_dict("records"):
        kinds = named[f"2-layer-pkd-trial-{row['trial']:04d}"]
        begun = kinds["run"][0].run
        assert (begun.project, begun.run_group) == ("pkd_tune", "tiny")
        (settings,) = [json.loads(each.value_json) for each in begun.config.update if each.key == "settings"]
        assert {name: settings[name] for name in SEARCHED} == pytest.approx({name: row[name] for name in SEARCHED})
        logged = [{"/".join(i.nested_key): i.value_json for i in each.history.item} for each in kinds["history"]]
        scores = [float(each["score"]) for each in logged if "score" in each]
        assert len(scores) >= row["evaluations"]
        assert max(scores) == pytest.approx(row["score"])
        assert len(kinds["exit"]) == 1


def records(path: Path) -> dict[str, list[Any]]:
    """Returns the records of a file of wandb's offline mode by their kind.

    After 7 bytes come blocks of 32 KiB, in which every part of a record has a checksum, its length, and whether it is
    the whole record (1) or the last part (4); a block's end that is too short for these is left empty.
    """
    from wandb.proto.wandb_internal_pb2 import Record

    content, place, parts = path.read_bytes(), 7, b""
    found = defaultdict(list)
    while place < len(content):
        if (left := BLOCK - place % BLOCK) < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = Record.FromString(parts)
            found[record.WhichOneof("record_type")].append(record)
            parts = b""
    return found


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Yields the address of an S3 server with the bucket `bucket`, which is in the environment too."""
    reason = 'moto is not installed: pip install "moto[server,s3]"'
    server = pytest.importorskip("moto.server", reason=reason).ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        pytest.importorskip("boto3", reason=reason).client("s3").create_bucket(Bucket="bucket")
        yield address
    finally:
        server.stop()


def test_files_of_trials_lie_in_a_bucket(home: Path, endpoint: str) -> None:
    import boto3

    trials = search(home, "--storage", "s3://bucket/runs")
    assert (trials["state"] == "complete").all()
    there = boto3.client("s3").list_objects_v2(Bucket="bucket")["Contents"]
    (place,) = {"/".join(each["Key"].split("/")[:3]) for each in there if each["Key"].count("/") > 2}
    assert place == f"runs/MRPC/tiny-{json.loads((home / RUN / 'run.json').read_text())['id']}"
    sizes = {each["Key"].removeprefix(f"{place}/checkpoints/"): each["Size"] for each in there if each["Size"]}
    weights = {f"2-layer-pkd-trial-{number:04d}.safetensors" for number in trials["trial"]}
    assert {name for name in sizes if "/" not in name} == weights
    exported = home / RUN / "best/2-layer/model.safetensors"
    assert all(abs(sizes[name] - exported.stat().st_size) < 5000 for name in weights)
    assert not (home / RUN / "checkpoints").exists()
