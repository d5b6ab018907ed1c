"""Tables of examples in every format: the same cells, and each mistake with file and line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pkd_tune.config import UserError
from pkd_tune.data.tables import read_table

TEXTS = ['a "b", c', "two\nlines", "None", "NA", "01", " d "]


def test_all_formats_have_the_same_cells(tmp_path: Path) -> None:
    quoted = ['"' + text.replace('"', '""') + '"' for text in TEXTS]
    (tmp_path / "t.csv").write_text("﻿id,text\r\n" + "\r\n".join(f"1,{text}" for text in quoted), encoding="utf-8")
    (tmp_path / "t.tsv").write_text("id\ttext\n" + "\n".join(f"1\t{text}" for text in quoted) + "\n\n")
    lines = "\n".join(json.dumps({"id": 1, "text": text + ""}, ensure_ascii=False) for text in TEXTS)
    (tmp_path / "t.jsonl").write_text(lines, encoding="utf-8")
    pq.write_table(pa.table({"id": [1] * len(TEXTS), "text": TEXTS}), tmp_path / "t.parquet")
    for ending in ("csv", "tsv", "jsonl", "parquet"):
        table = read_table(tmp_path / f"t.{ending}", ["text", "none"])
        assert table.columns == {"text": TEXTS}, ending
        assert table.names == ("id", "text")
    assert read_table(tmp_path / "t.csv", ["text"]).place(2) == f"{tmp_path / 't.csv'}:5"  # after a text of two lines
    assert read_table(tmp_path / "t.parquet", ["text"]).place(2) == f"{tmp_path / 't.parquet'}: row 2"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        (
            "t.csv",
            b'text,label\na,b\n"c,d\n',
            ":3: the row that begins on this line is not valid CSV: unexpected end of data",
        ),
        ("t.csv", b"text,label\na,b\nc,d,e\n", ":3: 3 columns, but the header has 2"),
        ("t.csv", b"text,text\na,b\n", ":1: the header has the column 'text' twice"),
        ("t.csv", b"text,label\na,b\nc,\xe4\n", ":3: not UTF-8"),
        ("t.csv", b"text,label\n", " is empty: it has no examples"),
        ("t.jsonl", b'{"text": "a"}\n{"text": \n', ":2: not a JSON object on one line"),
        ("t.jsonl", b'{"text": "a"}\n["b"]\n', ':2: not a JSON object, but ["b"]'),
        ("t.parquet", b"text", ": cannot be read as Parquet"),
        ("t.xlsx", b"", ": cannot be read as a table; its name must end in one of .csv, .tsv"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_table(tmp_path / name, ["text"])
    (problem,) = caught.value.problems
    assert problem.startswith(f"{tmp_path / name}{said}")


def test_a_parquet_column_is_there_once(tmp_path: Path) -> None:
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: has the column 'text' twice"):
        read_table(tmp_path / "t.parquet", ["text"])


def test_parquet_text_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")])
    pq.write_table(pa.table({"text": broken}), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: has text that is not UTF-8"):
        read_table(tmp_path / "t.parquet", ["text"])


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.date32()])
def test_a_parquet_date_beyond_the_year_9999_is_one_line(tmp_path: Path, kind: pa.DataType) -> None:
    dates = pa.array([2**30 * 300], pa.int64()) if kind.bit_width == 64 else pa.array([2**30], pa.int32())
    pq.write_table(pa.table({"text": dates.cast(kind)}), tmp_path / "t.parquet")
    with pytest.raises(
        UserError, match=r"t\.parquet: has a date or time that Python does not hold, .*; write it as te"
    ):
        read_table(tmp_path / "t.parquet", ["text"])


def test_lines_of_a_tsv_that_a_stray_quotation_mark_makes_one_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "t.tsv").write_text('text\tlabel\nfine\tpos\n"Hello there\tpos\nnice one\tneg\nhe said"\tpos\n')
    for _ in range(2):
        assert len(read_table(tmp_path / "t.tsv", ["text"])) == 2
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path / 't.tsv'}:3: from this line on, several lines are one cell")
    (tmp_path / "u.tsv").write_text('text\tlabel\n"two\nlines"\tpos\n"a\tb"\tneg\n')
    read_table(tmp_path / "u.tsv", ["text"])
    assert len(caplog.messages) == 1


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("text\n" + "a,b\n" * 9)
    with pytest.raises(UserError) as caught:
        read_table(tmp_path / "t.csv", ["text"])
    assert len(caught.value.problems) == 6
    assert caught.value.problems[-1].endswith("... and 4 more")
