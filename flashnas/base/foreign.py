"""The one door for files that somebody else may have written, and for their text on the way to a
terminal.

A run folder, a table, a corpus or a model may come from a stranger. Read through here, a file can
be wrong but cannot hang, fill the memory, or change another file:

    recipe = read_yaml(path)                              # of documents.py; ConfigError
    header, *entries = read_json_lines(path, RunError)    # a torn last line is left out
    frame = read_parquet(path, RunError)                  # counted before it is unpacked
    tensors = load_file(check_regular(path, WeightsError))  # a library opens the file itself

Each refuses, in one line "place: rule; got value", what is not a regular file, what is larger than
its kind may be, more values than MAX_VALUES, nesting deeper than MAX_DEPTH, and a key that stands
twice. Reading follows links, since caches of models consist of them; `check_inside` refuses those
that leave a folder. Writing does not: before a file of a given folder is repaired or appended to,
`check_regular(path, error, write=True)` refuses a link. `printable` is for
every foreign text that a command prints.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import FlashnasError
from flashnas.base.system import sync_path
from flashnas.base.text import did_you_mean, first_line, printable, shown

if TYPE_CHECKING:
    import pandas as pd

MAX_YAML_MB = 2  # PyYAML needs up to 3 s for one megabyte
MAX_JSON_MB = 256  # tokenizers of large vocabularies have 35 MB
MAX_JOURNAL_MB = 2_000
MAX_TEXT_MB = 200  # of the texts of a parquet file, each repeated one counted again
MAX_CELLS = 20_000_000  # rows times columns of a parquet file: 0.2 GB as numbers
FLAT = ("BOOLEAN", "INT32", "INT64", "FLOAT", "DOUBLE", "BYTE_ARRAY")  # of a parquet file
MAX_VALUES = 10_000_000  # of a JSON text or a journal, each of up to 0.2 kB in memory
MAX_CSV_CELLS = 1_000_000
MAX_DEPTH = 64  # of lists and mappings inside one another
TOO_DEEP = f"must be nested at most {MAX_DEPTH} levels deep; got more"

# by the letter that `ls -l` shows
_KINDS = {"l": "a link", "d": "a folder", "p": "a FIFO", "s": "a socket"}


def check_regular(
    path: str | Path, error: type[FlashnasError], *, max_mb: float = math.inf, write: bool = False
) -> Path:
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
        raise error(
            f"{place}: cannot be read: {getattr(caught, 'strerror', None) or caught}"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.filemode(status.st_mode)[0], "a device")
        raise error(f"{place}: must be a regular file; got {kind}")
    if status.st_size > max_mb * 1e6:
        raise error(f"{place}: must be at most {max_mb:g} MB; got {status.st_size / 1e6:,.0f} MB")
    return path


def check_inside(folder: str | Path, paths: Iterable[Path], error: type[FlashnasError]) -> None:
    """Raise `error` for the first path that is a link to something outside of the folder: a folder
    of a stranger could otherwise have any file of this machine read. The Hugging Face cache, whose
    folders `snapshots/*` consist of links to `blobs`, counts as one folder."""
    root = Path(folder).resolve()
    if root.parent.name == "snapshots":
        root = root.parents[1]
    for path in paths:
        if not path.resolve().is_relative_to(root):
            raise error(
                f"{printable(path)}: must lie in the folder {printable(folder)}; it is"
                f" {printable(path.resolve())}"
            )


def read_bytes(
    path: str | Path, error: type[FlashnasError], *, max_mb: float = MAX_JSON_MB
) -> bytes:
    """The content of a regular file of at most that size."""
    try:
        return check_regular(path, error, max_mb=max_mb).read_bytes()
    except OSError as caught:
        raise error(f"{printable(path)}: cannot be read: {caught.strerror}") from None


def read_text(path: str | Path, error: type[FlashnasError], *, max_mb: float = MAX_JSON_MB) -> str:
    """The content of a regular file of at most that size, which is UTF-8 text; line ends become
    `\\n`.
    """
    try:
        return io.TextIOWrapper(
            io.BytesIO(read_bytes(path, error, max_mb=max_mb)), encoding="utf-8"
        ).read()
    except UnicodeDecodeError:
        raise error(f"{printable(path)}: cannot be read: not UTF-8 text") from None


def parse_json(
    text: str | bytes, place: str | Path, error: type[FlashnasError], **options: Any
) -> Any:
    """The value of a JSON text, of at most MAX_VALUES values and MAX_DEPTH levels.

    Args:
        place: where it is from, for messages: `trials.jsonl:3`, or a Path, to which the line is
            added.
    """
    check_count(text, place, error)
    try:
        value = json.loads(text, **options)
    except RecursionError:
        raise error(f"{printable(place)}: {TOO_DEEP}") from None
    except ValueError as caught:  # also a number with thousands of digits
        line = f":{getattr(caught, 'lineno', 1)}" if isinstance(place, Path) else ""
        raise error(
            f"{printable(place)}{line}: not valid JSON: {getattr(caught, 'msg', caught)}"
        ) from None
    check_depth(value, place, error)
    return value


def read_json(path: str | Path, error: type[FlashnasError]) -> Any:
    """The value in a JSON file, in which no key of a mapping stands twice."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping = dict(pairs)
        if len(mapping) < len(pairs):
            raise error(f"{printable(path)}:{_twice(key for key, _ in pairs)}: duplicate key")
        return mapping

    return parse_json(read_text(path, error), Path(path), error, object_pairs_hook=unique)


def _twice(names: Iterable[str]) -> str:
    """The first name that stands twice, or an empty text."""
    return next((printable(name) for name, count in Counter(names).items() if count > 1), "")


def read_csv(
    path: str | Path,
    error: type[FlashnasError],
    needed: Sequence[str],
) -> list[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the place where it ends, `file.csv:3`;
    columns that are `needed` are there. Cells that a row lacks at its end are empty."""
    text = read_text(path, error).removeprefix("\ufeff")
    check_count(text, path, error, most=MAX_CSV_CELLS, separators=",\n")
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
    rows, before = [], 0
    try:
        columns, before = list(reader.fieldnames or ()), reader.line_num
        _check_columns(path, columns, needed, error)
        for row in reader:
            place, before = f"{printable(path)}:{reader.line_num}", reader.line_num
            if more := row.pop(None, ()):
                raise error(
                    f"{place}: must have at most {len(columns)} cells, as the header; got"
                    f" {len(columns) + len(more)}"
                )
            rows.append((place, row))
    except csv.Error as caught:
        raise error(
            f"{printable(path)}:{before + 1}: not valid CSV: in the row that begins here, {caught}"
        ) from None
    return rows


def _check_columns(
    path: str | Path, columns: Sequence[str], needed: Sequence[str], error: type[FlashnasError]
) -> None:
    if twice := _twice(columns):
        raise error(f"{printable(path)}: column {twice!r} stands twice")
    if lacking := [column for column in needed if column not in columns]:
        raise error(
            f"{printable(path)}: column {lacking[0]!r} is missing{did_you_mean(lacking[0], columns)};"
            f" needed, with commas between: {', '.join(needed)}; got {shown(list(columns))}"
        )


def read_parquet(
    path: str | Path,
    error: type[FlashnasError],
    *,
    columns: Iterable[str] | None = None,
    data: bytes | None = None,
) -> pd.DataFrame:
    """The rows of a parquet file of at most MAX_CELLS, each a number or a text: lists in cells can
    hold a billion values in a few kB.

    Args:
        columns: those to read where they are there; None: all.
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
            raise error(
                f"{printable(path)}: must have at most {MAX_CELLS:,} cells; got {facts.num_rows:,}"
                f" rows of {facts.num_columns} columns"
            )
        leaves = [facts.schema.column(number) for number in range(facts.num_columns)]
        wanted = None if columns is None else {*columns}
        leaves = [
            leaf for leaf in leaves if wanted is None or leaf.path.partition(".")[0] in wanted
        ]
        for leaf in leaves:
            if (
                leaf.max_definition_level > 1
                or leaf.max_repetition_level
                or leaf.physical_type not in FLAT
            ):
                raise error(
                    f"{printable(path)}: column {printable(leaf.path)!r} must hold a number or a text in"
                    f" each row; got {leaf.physical_type.lower()}"
                )
        if (text_mb := _text_bytes(facts, place or io.BytesIO(data or b"")) / 1e6) > MAX_TEXT_MB:
            raise error(
                f"{printable(path)}: must have at most {MAX_TEXT_MB} MB of texts; got"
                f" {text_mb:,.0f} MB"
            )
        return pd.read_parquet(
            place or io.BytesIO(data or b""), columns=[leaf.path for leaf in leaves]
        )
    except FlashnasError:
        raise
    except Exception as caught:
        # pyarrow raises its own errors, OSError and ValueError by kind of damage
        raise error(
            f"{printable(path)}: damaged, not readable as parquet: {first_line(caught)}"
        ) from None


def _text_bytes(facts: Any, source: Any) -> int:
    """Bytes of all texts of a parquet file, or a lower bound where they are certainly few. A column
    names a text that is repeated by its number in a dictionary: a file of 50 kB can unpack to 20
    GB. Such columns are therefore read as numbers and dictionary."""
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    chunks = [
        facts.row_group(group).column(column)
        for group in range(facts.num_row_groups)
        for column in range(facts.num_columns)
    ]
    chunks = [chunk for chunk in chunks if chunk.physical_type == "BYTE_ARRAY"]
    if (
        sum(chunk.num_values * chunk.total_uncompressed_size for chunk in chunks)
        < MAX_TEXT_MB * 1e6
    ):
        return 0
    size = sum(chunk.total_uncompressed_size for chunk in chunks)
    if size > MAX_TEXT_MB * 1e6:
        return int(size)
    names = list(dict.fromkeys(chunk.path_in_schema for chunk in chunks))
    size = 0
    for column in pq.ParquetFile(source, read_dictionary=names).read(columns=names).columns:
        for part in column.chunks:
            if hasattr(part, "dictionary"):
                lengths = pc.binary_length(part.dictionary).take(part.indices)
                size += pc.sum(pc.cast(lengths, "int64")).as_py() or 0
            else:
                size += part.nbytes
    return size


def check_count(
    text: str | bytes,
    place: str | Path,
    error: type[FlashnasError],
    *,
    most: int = MAX_VALUES,
    separators: str = ",[{",
) -> None:
    """Raise `error` if a text holds more than `most` values, by the separators before them. It is
    checked before the text is parsed, since a list takes thirty times as many bytes in memory as it
    takes in a file."""
    if isinstance(text, str):
        count = sum(text.count(letter) for letter in separators)
    else:
        count = sum(text.count(letter.encode()) for letter in separators)
    if count > most:
        raise error(f"{printable(place)}: must hold at most {most:,} values; got {count:,}")


def check_depth(value: Any, place: str | Path, error: type[FlashnasError]) -> None:
    """Raise `error` if lists and mappings lie more than MAX_DEPTH levels inside one another."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        inside = [item for item in level if isinstance(item, list | dict)]
        if not inside:
            return
        level = [
            child
            for item in inside
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    raise error(f"{printable(place)}: {TOO_DEEP}")


# -- files of JSON lines, which a killed process leaves with all lines but the last one whole -----------


def append_synced(path: Path, line: str) -> None:
    """Append a line, of which `line` lacks the end, and wait until it is on the disk; FlashnasError
    for a link."""
    with open(
        check_regular(path, FlashnasError, write=True), "a", encoding="utf-8", newline=""
    ) as file:
        file.write(line + "\n")
    sync_path(path)


def complete_lines(text: str) -> str:
    """The text without a last line that has no end, as a killed process can leave it."""
    return text[: text.rfind("\n") + 1]


def drop_torn_line(path: Path, error: type[FlashnasError] = FlashnasError) -> None:
    """Cut a last line without an end off a file, if it is there; `error` for a link, through which
    another would be cut."""
    if not check_regular(path, error, write=True).exists():
        return
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        os.truncate(path, data.rfind(b"\n") + 1)


def read_json_lines(path: str | Path, error: type[FlashnasError]) -> list[Any]:
    """The value of each line of a journal. A last line without its end, as a killed process leaves
    it, is left out."""
    text = read_text(path, error, max_mb=MAX_JOURNAL_MB)
    check_count(text, path, error, separators=",[{\n")
    lines = text.split("\n")[:-1]
    return [
        parse_json(line, f"{path}:{number}", error) for number, line in enumerate(lines, start=1)
    ]
