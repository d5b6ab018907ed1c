"""The table of all tasks."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from recorded_run import write_run
from recorded_trainings import METRICS

from pkd_tune.config import Method
from pkd_tune.files import read_json, write_json
from pkd_tune.reporting.document import markdown
from pkd_tune.reporting.glue_table import COLUMNS, elements, latex, scores, views
from pkd_tune.reporting.run import read_run

SMALL: dict[str, Any] = {"trials": 4, "control_trials": 2, "depths": (3,)}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """Returns the scores of two tasks with one teacher, and of one task with another."""
    out = tmp_path_factory.mktemp("results")
    write_run(out / "MRPC" / "minilm", **SMALL)
    write_run(out / "RTE" / "minilm", task="RTE", **SMALL, seed=1)
    write_run(out / "RTE" / "large_bert", task="RTE", teacher="large_bert", **SMALL, seeds=0, seed=2)
    return scores([read_run(folder) for folder in sorted(out.glob("*/*"))])


def test_every_number_has_a_line(table: pd.DataFrame, tmp_path: Path) -> None:
    minilm = table[(table["teacher"] == "minilm") & (table["task"] == "MRPC")]
    assert list(minilm["method"].unique()) == ["teacher", "finetuned", "kd", "pkd"]
    assert list(minilm["metric"].unique()) == ["f1", "accuracy", "score"]
    pkd = minilm[minilm["method"] == "pkd"]
    assert (pkd["seeds"] == 3).all()
    mean = dict(zip(pkd["metric"], pkd["mean"].astype(float), strict=True))
    assert mean["score"] == pytest.approx((mean["f1"] + mean["accuracy"]) / 2)
    assert minilm[minilm["method"] == "teacher"]["mean"].isna().all()
    table.to_csv(tmp_path / "glue.csv", index=False)
    assert len(pd.read_csv(tmp_path / "glue.csv")) == len(table)


def test_the_tables_have_gaps_and_state_their_means(table: pd.DataFrame) -> None:
    confirmed, best = views(table)
    assert confirmed.header == ["model", *COLUMNS.values(), "mean"]
    rows = {row[0]: row[1:] for row in best.rows[3:]}  # the other teacher with its students comes first
    assert [row[0] for row in best.rows[:1]] == ["large_bert (teacher, 6 layers)"]
    mrpc, rte = list(COLUMNS).index("MRPC"), list(COLUMNS).index("RTE")
    teacher = rows["minilm (teacher, 6 layers)"]
    assert (teacher[mrpc], teacher[rte], teacher[-1]) == ("90.0 / 81.0", "66.0", "75.8 (2)")
    assert [cell for i, cell in enumerate(teacher[:-1]) if i not in (mrpc, rte)] == ["–"] * 7
    pkd = table[(table["teacher"] == "minilm") & (table["method"] == "pkd") & (table["metric"] == "score")]
    (row,) = [row for row in confirmed.rows if row[0] == "PKD, 3 layers"]  # the other teacher's was not confirmed
    assert row[1 + rte].startswith(f"{pkd['mean'].iloc[1]:.1f} ± ")
    assert row[-1] == f"{pkd['mean'].mean():.1f} (2)"


def test_a_mean_over_all_tasks_needs_no_count(table: pd.DataFrame) -> None:
    row = table[(table["method"] == "pkd") & (table["task"] == "RTE") & (table["teacher"] == "minilm")]
    nine = pd.concat([row.assign(task=task, best=float(i)) for i, task in enumerate(COLUMNS)])
    assert views(nine)[1].rows == [["PKD, 3 layers", *(f"{i}.0" for i in range(9)), "4.0"]]


def test_the_run_begun_last_counts_model_by_model(tmp_path: Path) -> None:
    begun: list[tuple[str, int, str, tuple[Method, ...]]] = [
        ("minilm", 0, "2026-01-03T00:00:00+00:00", ("pkd", "kd")),
        ("minilm-2", 1, "2026-01-02T00:00:00+00:00", ("pkd", "kd", "finetuned")),
    ]
    for name, seed, started, methods in begun:
        folder = write_run(tmp_path / "MRPC" / name, **SMALL, methods=methods, seed=seed)
        record = read_json(folder / "run.json")
        record["provenance"]["started"] = started
        write_json(folder / "run.json", record)
    table = scores([read_run(folder) for folder in sorted(tmp_path.glob("*/*"))])
    runs = table[table["metric"] == "score"].set_index("method")["run"]
    assert runs.to_dict() == {
        "teacher": "MRPC/minilm",
        "finetuned": "MRPC/minilm-2",
        "kd": "MRPC/minilm",
        "pkd": "MRPC/minilm",
    }
    assert "Runs: MRPC: `MRPC/minilm`, `MRPC/minilm-2`." in markdown(elements(table, []))


def test_a_complete_run_counts_before_a_later_one_that_was_interrupted(tmp_path: Path) -> None:
    begun: list[tuple[str, int, tuple[Method, ...], int]] = [
        ("complete", 2, ("pkd", "kd"), 0),
        ("interrupted", 3, ("pkd", "finetuned"), 5),
    ]
    for name, day, methods, remaining in begun:
        folder = write_run(tmp_path / "MRPC" / name, **SMALL, methods=methods)
        record, summary = read_json(folder / "run.json"), read_json(folder / "summary.json")
        record["provenance"]["started"] = f"2026-01-0{day}T00:00:00+00:00"
        write_json(folder / "run.json", record)
        write_json(folder / "summary.json", summary | {"status": "interrupted", "remaining": remaining})
    table = scores([read_run(folder) for folder in sorted(tmp_path.glob("*/*"))])
    runs = table[table["metric"] == "score"].set_index("method")["run"]
    assert runs.to_dict() == {
        "teacher": "MRPC/complete",
        "finetuned": "MRPC/interrupted",
        "kd": "MRPC/complete",
        "pkd": "MRPC/complete",
    }


def test_every_task_and_its_metrics_have_a_column(tmp_path: Path) -> None:
    for task in METRICS:
        write_run(tmp_path / task / "minilm", task=task, **SMALL)
    rows = views(scores([read_run(folder) for folder in tmp_path.glob("*/*")]))[1].rows
    counts = [len(cell.split(" / ")) if cell != "–" else 0 for cell in rows[0][1:-1]]
    assert counts == [len(METRICS.get(task, ())) for task in COLUMNS]


def test_latex_is_a_booktabs_table(table: pd.DataFrame) -> None:
    text = latex(table)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert r"\toprule" in text
    assert r"large\_bert (teacher, 6 layers) & --" in text
    assert r"$\pm$" in text
    assert not set(text) & set("±–×")
    for line in text.splitlines():
        if line.endswith(r"\\"):
            assert line.count("&") == 1 + table["task"].nunique()  # model, tasks and mean: a task without runs has none
    rules = [line for line in text.splitlines() if line.startswith("\\") and line.endswith("rule")]
    assert rules[-6:] == [r"\toprule", *[r"\midrule"] * 4, r"\bottomrule"]  # head, teacher, students, teacher, students
