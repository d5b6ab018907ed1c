"""What a user may get wrong before a search: one clear line each, nothing written; in this process."""

import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from pkd_tune.cli.main import run_command
from pkd_tune.encoders.precision import has_bf16
from pkd_tune.search import make_parser
from pkd_tune.search import search as search_command


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
    "not-a-bert": (_not_a_bert, (), ["--teacher", "'gpt2' model is not supported", "give an encoder: BERT, RoBERTa"]),
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
    "warm": (_unchanged, ("--warm-start", "data"), ["--warm-start", "not a run folder"]),
    "logger": (_unchanged, ("--log", "wandb"), ["--log wandb", 'pip install "pkd_tune[wandb]"']),
    "timeout": (_unchanged, ("--trial-timeout", "0"), ["--trial-timeout must be above 0"]),
    "shared-gpu": (_unchanged, ("--trials-per-gpu", "0"), ["--trials-per-gpu must be above 0"]),
    "shared-cpu": (_unchanged, ("--trials-per-gpu", "2"), ["--trials-per-gpu 2: trials run on the CPU; leave it out"]),
    "dashboard": (
        _unchanged,
        ("--address", "auto", "--ray-dashboard"),
        ["--ray-dashboard", "--address", "leave it out"],
    ),
    "flag": (_unchanged, ("--trails", "5"), ["--trails", "did you mean --trials?"]),
    "space": (_unchanged, ("--space", "no.toml"), ["--space no.toml", "neither a file nor a shipped space"]),
    "hub-data": (_no_task_folder, (), ["--data-dir", "--demo"]),
    "hub-model": (_unchanged, ("--teacher", "someone/some-bert"), ["someone/some-bert", "--data-dir", "--demo"]),
    "out": (_unchanged, ("--out", "/proc/results"), ["--out /proc/results", "cannot be written to"]),
    "storage": (_unchanged, ("--storage", "foo://bar"), ["--storage foo://bar: files cannot be kept there (", "foo"]),
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
    if "--log" in flags and find_spec("wandb"):
        pytest.skip("wandb is installed")
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
