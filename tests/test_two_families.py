"""Searches whose teacher and students are of different families, from the command to the exported students."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from families import write_model
from tiny import SPACE, write_mrpc
from transformers import pipeline

from pkd_tune.data.glue import TASKS
from pkd_tune.data.loading import load_raw


@pytest.mark.slow
@pytest.mark.parametrize(("teacher", "student"), [("deberta-v2", "bert"), ("xlm-roberta", "modernbert")])
def test_a_search_with_two_families(teacher: str, student: str, tmp_path: Path) -> None:
    write_mrpc(tmp_path / "data" / "data_raw" / "MRPC", train=160)
    for kind in (teacher, student):
        write_model(tmp_path / "data" / "models" / "pretrained" / kind, kind)
    space = SPACE.replace("trials = 4", "trials = 2").replace("epochs = 6", "epochs = 10")
    (tmp_path / "space.toml").write_text(space.replace("epochs = 2", "epochs = 6"))
    flags = ("--task", "mrpc", "--gpus", "0", "--teacher", teacher, "--student", student, "--depths", "2")
    command = (sys.executable, "-m", "pkd_tune.search", *flags, "--space", "space.toml", "--name", "two")
    planned = subprocess.run([*command, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert planned.returncode == 0, planned.stderr
    assert "Forward pass: teacher (" in planned.stdout
    assert ") transformers" in planned.stdout
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    run_dir = tmp_path / "results" / "MRPC" / "two"
    trials = list(csv.DictReader((run_dir / "trials.csv").open()))
    assert [trial["state"] for trial in trials] == ["complete"] * 2
    summary = json.loads((run_dir / "summary.json").read_text())
    (best,) = summary["students"]
    assert json.loads((run_dir / best["folder"] / "config.json").read_text())["model_type"] == student

    raw = load_raw(TASKS["MRPC"], tmp_path / "data")["dev"]
    assert raw.sentence2 is not None
    assert raw.labels is not None
    classify = pipeline("text-classification", model=str(run_dir / best["folder"]), device="cpu")
    pairs = [{"text": a, "text_pair": b} for a, b in zip(raw.sentence1, raw.sentence2, strict=True)]
    found = [TASKS["MRPC"].labels.index(each["label"]) for each in classify(pairs, truncation=True)]
    accuracy = 100 * sum(a == b for a, b in zip(found, raw.labels, strict=True)) / len(found)
    assert accuracy == pytest.approx(best["metrics"]["accuracy"])
