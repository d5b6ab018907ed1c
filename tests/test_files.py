"""Files are written atomically and read with their name in every error."""

from pathlib import Path

import pytest

from pkd_tune.config import UserError
from pkd_tune.files import read_json, write_file, write_json


def test_a_record_is_read_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "run.json", {"where": tmp_path, "α": 1})
    assert read_json(tmp_path / "run.json") == {"where": str(tmp_path), "α": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def half(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(tmp_path / "run.json", half)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b'{"a": ', b"[]", b"\xff"])
def test_what_is_no_record_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        read_json(tmp_path / "run.json")
