"""Reads tables of examples by column name: CSV, TSV, JSON Lines and Parquet files.

Cells of CSV and TSV files are strings, whatever they look like: `01`, `None` and `NA` stay what they are. Quoting is
that of RFC 4180 for both, as spreadsheets and pandas write it.
"""

import csv
import io
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pkd_tune.config import UserError

log = logging.getLogger(__name__)

ENDINGS = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
"""Endings of the files that can be read; a .json file holds JSON Lines."""

MOST_PROBLEMS = 5
"""Problems of one file that are reported."""


@dataclass(frozen=True, slots=True)
class Table:
    """Some columns of a table of examples."""

    source: str
    """What messages call the table: the path of its file."""
    names: tuple[str, ...]
    """Names of all columns."""
    columns: dict[str, list[Any]]
    """Values of the columns that were asked for and exist; None for a missing value."""
    lines: Sequence[int] | None = None
    """Line of the file in which each row begins; None where rows are only numbered."""

    def __len__(self) -> int:
        return max(map(len, self.columns.values()), default=0)

    def place(self, row: int) -> str:
        """Returns what messages call a row: by its line, or by its number, counted from 0."""
        return f"{self.source}: row {row}" if self.lines is None else f"{self.source}:{self.lines[row]}"


def first_problems(problems: Sequence[str], source: object) -> list[str]:
    """Returns the first problems of a file, and a line that counts the others."""
    if len(problems) <= MOST_PROBLEMS:
        return list(problems)
    return [*problems[:MOST_PROBLEMS], f"{source}: ... and {len(problems) - MOST_PROBLEMS:,} more"]


def read_table(path: Path, wanted: Sequence[str]) -> Table:
    """Reads the wanted columns of a file, as far as it has them.

    Raises:
        UserError: The file is missing, of another kind, cannot be parsed, or has no rows; names the line if possible.
    """
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: cannot be read as a table; its name must end in one of {', '.join(ENDINGS)}")
    if not path.is_file():
        raise UserError(f"{path} is missing")
    match path.suffix:
        case ".parquet":
            table = _read_parquet(path, wanted)
        case ".jsonl" | ".json":
            table = _read_json_lines(path, wanted)
        case suffix:
            table = _read_csv(path, wanted, "," if suffix == ".csv" else "\t")
    if not len(table) and any(name in table.names for name in wanted):
        raise UserError(f"{path} is empty: it has no examples")
    return table


def read_utf8(path: Path) -> str:
    """Returns the text of a UTF-8 file, with or without a byte order mark.

    Raises:
        UserError: The file cannot be read, or is not UTF-8; names the line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}:{line}: not UTF-8; save the file as UTF-8") from error


def _read_csv(path: Path, wanted: Sequence[str], delimiter: str) -> Table:
    kind = "CSV" if delimiter == "," else "TSV"
    csv.field_size_limit(sys.maxsize)  # by default texts of more than 128 KiB are refused
    reader = csv.reader(io.StringIO(read_utf8(path), newline=""), delimiter=delimiter, strict=True)
    lines: list[int] = []
    rows: list[list[str]] = []
    names: tuple[str, ...] = ()
    problems: list[str] = []
    first = 1
    merged = 0
    try:
        for cells in reader:
            if not cells:
                pass  # an empty line
            elif not names:
                names = tuple(cells)
            elif len(cells) != len(names):
                problems.append(f"{path}:{first}: {len(cells)} columns, but the header has {len(names)}")
            else:
                lines.append(first)
                rows.append(cells)
                if delimiter == "\t" and not merged and any("\t" in cell and "\n" in cell for cell in cells):
                    merged = first
            first = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{path}:{first}: the row that begins on this line is not valid {kind}: {error}")
    if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1 and name in wanted]:
        problems.append(f"{path}:1: the header has the column {repeated[0]!r} twice")
    if problems:
        raise UserError(*first_problems(problems, path))
    if merged:
        _warn_of_merged_lines(path, merged)
    columns = {name: [cells[names.index(name)] for cells in rows] for name in wanted if name in names}
    return Table(str(path), names, columns, lines)


@cache  # files are read several times
def _warn_of_merged_lines(path: Path, line: int) -> None:
    log.warning(
        "%s:%d: from this line on, several lines are one cell, because a quotation mark begins it; where the mark is "
        "part of the text, double it and enclose the whole cell in marks",
        path,
        line,
    )


def _read_json_lines(path: Path, wanted: Sequence[str]) -> Table:
    rows: list[dict[str, Any]] = []
    lines: list[int] = []
    problems: list[str] = []
    # str.splitlines would also split at characters that occur inside strings, such as U+2028.
    for number, line in enumerate(read_utf8(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: not a JSON object on one line ({error})")
            continue
        if not isinstance(row, dict):
            problems.append(f"{path}:{number}: not a JSON object, but {line.strip()[:40]}")
            continue
        rows.append(row)
        lines.append(number)
    if problems:
        raise UserError(*first_problems(problems, path))
    names = tuple(dict.fromkeys(name for row in rows for name in row))
    return Table(str(path), names, {name: [row.get(name) for row in rows] for name in wanted if name in names}, lines)


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = tuple(file.schema_arrow.names)
            if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1 and name in wanted]:
                raise UserError(f"{path}: has the column {repeated[0]!r} twice")
            content = file.read(columns=[name for name in wanted if name in names])
        columns = {name: content.column(name).to_pylist() for name in content.column_names}
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: has text that is not UTF-8; write the file again") from error
    except OverflowError as error:
        raise UserError(
            f"{path}: has a date or time that Python does not hold, outside the years 1 to 9999 ({error}); write it as "
            "text"
        ) from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be read as Parquet: {reason}") from error
    return Table(str(path), names, columns)
