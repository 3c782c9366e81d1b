"""The one door for files that somebody else may have written, and for their text on the way to a terminal.

A run folder, a table, a corpus or a model may come from a stranger. Read through here, a file can be wrong
but cannot hang, fill the memory, or change another file:

    recipe = read_yaml(path)                              of base/yaml.py; ConfigError
    header, *entries = read_json_lines(path, RunError)    a journal; a torn last line is left out
    frame = read_parquet(path, RunError)                  its cells are counted before it is read
    files = read_zip(path, ConfigError)                   name -> content; nothing is written
    tensors = load_file(check_regular(path, WeightsError))    for libraries that open the file themselves

Each refuses, in one line "place: rule; got value", what is not a regular file, what is larger than its kind
may be, and nesting deeper than MAX_DEPTH. Reading follows links, since caches of models consist of them.
Writing does not: before a file of a given folder is repaired or appended to, `check_regular(path, error,
write=True)` refuses a link. `printable` is for every foreign text that a command prints.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import FlashnasError
from flashnas.base.hints import did_you_mean, first_line, printable

if TYPE_CHECKING:
    import pandas as pd

MAX_YAML_MB = 2             # PyYAML needs up to 3 s for one megabyte
MAX_JSON_MB = 256           # tokenizers of large vocabularies have 35 MB
MAX_JOURNAL_MB = 2_000
MAX_CELLS = 100_000_000     # rows times columns of a parquet file: 0.8 GB as numbers
MAX_ZIP_MB = 200            # unpacked
MAX_ZIP_FILES = 1000
MAX_DEPTH = 64              # of lists and mappings inside one another
TOO_DEEP = f"must be nested at most {MAX_DEPTH} levels deep; got more"

_ZIP_NAME = re.compile(r"(?!\.)[\w.-]{1,100}(/(?!\.)[\w.-]{1,100}){0,8}", re.ASCII)
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack without a limit
_KINDS = ((stat.S_ISLNK, "a link"), (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a FIFO"),
          (stat.S_ISSOCK, "a socket"), (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))


def check_regular(path: str | Path, error: type[FlashnasError], *, max_mb: float = math.inf,
                  write: bool = False) -> Path:
    """The path, if a regular file of that size is there.

    Args:
        write: the file is to be written: a link is refused, too, and a missing file is allowed.

    Raises:
        FlashnasError: of the class `error`, in one line.
    """
    path, place = Path(path), printable(path)
    try:
        status = os.stat(path, follow_symlinks=not write)
    except (OSError, ValueError) as caught:  # ValueError: a zero byte in the path
        if write and isinstance(caught, FileNotFoundError):
            return path
        raise error(f"{place}: cannot be read: {getattr(caught, 'strerror', None) or caught}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = next((name for holds, name in _KINDS if holds(status.st_mode)), "something else")
        raise error(f"{place}: must be a regular file; got {kind}")
    if status.st_size > max_mb * 1e6:
        raise error(f"{place}: must be at most {max_mb:g} MB; got {status.st_size / 1e6:,.0f} MB")
    return path


def read_bytes(path: str | Path, error: type[FlashnasError], *, max_mb: float = MAX_JSON_MB) -> bytes:
    """The content of a regular file of at most that size."""
    try:
        return check_regular(path, error, max_mb=max_mb).read_bytes()
    except OSError as caught:
        raise error(f"{printable(path)}: cannot be read: {caught.strerror}") from None


def read_text(path: str | Path, error: type[FlashnasError], *, max_mb: float = MAX_JSON_MB) -> str:
    """The content of a regular file of at most that size, which is UTF-8 text; line ends become `\\n`."""
    try:
        return io.TextIOWrapper(io.BytesIO(read_bytes(path, error, max_mb=max_mb)), encoding="utf-8").read()
    except UnicodeDecodeError:
        raise error(f"{printable(path)}: cannot be read: not UTF-8 text") from None


def parse_json(text: str | bytes, place: str | Path, error: type[FlashnasError], **options: Any) -> Any:
    """The value of a JSON text, of at most MAX_DEPTH levels.

    Args:
        place: where it is from, for messages: `trials.jsonl:3`, or a Path, to which the line is added.
    """
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise error(f"{printable(place)}: {TOO_DEEP}") from None
    except ValueError as caught:  # also a number with thousands of digits
        line = f":{getattr(caught, 'lineno', 1)}" if isinstance(place, Path) else ""
        raise error(f"{printable(place)}{line}: not valid JSON: {getattr(caught, 'msg', caught)}") from None
    check_depth(value, place, error)
    return value


def read_json(path: str | Path, error: type[FlashnasError], *, max_mb: float = MAX_JSON_MB,
              **options: Any) -> Any:
    """The value in a JSON file; options as json.loads takes them."""
    return parse_json(read_text(path, error, max_mb=max_mb), Path(path), error, **options)


def read_json_lines(path: str | Path, error: type[FlashnasError]) -> list[Any]:
    """The value of each line of a journal. A last line without its end, as a killed process leaves it, is
    left out."""
    lines = read_text(path, error, max_mb=MAX_JOURNAL_MB).split("\n")[:-1]
    return [parse_json(line, f"{path}:{number}", error) for number, line in enumerate(lines, start=1)]


def read_csv(path: str | Path, error: type[FlashnasError], needed: Sequence[str],
             ) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with its place, `file.csv:3`; columns that are `needed` are
    there."""
    text = io.StringIO(read_text(path, error).removeprefix("\ufeff"), newline="")
    try:
        reader = csv.DictReader(text, restval="")
        columns = reader.fieldnames or []
        rows = [(f"{path}:{reader.line_num}", row) for row in reader]
    except csv.Error as caught:
        raise error(f"{printable(path)}: cannot be read: {caught}") from None
    if lacking := [column for column in needed if column not in columns]:
        raise error(f"{printable(path)}: column {lacking[0]!r} is missing{did_you_mean(lacking[0], columns)};"
                    f" needed: {', '.join(needed)}")
    return rows


def read_parquet(path: str | Path, error: type[FlashnasError], *, columns: Iterable[str] | None = None,
                 data: bytes | None = None) -> pd.DataFrame:
    """The rows of a parquet file of at most MAX_CELLS.

    Args:
        columns: those to read; None: all.
    """
    import pandas as pd
    import pyarrow.parquet as pq

    if data is None:
        check_regular(path, error)
    # pyarrow takes a first part "~" of a relative path for a home folder
    place: Any = Path(path).absolute() if data is None else None
    try:
        facts = pq.read_metadata(place or io.BytesIO(data or b""))
        if facts.num_rows * facts.num_columns > MAX_CELLS:
            raise error(f"{printable(path)}: must have at most {MAX_CELLS:,} cells; got {facts.num_rows:,}"
                        f" rows of {facts.num_columns} columns")
        return pd.read_parquet(place or io.BytesIO(data or b""),
                               columns=None if columns is None else list(columns))
    except FlashnasError:
        raise
    except Exception as caught:  # pyarrow raises its own errors, OSError and ValueError by kind of damage
        raise error(f"{printable(path)}: damaged, not readable as parquet: {first_line(caught)}") from None


def read_zip(path: str | Path, error: type[FlashnasError]) -> dict[str, bytes]:
    """The content of each file of a zip archive, by its name: `table/meta.yaml`. Refused are links, names
    that could lead out of a folder or are there twice, and sizes beyond the limits, which are counted before
    anything is unpacked."""
    place = printable(check_regular(path, error, max_mb=MAX_ZIP_MB))
    try:
        with zipfile.ZipFile(path) as archive:
            parts = [part for part in archive.infolist() if not part.is_dir()]
            if len(parts) > MAX_ZIP_FILES:
                raise error(f"{place}: must hold at most {MAX_ZIP_FILES:,} files; got {len(parts):,}")
            if (size_mb := sum(part.file_size for part in parts) / 1e6) > MAX_ZIP_MB:
                raise error(f"{place}: must unpack to at most {MAX_ZIP_MB} MB; got {size_mb:,.0f} MB")
            content: dict[str, bytes] = {}
            for part in parts:
                inside = f"{place}: {printable(part.filename)}"
                if not _ZIP_NAME.fullmatch(part.filename) or part.filename in content:
                    raise error(f"{inside}: must be a plain name that is there once")
                if stat.S_ISLNK(part.external_attr >> 16) or part.compress_type not in _ZIP_METHODS:
                    raise error(f"{inside}: must be a regular file, stored or deflated")
                with archive.open(part) as file:  # read() without a size may unpack 2 GB before it counts
                    content[part.filename] = file.read(part.file_size)
            return content
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError,
            ValueError) as caught:
        raise error(f"{place}: damaged, not readable as a zip archive: {first_line(caught)}") from None


def check_depth(value: Any, place: str | Path, error: type[FlashnasError]) -> None:
    """Raise `error` if lists and mappings lie more than MAX_DEPTH levels inside one another."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inside = [item for item in level if isinstance(item, list | dict)]
        if not inside:
            return
        level = [child for item in inside for child in (item.values() if isinstance(item, dict) else item)]
    raise error(f"{printable(place)}: {TOO_DEEP}")
