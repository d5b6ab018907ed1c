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

from pkd_tune.command_line import run_command
from pkd_tune.distillation.precision import has_bf16
from pkd_tune.search import make_parser
from pkd_tune.search import search as search_command
from pkd_tune.tuning.store import open_store

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
        assert not open_store(f"file://{place}").folder.exists()  # no copies are left on this machine


# Each mistake: flags, a change to the data folder, and what the one line must say.
def _truncate_row(data: Path) -> None:
    path = data / "data_raw/MRPC/train.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[5] = "\t".join(lines[5].split("\t")[:3])
    path.write_text("\n".join(lines), encoding="utf-8")


def _unknown_label(data: Path) -> None:
    path = data / "data_raw/MRPC/dev.tsv"
    lines = path.read_text(encoding="utf-8").split("\n")
    lines[2] = "maybe" + lines[2][1:]
    path.write_text("\n".join(lines), encoding="utf-8")


def _empty(data: Path) -> None:
    (data / "data_raw/MRPC/train.tsv").write_text("")


def _no_dev(data: Path) -> None:
    (data / "data_raw/MRPC/dev.tsv").unlink()


def _no_task_folder(data: Path) -> None:
    shutil.rmtree(data / "data_raw")


def _not_a_bert(data: Path) -> None:
    path = data / "models/pretrained/tiny/config.json"
    path.write_text(path.read_text().replace('"bert"', '"gpt2"'))


def _no_weights(data: Path) -> None:
    (data / "models/pretrained/tiny/model.safetensors").unlink()


def _unchanged(data: Path) -> None:
    pass


MISTAKES = {
    "task": (_unchanged, ("--task", "MRCP"), ["--task MRCP", "did you mean MRPC?"]),
    "split": (_no_dev, (), ["dev.tsv"]),
    "columns": (_truncate_row, (), ["train.tsv:6", "columns"]),
    "label": (_unknown_label, (), ["dev.tsv:3", "maybe"]),
    "empty": (_empty, (), ["train.tsv", "empty"]),
    "not-a-bert": (_not_a_bert, (), ["--teacher", "'gpt2' model is not supported", "give a BERT encoder"]),
    "no-weights": (_no_weights, (), ["--teacher", "no model.safetensors"]),
    "depth": (_unchanged, ("--depths", "2", "4"), ["--depths 4", "1 to 3 layers"]),
    "gpus": (_unchanged, ("--gpus", "99"), ["--gpus 99", "found here"]),
    "trials": (_unchanged, ("--trials", "0"), ["--trials must be above 0, but got 0"]),
    "share": (
        _unchanged,
        ("--depths", "1", "2", "3", "--trials", "2"),
        ["--trials 2: give at least 3, one for each depth of pkd"],
    ),
    "no-controls": (
        _unchanged,
        ("--methods", "pkd", "kd", "finetuned", "--control-trials", "0"),
        ["--control-trials 0: give at least 2, one for each depth of kd and finetuned"],
    ),
    "controls": (
        _unchanged,
        ("--control-trials", "1"),
        ["--control-trials 1: give at least 2, one for each depth of kd and finetuned"],
    ),
    "seeds": (_unchanged, ("--seeds", "-1"), ["--seeds must be at least 0, but got -1"]),
    "grid": (_unchanged, ("--sampler", "grid"), ["--sampler grid: the space has ranges"]),
    "warm": (_unchanged, ("--warm-start", "data"), ["--warm-start", "not a run's folder"]),
    "logger": (_unchanged, ("--log", "wandb"), ["--log wandb", 'pip install "pkd_tune[wandb]"']),
    "timeout": (_unchanged, ("--trial-timeout", "0"), ["--trial-timeout must be above 0"]),
    "shared-gpu": (_unchanged, ("--trials-per-gpu", "0"), ["--trials-per-gpu must be above 0"]),
    "shared-cpu": (_unchanged, ("--trials-per-gpu", "2"), ["--trials-per-gpu 2: trials run on the CPU; leave it out"]),
    "dashboard": (
        _unchanged,
        ("--address", "auto", "--ray-dashboard"),
        ["--ray-dashboard", "--address", "leave it out"],
    ),
    "flag": (_unchanged, ("--trails", "5"), ["--trails"]),
    "space": (_unchanged, ("--space", "no.toml"), ["--space no.toml", "no such file"]),
    "hub-data": (_no_task_folder, (), ["--data-dir", "--demo"]),
    "hub-model": (_unchanged, ("--teacher", "someone/some-bert"), ["someone/some-bert", "--data-dir", "--demo"]),
    "out": (_unchanged, ("--out", "/proc/results"), ["--out /proc/results", "cannot be written to"]),
    "storage": (_unchanged, ("--storage", "foo://bar"), ["--storage foo://bar: no files can be kept there (", "foo"]),
    "storage-uri": (_unchanged, ("--storage", "file:///proc/far"), ["--storage file:///proc/far", "kept there ("]),
    "storage-folder": (_unchanged, ("--storage", "/proc/far"), ["--storage /proc/far", "cannot be written to"]),
    "teacher-folder": (_unchanged, ("--teacher", "./nowhere"), ["./nowhere"]),
}


def refused(flags: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command in this process, in a folder; returns what it prints as it refuses."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pkd_tune.search", "--task", "MRPC", "--gpus", "0", "--teacher", "tiny", *flags])
    before = sorted(folder.rglob("*"))
    try:
        code: object = run_command(make_parser(), search_command)
    except SystemExit as left:  # argparse
        code = left.code
    assert code == 2
    assert sorted(folder.rglob("*")) == before  # nothing written
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


@pytest.mark.parametrize(("damage", "flags", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_clear_line(
    tmp_path: Path,
    tiny_data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    flags: tuple[str, ...],
    says: list[str],
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    damage(tmp_path / "data")
    (line,) = refused(list(flags), tmp_path, monkeypatch, capsys).splitlines()
    assert line.startswith("python -m pkd_tune.search: error: ")
    for words in says:
        assert words in line


@pytest.mark.skipif(has_bf16("cpu"), reason="this CPU has bf16")
def test_bf16_that_is_not_there_is_one_clear_line(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    (line,) = refused(["--precision", "bf16"], tmp_path, monkeypatch, capsys).splitlines()
    assert "give --precision fp32" in line


def test_several_mistakes_are_reported_together(
    tmp_path: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_data, tmp_path / "data")
    _unknown_label(tmp_path / "data")
    lines = refused(["--gpus", "99", "--depths", "9"], tmp_path, monkeypatch, capsys).splitlines()
    assert len(lines) == 3
    assert [word in "".join(lines) for word in ("--gpus 99", "dev.tsv:3", "--depths 9")] == [True] * 3


def test_a_teacher_that_is_no_better_than_guessing_stops_the_search(home: Path, search: Search) -> None:
    (home / "lazy.toml").write_text(SPACE.replace("[3e-3]", "[1e-9]"))
    done = search("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--space", "lazy.toml", "--out", "lazy")
    assert done.returncode == 2
    assert "nothing can be learned from it" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
