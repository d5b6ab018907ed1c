"""report.md of recorded runs: one word for word, others where they differ, and what is said when half is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run

from pkd_tune.config import UserError
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.provenance import background
from pkd_tune.reporting.records import write_rows
from pkd_tune.reporting.run import read_run
from pkd_tune.reporting.run_report import learnt_nothing, results, write_report

GOLDEN = Path(__file__).with_name("golden_report.md")


def text_of(run: Path) -> str:
    """Returns report.md without drawing anything."""
    read = read_run(run)
    return markdown([*results(read), *background(read)])


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edits a JSON record in its place."""
    record = read_json(path)
    edit(record)
    write_json(path, record)


def test_the_report_of_a_recorded_run(tmp_path: Path) -> None:
    """Three methods, two depths, a failed, an interrupted and several stopped trials.

    After a wanted change: python tests/recorded_run.py x/MRPC/minilm && python -m pkd_tune.report --out x
    """
    path = write_report(write_run(tmp_path / "MRPC" / "minilm"))
    text = path.read_text(encoding="utf-8")
    states = set(pd.read_csv(path.with_name("trials.csv"))["state"])
    assert states == {"complete", "stopped early", "failed", "interrupted"}
    assert text == GOLDEN.read_text(encoding="utf-8")


def test_published_figures_stand_beside_students_of_bert_base(tmp_path: Path) -> None:
    bert = {"task": "RTE", "teacher": "bert-base-uncased", "teacher_layers": 12, "depths": (3, 6), "trials": 4}
    text = text_of(write_run(tmp_path / "RTE" / "bert", **bert))
    assert "| published, dev | settings |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| PKD, 6 layers |") and "lr" in line]
    assert "| 68.2 (accuracy) |" in row
    assert "| PKD, 3 layers | 62.1 | 62.5 | – | 58.2 |" in text
    assert "| PKD, 6 layers | 68.2 | 68.2 | 66.5 | 65.5 |" in text
    assert "dev and test scores are not comparable" in text
    demo = text_of(write_run(tmp_path / "RTE" / "demo", **bert, demo=True))
    assert "published" not in demo
    assert "**A made-up demo corpus, not GLUE's.**" in demo


SAYS: dict[str, list[str]] = {
    "dev": [
        "| dev split | confirmed score | selection score | F1 |",
        "best trial, on the dev split, which chose both the settings and the epoch, so it is optimistic.",
        "each at the epoch that scored best on dev: these did not choose the settings, but dev chose their epochs",
        "settings and epochs chosen on the dev split;",
        "train `123456789abc`, dev `",
    ],
    "holdout": [
        "| dev split | confirmed score | selection score (held-out slice) | F1 |",
        "best trial, on a slice held out of train, which chose both the settings and the epoch, so it is optimistic; "
        "dev played no part in the choice.",
        "each at the epoch that scored best on the held-out slice; dev was looked at once, at the end of each.",
        "settings and epochs chosen on a slice held out of train, and dev looked at once at the end;",
        "train `123456789abc`, held out for dev `",
    ],
}


@pytest.mark.parametrize(("select_on", "other"), [("dev", "holdout"), ("holdout", "dev")])
def test_what_chose_settings_and_epochs_is_said_of_every_score(tmp_path: Path, select_on: str, other: str) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", select_on=select_on))
    assert [words for words in SAYS[select_on] if words not in text] == []
    assert [words for words in SAYS[other] if words in text] == []


def test_without_confirmations_the_report_says_what_is_missing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "CoLA" / "minilm", task="CoLA", seeds=0, trials=4)
    text = text_of(run)
    assert "| Matthews correlation |" in text
    assert "confirmed score" not in text
    assert "No student was trained again on fresh seeds" in text
    change(run / "run.json", lambda record: record["search"].update(seeds=2))
    assert "Not everything is confirmed: 0 of 12 trainings" in text_of(run)


def test_a_single_confirmation_has_no_deviation(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", seeds=1, trials=4, depths=(2,)))
    assert "(n = 1)" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| KD, 2 layers |") and "(n = 1)" in line]
    assert "±" not in row


def test_a_student_that_learnt_nothing_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    summary = read_json(run / "summary.json")
    student, teacher = summary["students"][0], summary["teacher"]
    assert not learnt_nothing(student, teacher)
    student["metrics"] = teacher["majority"]
    assert learnt_nothing(student, teacher)
    write_json(run / "summary.json", summary)
    assert "PKD, 2 layers: no better than always predicting the most frequent class" in text_of(run)


UNEQUAL = "part of a difference may come from more trials"


@pytest.mark.parametrize(
    ("tried", "controls", "words"),
    [(6, 1, "; the best of 6 trials against the best of 1."), (1, 4, "; the best of 1 trial against the best of 4.")],
)
def test_a_comparison_of_unequal_tuning_says_so(tmp_path: Path, tried: int, controls: int, words: str) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", depths=(3,))

    def count(summary: dict[str, Any]) -> None:
        for student in summary["students"]:
            student["trials_ended"] = tried if student["method"] == "pkd" else controls

    change(run / "summary.json", count)
    text = text_of(run)
    compared = [line for line in text.splitlines() if line.startswith("- 3 layers: ")]
    assert [line.endswith(words) for line in compared] == ["PKD" in line for line in compared]
    assert len(compared) == 3
    assert UNEQUAL in text


def test_a_comparison_of_equal_tuning_says_nothing_of_it(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", trials=6, control_trials=6))
    assert "## Which differences are real" in text
    assert "against the best of" not in text
    assert UNEQUAL not in text


def test_settings_without_effect_are_not_shown(tmp_path: Path) -> None:
    text = text_of(write_run(tmp_path / "MRPC" / "minilm", depths=(1,), trials=4))
    rows = {line.split(" |")[0]: line for line in text.splitlines() if line.startswith("| ") and "lr" in line}
    assert [("α" in row, "T " in row, "β" in row or "skip" in row or "last" in row) for row in rows.values()] == [
        (False, False, False),  # fine-tuned
        (True, True, False),  # KD
        (True, True, False),  # PKD of one layer has no inner layer to imitate with
    ]
    assert "One layer has no inner layer" in text


@pytest.mark.parametrize(
    ("resources", "cost"),
    [
        ({"device": "cpu", "count": 2, "per_gpu": 1}, "0.80 CPU-core-hours"),  # as runs were recorded at first
        ({"device": "cpu", "count": 1, "per_gpu": 1, "threads": 2}, "1.60 CPU-core-hours"),
        ({"device": "cuda", "count": 8, "per_gpu": 4, "threads": 1}, "0.20 GPU-hours"),
    ],
)
def test_what_the_trainings_took_counts_cores_and_shares_of_gpus(
    tmp_path: Path, resources: dict[str, Any], cost: str
) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    change(run / "run.json", lambda record: record.update(resources=resources))
    assert f"All trainings together took {cost}, without teacher and export." in text_of(run)


def test_a_search_cut_short_says_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    assert "cut short" not in text_of(run)
    change(run / "summary.json", lambda summary: summary.update(planned=24))
    assert "The search was cut short: 16 of 24 trials ended." in text_of(run)


def test_importances_that_are_missing_are_said_to_be_in_both_reports(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=16, depths=(3,))
    says = "Which settings matter"
    assert f"{says} is not known" not in write_report(run).read_text()
    assert f"<h3>{says}</h3>" in (run / "report.html").read_text()
    trials = pd.read_csv(run / "trials.csv")
    trials[trials["trial"] < 7].to_csv(run / "trials.csv", index=False)
    assert f"- {says} is not known for PKD with 3 layers (" in write_report(run).read_text()
    html = (run / "report.html").read_text()
    assert f"<li>{says} is not known for PKD with 3 layers (" in html
    assert "A larger <code>--trials</code> adds to them" in html
    assert f"<h3>{says}</h3>" not in html


def test_parts_of_a_space_that_depend_on_others(tmp_path: Path) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    spec = {"values": [1, 10], "when": {"strategy": "skip"}, "otherwise": 5}
    change(run / "run.json", lambda record: record["space"].update(beta=spec))
    assert "beta 1 or 10 when strategy is skip, else 5;" in text_of(run)


UNFINISHED = "**This search is not finished**"


def _begun(run: Path) -> None:
    for name in ("summary.json", "trials.csv", "evaluations.csv"):
        (run / name).unlink()


def _killed(run: Path) -> None:
    (run / "summary.json").unlink()


def _fruitless(run: Path) -> None:
    change(run / "summary.json", lambda summary: summary.update(students=[]))
    trials = pd.read_csv(run / "trials.csv").assign(state="failed", error="out | of `memory`\nagain")
    trials.to_csv(run / "trials.csv", index=False)


def _trialless(run: Path) -> None:
    change(run / "summary.json", lambda summary: summary.update(students=[]))
    write_rows(run / "trials.csv", [])
    write_rows(run / "evaluations.csv", [])


def _no_record(run: Path) -> None:
    (run / "run.json").unlink()


def _no_trials(run: Path) -> None:
    (run / "trials.csv").unlink()


def _old(run: Path) -> None:
    """Turns the records into those of the first release, which had PKD and nothing else."""
    (run / "evaluations.csv").unlink()
    for name in ("stages", "control_trials", "seeds", "sampler"):
        change(run / "run.json", lambda record, name=name: record["search"].pop(name))  # type: ignore[misc]
    change(run / "run.json", lambda record: record["search"]["data"].pop("select_on"))
    trials = pd.read_csv(run / "trials.csv")
    trials = trials[(trials["method"] == "pkd") & (trials["stage"] == "search")]
    trials.drop(columns=["method", "stage", "seed", "epochs", "started"]).to_csv(run / "trials.csv", index=False)
    summary = read_json(run / "summary.json")
    del summary["planned"]
    students = [student for student in summary["students"] if student["method"] == "pkd"]
    for student in students:
        for name in ("method", "trials_ended", "confirmed", "against"):
            del student[name]
    write_json(run / "summary.json", {**summary, "students": students})


HALVES: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "begun": (_begun, [UNFINISHED, "trials.csv is missing", "| PKD, 2 layers | 0 |", "- Command: `"], ["No trial of"]),
    "killed": (_killed, [UNFINISHED, "| PKD, 2 layers | 7 |", "- Command: `"], ["No trial of"]),
    "fruitless": (
        _fruitless,
        ["No trial of fine-tuned, KD or PKD with 2 layers reached the end", "failed: `out | of 'memory' again`"],
        [UNFINISHED, "How to read"],
    ),
    "trialless": (_trialless, ["The search was cut short: 0 of 24 trials ended.", "| teacher, 6 layers |"], []),
    "no-record": (_no_record, ["run.json is missing", "| PKD, 3 layers | 79.4 ± 0.3", "# MRPC: "], ["Command"]),
    "no-trials": (_no_trials, ["trials.csv is missing", "| PKD, 3 layers |"], []),
    "old": (
        _old,
        ["recorded before there were controls", "evaluations.csv is missing", "| PKD, 3 layers |", "(best of 6)"],
        ["confirmed score", "KD, 3 layers |\n", "cut short"],
    ),
}


@pytest.mark.parametrize(("damage", "says", "says_not"), HALVES.values(), ids=HALVES)
def test_half_a_run_has_a_report_that_says_so(
    tmp_path: Path, damage: Callable[[Path], None], says: list[str], says_not: list[str]
) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm")
    damage(run)
    text = write_report(run).read_text()
    assert [words for words in says if words not in text] == []
    assert [words for words in says_not if words in text] == []
    assert "nan" not in text.lower()
    assert (run / "report.html").exists()


@pytest.mark.parametrize("name", ["run.json", "summary.json", "trials.csv", "evaluations.csv"])
def test_a_damaged_record_is_named_and_nothing_is_written(tmp_path: Path, name: str) -> None:
    run = write_run(tmp_path / "MRPC" / "minilm", trials=4)
    (run / name).write_text('a,b\n1,"2' if name.endswith("csv") else json.dumps({"a": 1})[:-1])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=name):
        write_report(run)
    assert sorted(tmp_path.rglob("*")) == before
