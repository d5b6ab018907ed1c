"""What the GLUE server gets: eleven files, spelled and counted as it wants them, or nothing at all."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pkd_tune.config import Task, UserError
from pkd_tune.data.glue import TASKS
from pkd_tune.data.submission import write_submission

# Lines with the header, as the server's sample submission has them.
LINES = {
    "CoLA.tsv": 1_064,
    "SST-2.tsv": 1_822,
    "MRPC.tsv": 1_726,
    "STS-B.tsv": 1_380,
    "QQP.tsv": 390_966,
    "MNLI-m.tsv": 9_797,
    "MNLI-mm.tsv": 9_848,
    "QNLI.tsv": 5_464,
    "RTE.tsv": 3_001,
    "WNLI.tsv": 147,
    "AX.tsv": 1_105,
}
SPELLINGS = {
    **dict.fromkeys(("CoLA.tsv", "SST-2.tsv", "MRPC.tsv", "QQP.tsv", "WNLI.tsv"), ("0", "1")),
    **dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), ("entailment", "neutral", "contradiction")),
    **dict.fromkeys(("QNLI.tsv", "RTE.tsv"), ("entailment", "not_entailment")),
}


def some(task: Task) -> dict[str, np.ndarray]:
    """Predictions of the official size that run through all classes, or from below to above the range."""
    counts = {name: task.row_counts[name] for name in task.test_splits}
    if task.regression:
        return {name: np.linspace(-1, 6, count, dtype=np.float32) for name, count in counts.items()}
    return {name: np.arange(count) % task.outputs for name, count in counts.items()}


def read(path: Path) -> dict[str, list[str]]:
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode().split("\n") for name in archive.namelist()}


def test_a_whole_submission_has_the_eleven_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "submission.zip"
    assert write_submission(path, {name: some(task) for name, task in TASKS.items()}) == []
    files = read(path)
    assert {name: len(lines) - 1 for name, lines in files.items()} == LINES
    assert sum(LINES.values()) == 426_320
    for name, (header, *rows, end) in files.items():
        assert (header, end) == ("index\tprediction", "")
        assert rows[0].startswith("0\t")
        assert rows[-1].startswith(f"{len(rows) - 1}\t")
        if name in SPELLINGS:
            expected = SPELLINGS[name]
            assert [row.split("\t")[1] for row in rows[:6]] == [expected[i % len(expected)] for i in range(6)]
    values = [row.split("\t")[1] for row in files["STS-B.tsv"][1:-1]]
    assert (values[0], values[-1]) == ("0.000", "5.000")
    assert all(len(value) == 5 and 0 <= float(value) <= 5 for value in values)
    assert [path.name for path in path.parent.iterdir()] == ["submission.zip"]


def test_missing_tasks_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    with pytest.raises(UserError, match=r"s\.zip: no predictions for CoLA, SST-2, STS-B, .*, WNLI, AX; ") as caught:
        write_submission(path, {"MRPC": some(TASKS["MRPC"])})
    assert "MRPC" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_tasks_are_filled_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    wanted = [name for name in TASKS if name != "QQP"]  # which is large, and filled like the others
    notes = write_submission(path, {"MRPC": some(TASKS["MRPC"])}, wanted=wanted, fill_missing=True)
    assert len(notes) == 9
    assert "no files for QQP" in notes[-1]
    assert "CoLA: no predictions; filled with '1'" in notes
    files = read(path)
    assert {name: len(lines) - 1 for name, lines in files.items()} == {k: n for k, n in LINES.items() if k != "QQP.tsv"}
    said = {name: {line.split("\t")[1] for line in lines[1:-1]} for name, lines in files.items()}
    assert said.pop("MRPC.tsv") == {"0", "1"}
    assert said == {
        "CoLA.tsv": {"1"},
        "SST-2.tsv": {"1"},
        "STS-B.tsv": {"2.500"},
        "MNLI-m.tsv": {"contradiction"},
        "MNLI-mm.tsv": {"contradiction"},
        "QNLI.tsv": {"not_entailment"},
        "RTE.tsv": {"entailment"},
        "WNLI.tsv": {"0"},
        "AX.tsv": {"contradiction"},
    }


def test_a_part_of_the_benchmark_can_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    (note,) = write_submission(path, {"RTE": some(TASKS["RTE"])}, wanted=["RTE"])
    assert "no files for CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, WNLI, AX" in note
    assert list(read(path)) == ["RTE.tsv"]
    with pytest.raises(ValueError, match="no such tasks"):
        write_submission(path, {}, wanted=["SNLI"])


def test_all_mistakes_are_found_before_anything_is_written(tmp_path: Path) -> None:
    path = tmp_path / "s.zip"
    path.write_text("an older one")
    wrong: dict[str, dict[str, Any]] = {
        "MNLI": {"test": np.full(9_796, 3)},
        "RTE": {"test": [0, 1]},
        "STS-B": {"test": [1.0] * 5 + [float("nan")] * 1_374},
        "CoLA": {"test": [0.5] * 1_063},
    }
    with pytest.raises(UserError) as caught:
        write_submission(path, wrong, wanted=[*wrong, "WNLI"])
    assert list(caught.value.problems) == [
        f"{path}: no predictions for WNLI; predict them, or fill them with a constant (--fill-missing)",
        "CoLA test: row 0 is 0.5, but must be a class id from 0 to 1",
        "STS-B test: row 5 is nan, but must be finite",
        f"{path}: no predictions for MNLI test_mm, which a submission needs",
        "MNLI test: row 0 is 3, but must be a class id from 0 to 2",
        "RTE test: 2 predictions, but the official split has 3,000 rows; "
        "the GLUE server accepts only predictions for the official test.tsv",
    ]
    assert path.read_text() == "an older one"
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_predictions_make_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.zip", "b.zip"):
        write_submission(tmp_path / name, {"WNLI": some(TASKS["WNLI"])}, wanted=["WNLI"])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=9))
def test_values_are_in_range_with_3_decimals_in_their_order(tmp_path: Path, values: list[float]) -> None:
    path = tmp_path / "s.zip"
    whole = [*values, *[0.0] * (TASKS["STS-B"].row_counts["test"] - len(values))]
    write_submission(path, {"STS-B": {"test": whole}}, wanted=["STS-B"])
    rows = [line.split("\t") for line in read(path)["STS-B.tsv"][1:-1]]
    assert [int(index) for index, _ in rows] == list(range(len(whole)))
    for (_, text), value in zip(rows, whole, strict=True):
        assert len(text) == 5
        assert float(text) == pytest.approx(min(max(value, 0), 5), abs=5.1e-4)


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"s\.zip cannot be written: .*; choose another path"):
        write_submission(tmp_path / "file" / "s.zip", {"WNLI": some(TASKS["WNLI"])}, wanted=["WNLI"])
