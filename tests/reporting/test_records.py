"""Records survive the disk."""

from pathlib import Path

import pandas as pd
import pytest

from pkd_tune.config import UserError
from pkd_tune.files import read_json, write_file, write_json
from pkd_tune.reporting.provenance import provenance
from pkd_tune.reporting.records import read_rows, write_rows

ROWS = [{"depth": 2, "state": "failed", "error": 'a, "b"'}, {"depth": 3, "state": "complete", "score": 80.1}]


def test_records_survive_the_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"where": tmp_path, "α": 1})
    assert read_json(tmp_path / "run.json") == {"where": str(tmp_path), "α": 1}
    write_rows(tmp_path / "trials.csv", ROWS)
    assert read_rows(tmp_path / "trials.csv").equals(pd.DataFrame(ROWS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trials.csv"]


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path) -> None:
    def half(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "run.json", half)
    assert list(tmp_path.iterdir()) == []


def test_no_rows_are_an_empty_table(tmp_path: Path) -> None:
    write_rows(tmp_path / "trials.csv", [])
    assert read_rows(tmp_path / "trials.csv").empty
    assert read_rows(tmp_path / "evaluations.csv").empty


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")
    (tmp_path / "trials.csv").write_text('a,b\n1,"2')
    with pytest.raises(UserError, match=r"trials\.csv is damaged"):
        read_rows(tmp_path / "trials.csv")


def test_the_machine_is_recorded_with_its_gpus() -> None:
    cores = provenance("pkd_tune.search", [], [])["machine"]
    assert cores.endswith("CPU cores")
    gpus = ["NVIDIA H100 80GB HBM3", "NVIDIA L4", "NVIDIA H100 80GB HBM3"]
    found = provenance("pkd_tune.search", ["--task", "MRPC"], gpus)
    assert found["machine"] == f"{cores}, 2 × NVIDIA H100 80GB HBM3, 1 × NVIDIA L4"
    assert found["command"] == "python -m pkd_tune.search --task MRPC"
