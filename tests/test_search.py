"""The main job end to end, as a user runs it: real processes, a real Ray, a tiny model and a tiny MRPC."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import SPACE
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune.tuning.artifacts import open_artifacts

Search = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Returns a working folder with its own copy of the tiny data, and no results yet."""
    folder = tmp_path_factory.mktemp("home")
    shutil.copytree(tiny_data, folder / "data")
    return folder


@pytest.fixture(scope="module")
def search(home: Path, all_cores: set[int]) -> Search:
    def run(*flags: str) -> subprocess.CompletedProcess[str]:
        command = ["taskset", "--cpu-list", ",".join(map(str, all_cores)), sys.executable, "-m", "pkd_tune.search"]
        return subprocess.run([*command, *flags], cwd=home, capture_output=True, text=True, timeout=200)

    return run


FLAGS = ("--task", "mrpc", "--gpus", "0", "--teacher", "tiny", "--depths", "3", "1", "--space", "space.toml")


@pytest.fixture(scope="module")
def finished(home: Path, search: Search) -> Path:
    """Returns the folder of a finished search of four trials."""
    (home / "space.toml").write_text(SPACE)
    done = search(*FLAGS)
    assert done.returncode == 0, done.stderr
    run = home / "results" / "MRPC" / "tiny"
    assert done.stdout == ""
    *_, report, checkpoints, tensorboard = done.stderr.splitlines()
    assert report.split()[-1] == str(run / "report.md")
    assert checkpoints.split()[-1] == str(run / "best")
    assert tensorboard.split()[-1] == str(run / "ray")
    ours = (
        "note: ",
        "warning: one layer",
        "MRPC: ",
        "teacher: ",
        "computing ",
        "search ",
        "exporting ",
        "1 layer",
        "3 layers",
    )
    others = [line for line in done.stderr.splitlines()[:-3] if not line.startswith(ours)]
    assert others == []  # nothing of Ray's, Optuna's or transformers' own
    return run


def test_every_trial_is_in_the_table(finished: Path) -> None:
    trials = pd.read_csv(finished / "trials.csv")
    assert trials["depth"].tolist() == [1, 1, 3, 3]
    assert set(trials["state"]) <= {"complete", "stopped early"}
    complete = trials[trials["state"] == "complete"]
    assert (complete["evaluations"] == 4).all()
    assert ((trials["f1"] + trials["accuracy"]) / 2 - trials["score"]).abs().max() < 1e-6
    assert (trials["temperature"] == 10).all()
    assert trials["alpha"].between(0.2, 0.9).all()


def test_tensorboard_events_are_there_for_every_trial(finished: Path) -> None:
    folders = {path.parent.name for path in (finished / "ray").rglob("events.out.tfevents.*")}
    assert folders == {f"{depth}-layer-pkd-trial-{number:04d}" for depth in (1, 3) for number in (0, 1)}


@pytest.mark.parametrize("depth", [1, 3])
def test_an_exported_student_scores_the_same_in_plain_transformers(finished: Path, home: Path, depth: int) -> None:
    folder = finished / "best" / f"{depth}-layer"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with (home / "data/data_raw/MRPC/dev.tsv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    inputs = tokenizer(
        [r["#1 String"] for r in rows], [r["#2 String"] for r in rows], padding=True, return_tensors="pt"
    )
    predictions = model(**inputs).logits.argmax(-1)
    accuracy = 100 * (predictions == torch.tensor([int(r["Quality"]) for r in rows])).float().mean().item()

    assert model.config.num_hidden_layers == depth
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    summary = json.loads((finished / "summary.json").read_text())
    student = next(student for student in summary["students"] if student["layers"] == depth)
    assert accuracy == pytest.approx(student["metrics"]["accuracy"])
    assert f"| {accuracy:.1f} |" in (finished / "report.md").read_text()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert f"| accuracy | {accuracy:.1f} |" in card
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")) == []


def test_only_the_best_weights_are_kept(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    best = {f"{s['layers']}-layer-pkd-trial-{s['trial']:04d}.safetensors" for s in summary["students"]}
    files = {path.name for path in (finished / "checkpoints").iterdir()}
    assert files >= best
    assert all(name.endswith(".safetensors") for name in files)  # no state of an ended trial


def test_the_record_says_what_was_run(finished: Path) -> None:
    record = json.loads((finished / "run.json").read_text())
    assert record["search"]["depths"] == [1, 3]
    assert record["search"]["data"]["task"] == "MRPC"
    assert record["provenance"]["command"].startswith("python -m pkd_tune.search --task mrpc")
    assert record["provenance"]["versions"]["torch"] == torch.__version__
    assert record["content"].keys() == {"teacher", "train", "dev"}


def test_a_larger_total_adds_trials_and_other_settings_are_refused(finished: Path, search: Search) -> None:
    before = pd.read_csv(finished / "trials.csv")
    refused = search(*FLAGS, "--trials", "6", "--seed", "7")
    assert refused.returncode == 2
    assert "--seed was 42 in this run and is now 7" in refused.stderr
    done = search(*FLAGS, "--trials", "6")
    assert done.returncode == 0, done.stderr
    after = pd.read_csv(finished / "trials.csv")
    assert after["depth"].tolist() == [1, 1, 1, 3, 3, 3]
    kept = after.merge(before, how="inner", on=["depth", "trial"], suffixes=("", "_before"))
    assert kept["score"].tolist() == before["score"].tolist()


@pytest.mark.slow
def test_runs_that_differ_only_in_their_folder_share_a_storage_in_peace(home: Path, search: Search) -> None:
    """Files and Ray's records of each lie in a place of its own, which a continued run finds again."""
    (home / "space.toml").write_text(SPACE)
    one_trial = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--depths", "1", "--space", "space.toml")
    one_trial += ("--control-trials", "0", "--seeds", "0", "--storage", f"file://{home}/far")
    for out, trials in (("a", "1"), ("b", "1"), ("a", "2")):
        done = search(*one_trial, "--out", out, "--trials", trials)
        assert done.returncode == 0, done.stderr
    ids = [json.loads((home / out / "MRPC" / "tiny" / "run.json").read_text())["id"] for out in "ab"]
    places = [home / "far" / "MRPC" / f"tiny-{run_id}" for run_id in ids]
    assert sorted((home / "far" / "MRPC").iterdir()) == sorted(places)
    for place, trials in zip(places, (2, 1), strict=True):
        assert len(list((place / "checkpoints").glob("*.safetensors"))) == trials
        assert (place / "ray").is_dir()
        assert not open_artifacts(f"file://{place}").folder.exists()  # no copies are left on this machine


def test_a_teacher_that_is_no_better_than_guessing_stops_the_search(home: Path, search: Search) -> None:
    (home / "lazy.toml").write_text(SPACE.replace("[3e-3]", "[1e-9]"))
    done = search("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--space", "lazy.toml", "--out", "lazy")
    assert done.returncode == 2
    assert "but must exceed always predicting the most frequent class" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
