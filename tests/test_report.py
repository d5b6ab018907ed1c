"""The report command, as a user runs it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from recorded_run import write_run

from pkd_tune.cli.main import run_command
from pkd_tune.files import read_json, write_json
from pkd_tune.report import make_parser
from pkd_tune.report import report as report_command
from pkd_tune.reporting.run import read_run
from pkd_tune.workflows.report import choose, remarks

SMALL: dict[str, Any] = {"trials": 4, "control_trials": 2, "depths": (2,), "seeds": 2}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *flags: str) -> int:
    """Runs the command in this process, in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pkd_tune.report", *flags])
    return run_command(make_parser(), report_command)


def test_out_is_not_of_one_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "results" / "MRPC" / "minilm", **SMALL)
    assert run(monkeypatch, tmp_path, "results/MRPC/minilm", "--out", "elsewhere") == 2
    assert "--out: is the folder of the table over all runs; leave it out with one run" in capsys.readouterr().err


def test_reports_and_tables_are_made_from_records_alone(tmp_path: Path) -> None:
    """In a process of its own, which must load none of the heavy libraries."""
    write_run(tmp_path / "results" / "MRPC" / "minilm", **SMALL)
    write_run(tmp_path / "results" / "RTE" / "minilm", task="RTE", **SMALL)
    code = (
        "import sys; from pkd_tune.cli.main import run_command; from pkd_tune.report import make_parser, report;"
        "sys.argv[1:] = ['--latex']; code = run_command(make_parser(), report);"
        "assert not {'torch', 'transformers', 'ray', 'optuna', 'datasets'} & set(sys.modules); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        "results/MRPC/minilm/report.md, .html, .tex and plots",
        "results/RTE/minilm/report.md, .html, .tex and plots",
        "results/glue.md, .html, .csv, .tex: 2 tasks",
    ]
    results = tmp_path / "results"
    assert sorted(path.name for path in results.iterdir() if path.is_file()) == [
        *("glue.csv", "glue.html", "glue.md", "glue.tex"),
    ]
    assert {path.name for path in (results / "RTE" / "minilm").iterdir()} >= {"report.md", "report.html", "plots"}
    text = (results / "glue.md").read_text()
    assert "| minilm (teacher, 6 layers) |" in text
    assert "<td" in (results / "glue.html").read_text()


def test_the_report_of_a_linked_run_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "scratch" / "run42", **SMALL)
    (tmp_path / "results" / "MRPC").mkdir(parents=True)
    (tmp_path / "results" / "MRPC" / "minilm").symlink_to(folder)
    assert run(monkeypatch, tmp_path) == 0
    assert (folder / "report.md").is_file()
    assert "minilm" in (tmp_path / "results" / "glue.md").read_text()


def test_demos_and_unfinished_runs_are_left_out_and_named(tmp_path: Path) -> None:
    demo = read_run(write_run(tmp_path / "MRPC" / "demo", teacher="demo", demo=True, **SMALL))
    real = read_run(write_run(tmp_path / "RTE" / "minilm", task="RTE", **SMALL))
    folder = write_run(tmp_path / "RTE" / "begun", task="RTE", **SMALL)
    (folder / "summary.json").unlink()
    begun = read_run(folder)
    assert choose([demo]) == ([demo], ["**All runs are demos, on made-up corpora: these are not GLUE scores.**"])
    counted, notes = choose([demo, begun, real])
    assert counted == [real]
    assert notes == [
        "1 demo run left out: its corpus is synthetic, not GLUE.",
        "Not finished and left out: `RTE/begun`.",
    ]
    assert choose([begun])[0] == []
    folder = write_run(tmp_path / "RTE" / "stopped", task="RTE", **SMALL)
    write_json(folder / "summary.json", read_json(folder / "summary.json") | {"status": "time limit", "remaining": 3})
    counted, notes = choose([real, read_run(folder)])
    assert (len(counted), notes) == (2, [])
    assert remarks(counted) == [
        "Interrupted, or ended by a time limit, so that students are the best so far: `RTE/stopped`."
    ]


def test_runs_that_were_not_chosen_on_dev_are_named(tmp_path: Path) -> None:
    usual = read_run(write_run(tmp_path / "MRPC" / "minilm", **SMALL))
    held = read_run(write_run(tmp_path / "RTE" / "minilm", task="RTE", select_on="holdout", **SMALL))
    assert (choose([usual]), remarks([usual])) == (([usual], []), [])
    note = "Settings and epochs chosen on a slice held out of train instead of dev: `RTE/minilm`."
    assert (choose([usual, held]), remarks([usual, held])) == (([usual, held], []), [note])
    usual.record["unlabeled"] = {"file": "more.txt", "examples": 100}
    assert remarks([usual]) == ["KD and PKD with more texts than the task's (`--unlabeled`): `MRPC/minilm`."]


@pytest.mark.slow
def test_a_folder_of_all_sorts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a run, two of one task, one whose report cannot be written, and folders that are none."""
    half = write_run(tmp_path / "results" / "MRPC" / "half", **SMALL)
    for name in ("summary.json", "trials.csv", "evaluations.csv"):
        (half / name).unlink()
    write_run(tmp_path / "results" / "MRPC" / "minilm", **SMALL)
    write_run(tmp_path / "results" / "MRPC" / "minilm-2", **SMALL, seed=1)
    blocked = write_run(tmp_path / "results" / "RTE" / "blocked", task="RTE", **SMALL)
    (blocked / "report.html").mkdir()  # refuses to be written whoever asks, as a read-only folder does
    (tmp_path / "results" / "RTE" / "begun").mkdir()
    (tmp_path / "results" / "RTE" / "begun" / "study.log").touch()
    (tmp_path / "results" / "notes.txt").touch()
    assert run(monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "results/RTE/begun: left out: it has no trials yet, or is not a run",
        "results/MRPC/half/report.md, .html and plots (not finished)",
        "results/MRPC/minilm/report.md, .html and plots",
        "results/MRPC/minilm-2/report.md, .html and plots",
        f"{blocked}: its report cannot be written (Is a directory)",
        "results/glue.md, .html, .csv: 2 tasks",
    ]
    text = (tmp_path / "results" / "glue.md").read_text()
    assert "Not finished and left out: `MRPC/half`." in text
    assert "Left out, because a run that began later has the same models: `MRPC/minilm`." in text
    assert "Runs: MRPC: `MRPC/minilm-2`; RTE: `RTE/blocked`." in text


def test_one_run_is_renewed_with_another_tolerance_and_as_latex(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "results" / "MRPC" / "minilm", **SMALL)
    other = write_run(tmp_path / "results" / "MRPC" / "other", **SMALL)
    assert run(monkeypatch, tmp_path, "results/MRPC/minilm", "--tolerance", "30", "--latex") == 0
    assert capsys.readouterr().err.splitlines() == ["results/MRPC/minilm/report.md, .html, .tex and plots"]
    assert "**Ship** `best/2-layer`" in (folder / "report.md").read_text()
    text = (folder / "report.tex").read_text()
    assert "PKD, 2 layers & " in text
    assert r"$\alpha$ " in text
    assert not (other / "report.md").exists()
    assert not list((tmp_path / "results").glob("glue.*"))
    for flags, says in (((str(tmp_path),), "there is no run in it"), (("--tolerance", "-1"), "--tolerance must be")):
        assert run(monkeypatch, tmp_path, *flags) == 2
        assert says in capsys.readouterr().err


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("content", ["[]", "{}"])
def test_a_record_of_something_else_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    folder = write_run(tmp_path / "results" / "MRPC" / "minilm", **SMALL)
    (folder / name).write_text(content)
    assert run(monkeypatch, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{name} is damaged (" in line


def test_only_unfinished_runs_have_reports_but_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = write_run(tmp_path / "RTE" / "begun", task="RTE", **SMALL)
    (begun / "summary.json").unlink()
    assert run(monkeypatch, tmp_path, "--out", ".") == 0
    assert (begun / "report.md").exists()
    assert not list(tmp_path.glob("glue.*"))
    assert "no search of a GLUE task has ended" in capsys.readouterr().err


def test_mistakes_are_one_line_each_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tmp_path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--out results: there is no run in it" in line
    assert "pkd_tune.search" in line
    for name in ("a", "b", "c"):
        write_run(tmp_path / "results" / "MRPC" / name, **SMALL)
    (tmp_path / "results/MRPC/a/run.json").write_text("{")
    (tmp_path / "results/MRPC/b/summary.json").write_text("{")
    before = sorted(tmp_path.rglob("*"))
    assert run(monkeypatch, tmp_path) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "a/run.json is damaged" in first
    assert "b/summary.json is damaged" in second
    assert sorted(tmp_path.rglob("*")) == before
