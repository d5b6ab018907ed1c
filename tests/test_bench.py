"""The benchmark from the command line, with tiny shapes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pkd_tune.bench import bench, make_parser
from pkd_tune.cli.main import run_command

Run = Callable[..., tuple[int, str, str]]
QUICK = (
    "--gpus 0 --threads 1 --slots 1 --layers 2 --width 24 --batch-size 4 --steps 2 --repeats 2 --max-length 40".split()
)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in an empty folder; returns exit code, output and errors."""
    monkeypatch.chdir(tmp_path)

    def run(*flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["bench", *flags])
        try:
            code = run_command(make_parser(), bench)
        except SystemExit as left:
            code = int(str(left.code))
        output = capsys.readouterr()
        return code, output.out, output.err

    return run


@pytest.mark.slow
def test_a_table_for_each_depth_and_every_measurement(run: Run, tmp_path: Path) -> None:
    code, output, notes = run(*QUICK, "--depths", "2", "--to", "bench.json")
    assert code == 0, notes
    assert "lengths of MRPC" in output
    for line in (
        "plain loop, fp32",
        "pkd_tune, fine-tuning, ",
        "pkd_tune, KD, ",
        "pkd_tune, PKD, ",
        "pkd_tune, PKD, 1 trial, ",
    ):
        assert f"\n| {line}" in output
    assert "reporting to Ray 0.0" in output
    assert "every measurement: bench.json" in notes
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["provenance"]["command"].endswith("--depths 2 --to bench.json")
    assert (record["repeats"], record["steps"], record["shape"]["hidden_size"]) == (2, 2, 24)
    (group,) = record["depths"]
    assert group["depth"] == 2
    assert all(len(row["measured_examples_per_second"]) == 2 for row in group["training"])
    assert all(row["examples_per_second"] > 0 and row["share_of_peak"] > 0 for row in group["training"])
    assert {what: len(cost["measured"]) for what, cost in group["overheads"].items()} == {
        "evaluation": 2,
        "checkpoint": 2,
        "reset": 2,
        "report": 8,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--repeats", "0"), "--repeats must be above 0, but got 0"),
        (("--depths", "3", "7"), "--depths 7: the model has only 6 layers"),
        (("--width", "100"), "--width must be a multiple of 12 or of 64, but got 100"),
        (("--max-length", "513"), "--max-length 513: the model reads at most 512 tokens"),
        (("--task", "RTE"), "--task needs --teacher"),
        (("--task", "XYZ"), "XYZ"),
        (("--teacher", "data", "--width", "24"), "leave out --layers and --width"),
        (("--gpus", "0", "--slots", "1000"), "--slots 1000: at most "),
        (("--to", "a-file/x.json"), "--to"),
        (("--families", "gpt2"), "--families gpt2: give all, or some of bert, roberta"),
        (("--gpus", "0", "--families", "all", "--slots", "1"), "leave out --slots"),
        (("--turns", "3"), "--turns"),
    ],
)
def test_a_mistake_is_one_line(run: Run, tmp_path: Path, flags: tuple[str, ...], says: str) -> None:
    (tmp_path / "a-file").touch()
    (tmp_path / "data").mkdir()
    code, output, errors = run(*flags)
    assert (code, output) == (2, "")
    assert says in errors
    assert len(errors.splitlines()) == 1
