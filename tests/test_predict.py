"""Predictions of a small model: scores, Parquet, GLUE files; in this process, on tiny and synthetic data."""

import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from tickets import QUEUES, ticket_rows, write_csv, write_tickets
from tiny import write_bert, write_task
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from pkd_tune.cli.main import run_command
from pkd_tune.data.glue import TASKS
from pkd_tune.encoders.modeling import load_classifier, save_classifier
from pkd_tune.predict import make_parser, predict

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    """Returns a folder with tiny MRPC, MNLI and WNLI of the official test size, and an untrained model for each."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(tiny_data, folder / "data")
    write_task(TASKS["MNLI"], folder / "data")
    write_task(TASKS["WNLI"], folder / "data", test=146)
    tiny = tiny_data / "models/pretrained/tiny"
    for name in ("MRPC", "MNLI", "WNLI"):
        save_classifier(load_classifier(tiny, TASKS[name].labels, seed=1), tiny, folder / name)
    no_test = shutil.ignore_patterns("test.tsv", "data_feat", "teacher_cache")
    shutil.copytree(tiny_data, folder / "untested", ignore=no_test)
    (folder / "taken" / "MRPC-dev.parquet").mkdir(parents=True)
    shutil.copytree(folder / "MRPC", folder / "headless")
    shutil.copytree(folder / "MRPC", folder / "second")
    weights = load_file(folder / "headless" / "model.safetensors")
    encoder = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(encoder, folder / "headless" / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture
def run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(home)

    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["predict", "--gpus", "0", *flags])
        code = run_command(make_parser(), predict)
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


def test_any_file_with_the_columns_is_predicted(run: Run, home: Path, tmp_path: Path) -> None:
    task_file = write_tickets(tmp_path / "tickets")
    labels = tuple(sorted(QUEUES))
    tiny = home / "data/models/pretrained/tiny"
    save_classifier(load_classifier(tiny, labels, seed=1), tiny, tmp_path / "model")
    new = write_csv(tmp_path / "new.csv", [row[:2] for row in ticket_rows(5)], ("subject", "body"))
    flags = ("--task", str(task_file), "--model", str(tmp_path / "model"))
    code, output, _ = run(*flags, "--file", str(new), str(task_file.with_name("dev.csv")))
    assert code == 0
    unlabelled, dev = output.splitlines()
    assert unlabelled.startswith("tickets new: no labels to score -> ")
    assert dev.startswith("tickets dev: macro F1 ")
    table = pd.read_parquet(home / "predictions" / "tickets-new.parquet")
    assert len(table) == 5
    assert {*table["class"]} <= {*labels}
    mrpc = write_csv(tmp_path / "pairs.csv", [("red .", "blue .", "1")], ("sentence1", "sentence2", "label"))
    code, output, _ = run("--task", "mrpc", "--model", "./MRPC", "--file", str(mrpc))
    assert (code, "MRPC pairs: F1" in output) == (0, True)
    for wrong, said in (
        (("--glue-zip", "x.zip"), "--glue-zip: tickets is not a task of GLUE"),
        (("--file", str(new), "--splits", "dev"), "--file: predicts files with one model of one task"),
        (("--file", str(tmp_path / "none.csv")), "none.csv is missing"),
        (("--splits", "test"), "tickets has no split test, only train, dev"),
    ):
        code, _, error = run(*flags, *wrong)
        assert (code, said in error) == (2, True), error


def test_files_are_predicted_without_the_data_of_the_task(run: Run, home: Path, tmp_path: Path) -> None:
    """The classes are the model's, sorted as the task would; only one without names for them needs train."""
    task_file = write_tickets(tmp_path / "tickets")
    tiny = home / "data/models/pretrained/tiny"
    save_classifier(load_classifier(tiny, tuple(reversed(QUEUES)), seed=1), tiny, tmp_path / "model")
    new = task_file.with_name("dev.csv").rename(tmp_path / "new.csv")
    task_file.with_name("train.csv").unlink()
    flags = ("--task", str(task_file), "--file", str(new), "--model", str(tmp_path / "model"))
    code, output, error = run(*flags)
    assert (code, output.startswith("tickets new: macro F1 ")) == (0, True), error
    table = pd.read_parquet(home / "predictions" / "tickets-new.parquet")
    assert [sorted(QUEUES)[label] for label in table["label"]] == [row[2] for row in ticket_rows(70, seed=1)]
    save_classifier(load_classifier(tiny, tuple(f"LABEL_{i}" for i in range(7)), seed=1), tiny, tmp_path / "unnamed")
    code, _, error = run(*flags[:-1], str(tmp_path / "unnamed"))
    assert (code, "train.csv is missing" in error, len(error.splitlines())) == (2, True, 1)
    code, _, error = run(*flags[:-1], "tiny")
    assert (code, "has no fine-tuned classifier" in error, len(error.splitlines())) == (2, True, 1)


@pytest.mark.parametrize("limit", [48, 200])
def test_texts_are_as_long_as_those_that_a_model_was_trained_on(
    limit: int, run: Run, home: Path, tmp_path: Path
) -> None:
    write_bert(tmp_path / "long", positions=256)
    save_classifier(
        load_classifier(tmp_path / "long", TASKS["MRPC"].labels, seed=1),
        tmp_path / "long",
        tmp_path / "model",
        max_length=limit,
    )
    pair = ("red . " * 120, "blue . " * 120)
    long = write_csv(tmp_path / "long.csv", [pair], ("sentence1", "sentence2"))
    code, _, error = run("--task", "mrpc", "--model", str(tmp_path / "model"), "--file", str(long))
    assert code == 0, error
    table = pd.read_parquet(home / "predictions" / "MRPC-long.parquet")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    inputs = AutoTokenizer.from_pretrained(tmp_path / "model")(*pair, truncation=True, return_tensors="pt")
    assert inputs["input_ids"].shape == (1, limit)
    with torch.no_grad():
        assert table[["logit_0", "logit_1"]].to_numpy()[0] == pytest.approx(model(**inputs).logits[0], abs=1e-5)


def test_scores_and_tables_of_every_split(run: Run, home: Path) -> None:
    code, output, _ = run("--task", "mrpc", "--model", "./MRPC", "--splits", "train", "dev", "test")
    assert code == 0
    train, dev, test = output.splitlines()
    assert train.startswith("MRPC train: F1 ")
    assert "no labels to score" in test
    table = pd.read_parquet(home / "predictions" / "MRPC-dev.parquet")
    assert table["example_id"].tolist() == list(range(40))
    assert (table["prediction"] == (table["logit_1"] > table["logit_0"])).all()
    assert set(table["class"]) <= {"equivalent", "not_equivalent"}
    accuracy = 100 * (table["prediction"] == table["label"]).mean()
    assert f"accuracy {accuracy:.1f}" in dev
    assert "label" not in pd.read_parquet(home / "predictions" / "MRPC-test.parquet")
    record = json.loads((home / "predictions" / "MRPC.json").read_text())
    assert set(record["content"]) == {"weights", "train", "dev", "test"}
    assert set(record["metrics"]) == {"train", "dev"}
    assert record["provenance"]["command"].startswith("python -m pkd_tune.predict --gpus 0 --task mrpc")


def test_dev_is_scored_without_a_test_split(run: Run) -> None:
    code, output, errors = run("--task", "MRPC", "--model", "./MRPC", "--data-dir", "untested", "--out", "of-dev")
    assert code == 0, errors
    assert output.startswith("MRPC dev: F1 ")


def test_both_dev_splits_of_mnli_are_the_default(run: Run) -> None:
    code, output, _ = run("--task", "MNLI", "--model", "./MNLI")
    assert code == 0
    assert [line.split(":")[0] for line in output.splitlines()] == ["MNLI dev", "MNLI dev_mm"]
    assert "accuracy (mm)" in output


def test_one_tasks_glue_file(run: Run, home: Path) -> None:
    code, output, notes = run("--task", "WNLI", "--model", "./WNLI", "--glue-zip", "one.zip")
    assert code == 0
    assert output.splitlines()[-1] == "one.zip"
    assert "accepts only zip files with all tasks" in notes
    with zipfile.ZipFile(home / "one.zip") as archive:
        assert archive.namelist() == ["WNLI.tsv"]
        lines = archive.read("WNLI.tsv").decode().splitlines()
    assert lines[0] == "index\tprediction"
    assert len(lines) == 147


def test_a_whole_submission_is_filled_only_when_asked(run: Run, home: Path) -> None:
    code, _, notes = run("--task", "WNLI", "--model", "./WNLI", "--glue-zip", "all.zip", "--fill-missing")
    assert code == 0
    assert "RTE: no predictions; filled with" in notes
    with zipfile.ZipFile(home / "all.zip") as archive:
        assert len(archive.namelist()) == 11


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--task", "MRPC", "--model", "tiny"), "has no fine-tuned classifier"),
        (("--task", "MRPC", "--model", "./MNLI"), "has 3 outputs, but MRPC needs 2"),
        (
            ("--task", "MRPC", "--model", "./MRPC", "--splits", "dev_mm"),
            "MRPC has no split dev_mm, only train, dev, test",
        ),
        (("--task", "MRPC", "--model", "./WNLI"), "its classes are not_entailment, entailment, but MRPC has"),
        (("--task", "MRPC", "--model", "./headless"), "model.safetensors has no classifier.weight"),
        (("--task", "MRPC", "MNLI", "--model", "./MRPC"), "1 given for 2 tasks"),
        (("--task", "MRPC", "mrpc", "--model", "./MRPC", "./second"), "--task mrpc: given twice"),
        (("--task", "MRPC", "--model", "./MRPC", "--fill-missing"), "--fill-missing belongs to --glue-zip"),
        (("--task", "WNLI", "--model", "./WNLI", "--glue-zip", "taken"), "--glue-zip taken: is a folder; give a file"),
        (("--task", "MRPC", "--model", "./MRPC", "--max-length", "200"), "reads at most 128 tokens, not 200"),
        (("--task", "MRPC", "--model", "./MRPC", "--out", "data/models/pretrained/tiny/config.json"), "is a file"),
        (("--task", "MRPC", "--model", "./MRPC", "--out", "taken"), "taken/MRPC-dev.parquet is a folder; move it"),
        (
            ("--demo", "--task", "MRPC", "--model", "./MRPC", "--data-dir", "/proc"),
            "--data-dir /proc/demo: /proc cannot",
        ),
        (("--task", "MRPC", "--model", "./MRPC", "--data-dir", "untested", "--splits", "test"), "test.tsv is missing"),
        (("--task", "MRPC", "--model", "./MRPC", "--data-dir", "nowhere"), "choose another --data-dir"),
    ],
)
def test_a_mistake_is_one_line(run: Run, home: Path, flags: tuple[str, ...], says: str) -> None:
    before = sorted(home.rglob("*"))
    code, output, errors = run(*flags)
    assert (code, output) == (2, "")
    assert says in errors
    assert len(errors.splitlines()) == 1
    assert sorted(home.rglob("*")) == before


def test_a_test_split_of_another_size_is_no_submission(run: Run, home: Path) -> None:
    code, output, errors = run("--task", "MRPC", "--model", "./MRPC", "--glue-zip", "wrong.zip", "--out", "nothing")
    assert (code, output) == (2, "")
    assert "8 predictions, but the official split has 1,725 rows" in errors
    assert not (home / "wrong.zip").exists()
    assert not (home / "nothing").exists()


def test_the_demo_of_every_task_can_be_predicted(run: Run, home: Path) -> None:
    """AX comes with its own examples, which a model of MNLI predicts."""
    code, output, errors = run("--demo", "--task", "AX", "WNLI", "--model", "./MNLI", "./WNLI", "--max-length", "64")
    assert code == 0, errors
    assert [line.split(":")[0] for line in output.splitlines()] == ["AX test", "WNLI dev"]
    assert (home / "data" / "demo" / "data_raw" / "AX" / "test.tsv").exists()
