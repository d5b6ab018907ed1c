"""A search with its controls, confirmation and a held-out selection, end to end on a real Ray; what it leaves."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tiny import SPACE

SPACE_3 = SPACE.replace(
    "trials = 4\ncontrol_trials = 0\nseeds = 0", "trials = 2\ncontrol_trials = 1\nseeds = 2\nearly_stopping = false"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, tiny_data: Path) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    shutil.copytree(tiny_data, folder / "data")
    (folder / "space.toml").write_text(SPACE_3)
    return folder


def search(home: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pkd_tune.search", "--task", "MRPC", "--gpus", "0", "--teacher", "tiny"]
    command += ["--depths", "2", "--space", "space.toml", *flags]
    return subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=220)


@pytest.fixture(scope="module")
def run(home: Path) -> Path:
    done = search(home, "--select-on", "holdout", "--quiet")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert 4 <= len(lines) <= 15  # quiet: nothing but the last lines
    assert any("on 2 fresh seeds" in line for line in lines)
    return home / "results" / "MRPC" / "tiny"


def test_every_method_is_searched_and_confirmed(run: Path) -> None:
    rows = pd.read_csv(run / "trials.csv")
    counts = rows.groupby(["method", "stage"]).size().to_dict()
    assert counts == {
        **{("pkd", "search"): 2, ("pkd", "confirm"): 2},
        **{("kd", "search"): 1, ("kd", "confirm"): 2},
        **{("finetuned", "search"): 1, ("finetuned", "confirm"): 2},
    }
    assert (rows["state"] == "complete").all()
    assert rows.loc[rows["method"] == "kd", "beta"].eq(0).all()
    assert rows.loc[rows["method"] == "finetuned", "alpha"].eq(0).all()
    assert sorted(rows.loc[rows["stage"] == "confirm", "seed"].unique()) == [43, 44]
    curves = pd.read_csv(run / "evaluations.csv")
    assert len(curves) == 10 * 4
    assert curves["agreement"].between(0, 100).all()
    assert curves["cosine_1"].between(-1, 1).all()
    alone = curves[curves["method"] == "finetuned"]
    assert alone["loss_kd"].eq(0).all()


def test_the_summary_has_every_student_confirmed_on_the_official_dev_split(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    students = {student["method"]: student for student in summary["students"]}
    assert set(students) == {"pkd", "kd", "finetuned"}
    rows = pd.read_csv(run / "trials.csv")
    for method, student in students.items():
        confirmations = rows[(rows["method"] == method) & (rows["stage"] == "confirm")]
        assert student["confirmed"]["scores"] == pytest.approx(confirmations["score"].tolist())
        assert (run / student["folder"] / "model.safetensors").exists()
        # Of 40 official dev examples accuracies are multiples of 2.5; of the 9 held out they are not.
        assert all(abs(value / 2.5 - round(value / 2.5)) < 1e-9 for value in confirmations["accuracy"])
    assert [each["method"] for each in students["pkd"]["against"]] == ["kd", "finetuned"]
    assert (run / "report.html").exists()
    report = (run / "report.md").read_text()
    assert "fine-tuned" in report
    assert "dev played no part in the choice" in report


@pytest.mark.slow
def test_an_earlier_run_informs_a_new_one(home: Path, run: Path) -> None:
    done = search(home, "--warm-start", str(run), "--name", "warm", "--seeds", "0", "--control-trials", "0")
    assert done.returncode == 0, done.stderr
    assert f"{run}: 2 trials inform the search" in done.stderr
    rows = pd.read_csv(home / "results/MRPC/warm/trials.csv")
    assert len(rows) == 2  # its own
    other = search(home, "--warm-start", "data", "--name", "none")
    assert other.returncode == 2
    assert "not a run's folder" in other.stderr
    assert not (home / "results/MRPC/none").exists()
