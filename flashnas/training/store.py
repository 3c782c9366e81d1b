"""The store of finished trainings in a file, and the one way to train what a list lacks. No torch.

A store is a text file with one JSON object a line, so that Git shows what was added: first a header, what all
its trainings have in common, then each finished training, a dataclass with a `key`. A line is on the disk
before the next training is waited for.

    with TrainingStore(path, {"flashnas_trainings": 1}, GridTraining) as store:
        train_missing(planned, store, pool, progress, workers=4)
"""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from flashnas.base.errors import FlashnasError, RunError
from flashnas.base.files import append_synced, drop_torn_line, hold_lock
from flashnas.base.foreign import parse_json, read_json_lines, read_parquet, read_text
from flashnas.base.hints import first_line, shown
from flashnas.base.schema import convert

if TYPE_CHECKING:
    import pandas as pd

Progress = Callable[[int, int, "float | None"],
                    None]  # trainings done, all, seconds left (None: not known yet)
LOST = ("killed", "died")                              # kinds of outcomes that say nothing of a network


@dataclass(frozen=True, kw_only=True)
class TrainingRow:
    """What every line of a store says of a finished training; a study adds the fields by which it is known.

    curve: [training tokens, validation loss] pairs. backends: what computed each kind of operator. more:
    fields of the score that have no field here. reason: why it failed; there is no loss then.
    """

    loss: float | None = None
    bits_per_byte: float | None = None
    curve: Sequence[Sequence[float]] = field(default_factory=list)
    tokens: int | None = None
    tokens_per_s: float | None = None
    seconds: float | None = None
    proxy_params: int | None = None
    backends: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def ended(self, score: Mapping[str, Any] | None, reason: str) -> Self:
        """This training with what it ended with: a `ProxyScore.to_dict()`, or None and the reason."""
        if score is None:
            return dataclasses.replace(self, reason=reason)
        names = [item.name for item in dataclasses.fields(TrainingRow)]
        more = {name: value for name, value in score.items() if name not in (*names, "seed")}
        return dataclasses.replace(self, more=more, **{name: score[name] for name in names if name in score})


class Row(Protocol):
    """A dataclass whose `key` is that of one line of a store."""

    __dataclass_fields__: typing.ClassVar[dict[str, Any]]

    @property
    def key(self) -> Any: ...


R = TypeVar("R", bound=Row)


class TrainingStore(Generic[R]):
    """A store that one process appends to, within `with`.

    Args:
        path: the file; it is started with the header, or continued. Its folder is created.
        kind: the dataclass of a line.
        error: class of the errors.

    Raises:
        FlashnasError: of the class `error`, on entry: another process appends to the file, it is damaged, it
            is not a regular file, or its folder cannot be written to.
    """

    def __init__(self, path: Path, header: Mapping[str, Any], kind: type[R],
                 error: type[FlashnasError] = RunError) -> None:
        self.path, self.header, self.kind, self.error = path, dict(header), kind, error
        self.rows: dict[Any, R] = {}
        self._held = ExitStack()

    def __enter__(self) -> Self:
        folder = self.path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self.error(f"{folder}: cannot be written to: {error.strerror}") from None
        busy = self.error(f"{self.path}: another process is writing to it")
        with ExitStack() as held:
            held.enter_context(hold_lock(folder / f".{self.path.name}.lock", busy))
            drop_torn_line(self.path)
            if not self.path.exists() or not self.path.stat().st_size:
                append_synced(self.path, json.dumps(self.header))
            self.header, rows = read_store(self.path, self.kind, self.error)
            self.rows = {row.key: row for row in rows}
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def has(self, key: Any) -> bool:
        return key in self.rows

    def add(self, row: R) -> None:
        """Append a line and wait until it is on the disk."""
        append_synced(self.path, line_of(row))
        self.rows[row.key] = row

    def frame(self) -> pd.DataFrame:
        """The trainings, one a row, in the order of the file."""
        return frame_of(list(self.rows.values()), self.kind)


def line_of(row: Row) -> str:
    """The line of a row: its own fields first, in their order, so that lines compare."""
    shared = set(TrainingRow.__dataclass_fields__)
    values = dataclasses.asdict(row)
    return json.dumps({name: values[name] for name in sorted(values, key=lambda name: name in shared)})


def read_store(path: Path, kind: type[R], error: type[FlashnasError] = RunError,
               ) -> tuple[dict[str, Any], list[R]]:
    """The header and the rows of a store, without a torn last line. Errors with file, line, rule and value.
    """
    entries = read_json_lines(path, error)
    if not entries:
        raise error(f"{path}: an empty file; remove it")
    if not isinstance(entries[0], dict):
        raise error(f"{path}:1: the first line must be a mapping; got {shown(entries[0])}")
    return entries[0], _rows(enumerate(entries[1:], start=2), path, kind, error)


def _rows(entries: Any, path: Path, kind: type[R], error: type[FlashnasError]) -> list[R]:
    rows: dict[Any, R] = {}
    needed = [item.name for item in dataclasses.fields(kind)
              if item.default is item.default_factory is dataclasses.MISSING]
    for number, entry in entries:
        place = f"{path}:{number}"
        missing = [name for name in needed if isinstance(entry, dict) and name not in entry]
        # msgspec keeps a default that a subclass took away
        if missing and not set(entry) - set(_types(kind)):
            raise error(f"{place}: training needs the key {missing[0]!r}")
        row = convert(entry, kind, place, error, name="training", closed=True)
        if isinstance(row, TrainingRow) and row.loss is None and not row.reason:
            raise error(f"{place}: training needs the key 'loss' where 'reason' is empty")
        try:
            key = row.key
        except FlashnasError as caught:  # a notation that does not parse
            raise error(f"{place}: {caught}") from None
        if key in rows:
            raise error(f"{place}: must be another training or seed; this one stands above already")
        rows[key] = row
    return list(rows.values())


def read_table(path: Path, kind: type[R], error: type[FlashnasError] = RunError) -> pd.DataFrame:
    """Trainings in a store, a CSV file or a parquet file, by the end of its name; one a row. Errors with file
    and line.

    In a CSV the loss of a training that failed is empty, and its reason may be.
    """
    if path.suffix == ".jsonl":
        return frame_of(read_store(path, kind, error)[1], kind)
    if path.suffix == ".parquet":
        lines: Any = enumerate(read_parquet(path, error).to_dict("records"), start=2)
    else:
        lines = _csv_lines(path, error)
    entries = ((number, _values(line, kind, f"{path}:{number}", error)) for number, line in lines)
    return frame_of(_rows(entries, path, kind, error), kind)


def _csv_lines(path: Path, error: type[FlashnasError]) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.reader(read_text(path, error).splitlines())
    try:
        columns = next(reader, [])
        if not columns:
            raise error(f"{path}: not a table of trainings: it is empty")
        for cells in reader:
            if len(cells) != len(columns):
                raise error(f"{path}:{reader.line_num}: must have {len(columns)} cells; got {len(cells)}")
            yield reader.line_num, dict(zip(columns, cells, strict=True))
    except csv.Error as caught:
        raise error(f"{path}: not a table of trainings: {first_line(caught)}") from None


def _values(line: Mapping[str, Any], kind: type[Any], place: str,
            error: type[FlashnasError]) -> dict[str, Any]:
    """The cells of a table as the values of a row, without empty ones; a failed training gets a reason."""
    types: dict[str, str] = _types(kind)
    values: dict[str, Any] = {}
    for name, cell in line.items():
        if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
            continue
        type_name = types.get(str(name), "")
        if isinstance(cell, str) and "Sequence" in type_name:
            cell = parse_json(cell, f"{place}: {name}", error)
        elif isinstance(cell, str) and type_name.startswith(("int", "float")):
            cell = _number(cell)
        elif hasattr(cell, "tolist"):
            cell = cell.tolist()
        whole = isinstance(cell, float) and "int" in type_name and cell.is_integer()
        values[str(name)] = int(cell) if whole else cell
    if "reason" in types and "loss" in line and "loss" not in values:
        values.setdefault("reason", "not said")
    return values


def _types(kind: type[Any]) -> dict[str, str]:
    return {item.name: str(getattr(item.type, "__name__", item.type)) for item in dataclasses.fields(kind)}


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def frame_of(rows: Sequence[R], kind: type[R]) -> pd.DataFrame:
    """Rows as a table; numbers that are missing are NaN."""
    import pandas as pd

    names = list(_types(kind))
    frame = pd.DataFrame([[getattr(row, name) for name in names] for row in rows], columns=names)
    numbers = [name for name, words in _types(kind).items() if words
               in ("float", "float | None", "int | None")]
    return frame.astype(dict.fromkeys(numbers, "float64"))


# -- training what is missing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedTraining(Generic[R]):
    """A training that a study asks for.

    row: as it will stand in the store, without an outcome. name: of the network, for messages. job: what a
    worker runs. cost: what its time grows with. sort: trainings of one sort have one pace.
    """

    row: R
    name: str
    job: Any
    cost: float
    sort: str = ""


class Pool(Protocol):
    """Runs jobs; `run` yields each one's key and how it ended, with `kind`, `result` and `reason`."""

    def run(self, jobs: Mapping[str, Any], on_wait: Callable[[], None]
            | None = None) -> Iterator[tuple[str, Any]]: ...


class Pace:
    """Seconds for each unit of cost, by the sort of the training."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, float]] = defaultdict(lambda: (0.0, 0.0))

    def add(self, seconds: float | None, planned: PlannedTraining[Any]) -> None:
        """Count a training that took so long; None, and 0: it says nothing."""
        if seconds:
            before = self._sums[planned.sort]
            self._sums[planned.sort] = before[0] + seconds, before[1] + planned.cost

    def seconds(self, planned: Collection[PlannedTraining[Any]]) -> float | None:
        """That trainings take on one worker, at the mean pace where none of their sort has ended; None: not
        known."""
        paces = {sort: seconds / cost for sort, (seconds, cost) in self._sums.items()}
        if not paces:
            return None if planned else 0.0
        mean = sum(paces.values()) / len(paces)
        return sum(item.cost * paces.get(item.sort, mean) for item in planned)


def train_missing(planned: Sequence[PlannedTraining[Any]], store: TrainingStore[Any], pool: Pool,
                  progress: Progress,
                  *, workers: int, known: Collection[Any] = (), pace: Pace | None = None) -> dict[str, int]:
    """Train what a store lacks of a list.

    Args:
        store: an open one, which gets each training as it ends.
        progress: told after each training and about once a second.
        workers: of the pool, for the time that is left.
        known: keys that need no training though the store lacks them.
        pace: of trainings that have ended elsewhere; None: that of what the store has.

    Returns:
        The numbers of trainings `asked`, `known` before, `trained`, `failed` and `lost` (their worker process
        died; the next call tries them again).

    Raises:
        FlashnasError: of the store's class: a training ended with an error that is not about its network.
    """
    left = {str(number): item for number, item in enumerate(planned)
            if item.row.key not in known and not store.has(item.row.key)}
    if pace is None:
        pace = Pace()
        for item in planned:
            if store.has(item.row.key):
                pace.add(store.rows[item.row.key].seconds, item)
    counts = {"asked": len(planned), "known": len(planned) - len(left), "trained": 0, "failed": 0, "lost": 0}

    def tell() -> None:
        seconds = pace.seconds(left.values())
        done = counts["asked"] - len(left) - counts["lost"]
        progress(done, len(planned), None if seconds is None else seconds / max(1, min(workers, len(left))))

    tell()
    for key, ended in pool.run({key: item.job for key, item in left.items()}, on_wait=tell):
        item = left.pop(key)
        if ended.kind == "error":
            raise store.error(f"training of {item.name!r} ended with: {ended.reason}; nothing was recorded"
                              f" for it, and the same command tries it again")
        if ended.kind in LOST:
            counts["lost"] += 1
        else:
            row = item.row.ended(ended.result, ended.reason)
            store.add(row)
            pace.add(row.seconds, item)
            counts["failed" if ended.result is None else "trained"] += 1
        tell()
    return counts
