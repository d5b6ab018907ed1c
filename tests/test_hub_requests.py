"""What a search of a model and a dataset of the hub asks the hub for; a server of the test's own stands in for that."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from hubs import serve
from tickets import ticket_rows, write_csv
from tiny import SPACE

HEADER = ("text", "text_pair", "label")
FLAGS = (
    "--task",
    "hub:owner/data",
    "--teacher",
    "owner/model",
    "--gpus",
    "0",
    "--depths",
    "1",
    "--space",
    "space.toml",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_only_the_driver_of_a_search_asks_the_hub_and_only_once(tmp_path: Path, tiny_data: Path) -> None:
    """Processes of trials ask nothing, and a second search of more trials asks nothing at all."""
    for name, count, seed in (("train", 400, 0), ("validation", 140, 1)):
        rows = [row for row in ticket_rows(count, seed) if row[2] in ("billing", "bug")]
        write_csv(tmp_path / "data" / f"{name}.csv", rows, HEADER)
    (tmp_path / "space.toml").write_text(SPACE)
    of_hub = ("HF_", "TRANSFORMERS_")
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(of_hub) and not name.lower().endswith("_proxy")
    }
    with serve(tiny_data / "models" / "pretrained" / "tiny", tmp_path / "data") as hub:
        environment |= {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf")}

        def search(trials: int) -> int:
            command = [sys.executable, "-m", "pkd_tune.search", *FLAGS, "--trials", str(trials), "--data-dir", "own"]
            process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True)
            _, said = process.communicate(timeout=500)
            assert process.returncode == 0, said
            rows = pd.read_csv(next(tmp_path.glob("results/*/*/trials.csv")))
            assert (rows["stage"] == "search").sum() == trials
            return process.pid

        hub.clients = set()
        driver = search(2)
        assert hub.clients == {driver}
        assert sorted(hub.downloads()).count("model.safetensors 0") == 1
        assert sorted(hub.downloads()).count("train.csv 0") == 1
        hub.requests = []
        search(3)
        assert hub.requests == []
