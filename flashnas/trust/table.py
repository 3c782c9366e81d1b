"""The table of trainings behind `flashnas proxy-trust`: a CSV with one row per training, grown one row at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.base.errors import RunError
from flashnas.base.files import append_synced, complete_lines, drop_torn_line
from flashnas.base.hints import did_you_mean

VARIANTS = ("short", "long", "wide")  # what a search does; more tokens; a smaller width factor
COLUMNS = ("set", "notation", "hash", "params", "latency_ms", "variant", "width_factor", "tokens", "seed", "loss",
           "bits_per_byte", "tokens_per_s", "seconds", "proxy_params", "reason")
WHOLE = ("width_factor", "tokens", "seed")
NUMBERS = ("params", "latency_ms", *WHOLE, "loss", "bits_per_byte", "tokens_per_s", "seconds", "proxy_params")
KEY = ["hash", "variant", "width_factor", "tokens", "seed"]


def read_table(path: Path) -> pd.DataFrame:
    """One row per training; a training that failed has no loss. Raises RunError with file, line and rule.

    A last line without its end, which a killed process can leave, is ignored.
    """
    table = read_texts(path)
    for column in COLUMNS:
        if column not in table.columns:
            raise RunError(f"{path}: column {column!r} is missing{did_you_mean(column, table.columns)}")
    for column in NUMBERS:
        numbers = pd.to_numeric(table[column].replace("", None), errors="coerce")
        wrong = numbers.isna() & ((table[column] != "") | (column in WHOLE))
        if column in WHOLE:
            wrong |= numbers.notna() & (numbers % 1 != 0)
        _refuse(path, table, column, wrong, "a whole number" if column in WHOLE else "a number or empty")
        table[column] = numbers.astype("int64" if column in WHOLE else "float64")
    _refuse(path, table, "variant", ~table["variant"].isin(VARIANTS), f"one of {', '.join(VARIANTS)}")
    _refuse(path, table, "hash", table["hash"] == "", "the hash of an architecture")
    _refuse(path, table, "seed", table.duplicated(KEY), "another one: this training stands above already")
    return table


def read_texts(path: Path) -> pd.DataFrame:
    """The complete lines of a CSV, every cell as text. Raises RunError for what is not one.

    A last line without its end counts if it has all cells, as in a file that was written by hand.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8 text'}") from None
    try:
        torn = complete_lines(text)
        cells = [len(row) for row in csv.reader([text.partition("\n")[0], text[len(torn):]])]
        return pd.read_csv(io.StringIO(text if len(set(cells)) == 1 else torn), dtype=str, keep_default_na=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, csv.Error) as error:
        raise RunError(f"{path}: not a table of trainings: {str(error).strip().splitlines()[0]}") from None


def _refuse(path: Path, table: pd.DataFrame, column: str, wrong: pd.Series, rule: str) -> None:
    if wrong.any():
        row = int(wrong.to_numpy().argmax())
        raise RunError(f"{path}:{row + 2}: {column} must be {rule}; got {table[column].iloc[row]!r}")


class TrustTable:
    """The table of a study as it grows: each finished training is on disk before the next is waited for.

    Args:
        path: the file. A last line that a killed process left unfinished is cut off.
        columns: its columns, in order.
        read: reads the file and raises RunError if it is damaged.
    """

    def __init__(self, path: Path, columns: Sequence[str] = COLUMNS,
                 read: Callable[[Path], pd.DataFrame] = read_table) -> None:
        self.path, self.columns = path, columns
        if not path.exists() or not path.stat().st_size:
            path.unlink(missing_ok=True)
            append_synced(path, ",".join(columns))
        drop_torn_line(path)
        read(path)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append one training; keys are the columns."""
        text = io.StringIO()
        csv.DictWriter(text, self.columns, lineterminator="").writerow(row)
        append_synced(self.path, text.getvalue())
