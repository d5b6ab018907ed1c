"""The main job end to end, as a user runs it: real processes, a real Ray, a tiny model and a tiny MRPC."""

import csv
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from tiny import TINY_SEARCH
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune import load_run
from pkd_tune.cli.main import run_command
from pkd_tune.cli.summary import summary_lines
from pkd_tune.files import read_json
from pkd_tune.search import make_parser
from pkd_tune.search import search as search_command

Here = Callable[..., tuple[int, str]]
FLAGS = ("--task", "MRPC", "--gpus", "0", "--teacher", "tiny", "--depths", "1", "--space", "space.toml")


@pytest.fixture
def home(tmp_path: Path, tiny_search: Path) -> Path:
    """Returns a working folder of the test's own, with a copy of the shared search."""
    return shutil.copytree(tiny_search, tmp_path / "home")


@pytest.fixture
def here(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    """Returns what runs the command in this process, in the working folder: exit code and standard error."""

    def here(*flags: str) -> tuple[int, str]:
        monkeypatch.chdir(home)
        monkeypatch.setattr(sys, "argv", ["pkd_tune.search", *flags])
        return run_command(make_parser(), search_command), capsys.readouterr().err

    return here


def search(home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pkd_tune.search", *flags]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=200)


def test_a_search_says_what_it_does_and_nothing_else(tiny_search: Path) -> None:
    assert (tiny_search / "stdout.txt").read_text() == ""
    *lines, report, checkpoints, tensorboard = (tiny_search / "stderr.txt").read_text().splitlines()
    run = tiny_search / "results" / "MRPC" / "tiny"
    assert report.split()[-1] == str(run / "report.md")
    assert checkpoints.split()[-1] == str(run / "best")
    assert tensorboard == f"TensorBoard: tensorboard --logdir {run / 'ray'}  # has no login"
    ours = ("note: ", "warning: a student of one layer", "MRPC: ", "teacher: ", "computing ", "search ", "exporting ")
    verdict = summary_lines(read_json(run / "summary.json"), run)
    others = [line for line in lines if not line.startswith(ours) and line not in verdict]
    assert others == []  # nothing of Ray's, Optuna's or transformers' own


def test_every_trial_is_in_the_table(tiny_run: Path) -> None:
    trials = pd.read_csv(tiny_run / "trials.csv")
    assert trials["depth"].tolist() == [1, 1, 3, 3]
    assert set(trials["state"]) <= {"complete", "stopped early"}
    complete = trials[trials["state"] == "complete"]
    assert (complete["evaluations"] == 12).all()
    assert ((trials["f1"] + trials["accuracy"]) / 2 - trials["score"]).abs().max() < 1e-6
    assert (trials["temperature"] == 10).all()
    assert trials["alpha"].between(0.2, 0.9).all()


def test_predictions_on_dev_are_those_that_were_scored(tiny_run: Path) -> None:
    predicted = pd.read_csv(tiny_run / "dev-predictions.csv")
    summary = json.loads((tiny_run / "summary.json").read_text())
    models = {"teacher": summary["teacher"], **{student["folder"]: student for student in summary["students"]}}
    for column, model in models.items():
        accuracy = 100 * (predicted[column] == predicted["label"]).mean()
        assert accuracy == pytest.approx(model["metrics"]["accuracy"])
    assert "Confusion matrix of" in (tiny_run / "report.html").read_text()


def test_tensorboard_events_are_there_for_every_trial(tiny_run: Path) -> None:
    folders = {path.parent.name for path in (tiny_run / "ray").rglob("events.out.tfevents.*")}
    assert folders == {f"{depth}-layer-pkd-trial-{number:04d}" for depth in (1, 3) for number in (0, 1)}


@pytest.mark.parametrize("depth", [1, 3])
def test_an_exported_student_scores_the_same_in_plain_transformers(
    tiny_search: Path, tiny_run: Path, depth: int
) -> None:
    folder = tiny_run / "best" / f"{depth}-layer"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with (tiny_search / "data/data_raw/MRPC/dev.tsv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    inputs = tokenizer(
        [r["#1 String"] for r in rows], [r["#2 String"] for r in rows], padding=True, return_tensors="pt"
    )
    predictions = model(**inputs).logits.argmax(-1)
    accuracy = 100 * (predictions == torch.tensor([int(r["Quality"]) for r in rows])).float().mean().item()

    assert model.config.num_hidden_layers == depth
    assert model.config.id2label == {0: "not_equivalent", 1: "equivalent"}
    summary = json.loads((tiny_run / "summary.json").read_text())
    student = next(student for student in summary["students"] if student["layers"] == depth)
    assert accuracy == pytest.approx(student["metrics"]["accuracy"])
    assert f"| {accuracy:.1f} |" in (tiny_run / "report.md").read_text()
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n")
    assert f"| accuracy | {accuracy:.1f} |" in card
    assert sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")) == []


def test_only_the_best_weights_are_kept(tiny_run: Path) -> None:
    summary = json.loads((tiny_run / "summary.json").read_text())
    best = {f"{s['layers']}-layer-pkd-trial-{s['trial']:04d}.safetensors" for s in summary["students"]}
    files = {path.name for path in (tiny_run / "checkpoints").iterdir()}
    assert files >= best
    assert all(name.endswith(".safetensors") for name in files)  # no state of an ended trial


def test_the_record_says_what_was_run(tiny_run: Path) -> None:
    record = json.loads((tiny_run / "run.json").read_text())
    assert record["search"]["depths"] == [1, 3]
    assert record["search"]["data"]["task"]["name"] == "MRPC"
    assert record["provenance"]["command"].startswith("python -m pkd_tune.search --task mrpc")
    assert record["provenance"]["versions"]["torch"].startswith(torch.__version__.partition("+")[0])
    assert record["content"].keys() == {"teacher", "train", "dev"}


def test_a_run_is_continued_with_its_own_settings_only(home: Path, here: Here) -> None:
    journal = home / "results/MRPC/tiny/study.log"
    before = journal.read_bytes()
    code, errors = here(*TINY_SEARCH, "--trials", "6", "--seed", "7")
    assert code == 2
    assert "--seed was 42 in this run and is now 7" in errors
    assert journal.read_bytes() == before


@pytest.mark.slow
def test_runs_that_differ_only_in_their_folder_share_a_storage(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has a folder of its own there, which a continued run finds again; nothing stays in the temporary folder."""
    temporary = tempfile.mkdtemp(dir="/tmp")  # short enough for Ray's sockets
    monkeypatch.setenv("TMPDIR", temporary)
    one_trial = (*FLAGS, "--control-trials", "0", "--seeds", "0", "--storage", f"file://{home}/far")
    for out, trials in (("a", "1"), ("b", "1"), ("a", "2")):
        done = search(home, *one_trial, "--out", out, "--trials", trials)
        assert done.returncode == 0, done.stderr
    ids = [json.loads((home / out / "MRPC" / "tiny" / "run.json").read_text())["id"] for out in "ab"]
    places = [home / "far" / "MRPC" / f"tiny-{run_id}" for run_id in ids]
    assert sorted((home / "far" / "MRPC").iterdir()) == sorted(places)
    for place, checkpoints in zip(places, (2, 1), strict=True):
        assert len(list((place / "checkpoints").glob("*.safetensors"))) == checkpoints
        assert (place / "ray").is_dir()
    assert list(Path(temporary).iterdir()) == []
    Path(temporary).rmdir()


def test_a_time_limit_too_short_for_trials_leaves_a_report_of_what_there_is(home: Path, here: Here) -> None:
    """The report itself is taken to need longer."""
    run = home / "results/MRPC/tiny"
    (run / "report.md").unlink()
    code, errors = here(*TINY_SEARCH, "--trials", "6", "--time-limit", "10s")
    assert code == 0, errors
    assert "the time limit left no time for trials" in errors
    assert "the time limit was reached with 2 trials to go; the same command continues" in errors
    assert "| PKD, 1 layer |" in (run / "report.md").read_text()
    assert len(pd.read_csv(run / "trials.csv")) == 4
    loaded = load_run(run)
    assert (loaded.status, loaded.remaining) == ("time limit", 2)


@pytest.mark.slow
def test_a_search_goes_on_after_its_time_limit(home: Path) -> None:
    for limit, left in ((["--time-limit", "0.001s"], 2), ([], 0)):
        done = search(home, *TINY_SEARCH, "--trials", "6", *limit)
        assert done.returncode == 0, done.stderr
        assert ("to go; the same command continues" in done.stderr) == bool(left)
        assert len(pd.read_csv(home / "results/MRPC/tiny/trials.csv")) == 6 - left


def test_a_teacher_that_is_no_better_than_guessing_stops_the_search(here: Here) -> None:
    code, errors = here(*FLAGS, "--set", "teacher.learning_rates=[1e-9]", "teacher.epochs=1", "--out", "lazy")
    assert code == 2
    assert "but must exceed always predicting the most frequent class" in errors.splitlines()[-1]
    assert "Traceback" not in errors
