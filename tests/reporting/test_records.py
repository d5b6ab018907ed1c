"""Records survive the disk."""

from pathlib import Path

import pandas as pd
import pytest

from pkd_tune.config import UserError
from pkd_tune.reporting.records import read_json, read_rows, write_json, write_rows

ROWS = [{"depth": 2, "state": "failed", "error": 'a, "b"'}, {"depth": 3, "state": "complete", "score": 80.1}]


def test_records_survive_the_disk(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"where": tmp_path, "α": 1})
    assert read_json(tmp_path / "run.json") == {"where": str(tmp_path), "α": 1}
    write_rows(tmp_path / "trials.csv", ROWS)
    assert read_rows(tmp_path / "trials.csv").equals(pd.DataFrame(ROWS))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "trials.csv"]


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
