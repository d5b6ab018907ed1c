"""The tables of a run: trials.csv and evaluations.csv, one row per training and per evaluation."""

from pathlib import Path
from typing import Any

import pandas as pd

from pkd_tune.config import UserError
from pkd_tune.files import write_text


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Writes one line per trial or evaluation; a column that only some rows have is empty in the others."""
    write_text(path, pd.DataFrame(rows).to_csv(index=False))


def read_rows(path: Path) -> pd.DataFrame:
    """Reads what `write_rows` wrote; no file, or one without rows, gives an empty table.

    Raises:
        UserError: When the file is no such table, as after somebody edited or cut it.
    """
    try:
        return pd.read_csv(path)
    except (FileNotFoundError, pd.errors.EmptyDataError):
        return pd.DataFrame()
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it, or start another run with --new") from error
