"""Writing tables."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from flashnas.base.errors import TableError
from flashnas.base.system import atomic_file, disk_errors, hold_lock, write_atomic
from flashnas.latency.schema import (
    FORMAT,
    KINDS,
    NUMBERS,
    TEXT_KEYS,
    UNITS,
    VALUE_COLUMNS,
    Device,
    read_table_yaml,
)
from flashnas.latency.table import LatencyTable, rows_file, sha256_of, unnamed

MAX_WAIT_S = 60.0  # for another process that writes the table


def write_rows(
    folder: str | Path,
    kind: str,
    rows: pd.DataFrame,
    device: Device,
    *,
    stacks: Mapping[str, Any] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Add rows of one kind and update meta.yaml; the folder is created. A new row replaces the one of
    the same key and dtype. A kill leaves the old table or the new one.

    Args:
        rows: with the columns of schema.py, NUMBERS optionally.
        stacks: describes each value of the column `stack`.
        origin: where the rows are from (package, version, licence, ..).

    Raises:
        TableError: unknown kind, missing columns, a folder of another device, a full disk.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise TableError(f"{folder}: unknown kind of rows {kind!r}; allowed: {', '.join(KINDS)}")
    rows = rows.assign(**{column: np.nan for column in NUMBERS if column not in rows})
    columns = [*KINDS[kind], *VALUE_COLUMNS]
    lacking = [column for column in columns if column not in rows]
    if lacking:
        raise TableError(f"{folder}: rows of kind {kind} need the columns {', '.join(lacking)}")
    rows = rows[columns]
    with _writing(folder) as meta:
        if meta and meta["device"] != device.name:
            raise TableError(
                f"{folder}: the table is of device {meta['device']}; got rows of {device.name}"
            )
        entry, file = meta.get("kinds", {}).get(kind), folder / f"{kind}.parquet"
        if entry:
            if (left := rows_file(file, entry["sha256"])) != file:
                os.replace(left, file)
            rows = pd.concat(
                [LatencyTable.load(folder).frames[kind][columns], rows], ignore_index=True
            )
            origin = origin or entry.get("origin")
        identity = [*KINDS[kind], "dtype"]
        rows = rows.drop_duplicates(identity, keep="last").sort_values(identity, ignore_index=True)
        if not (folder / "device.yaml").exists():
            _write_yaml(folder / "device.yaml", vars(device))
        for key, value in (("format", FORMAT), ("device", device.name), ("units", UNITS)):
            meta.setdefault(key, value)
        meta["stacks"] = {**meta.get("stacks", {}), **(stacks or {})}
        made = _write_parquet(unnamed(file), kind, rows)
        meta.setdefault("kinds", {})[kind] = {**made, "origin": origin}
        _write_yaml(folder / "meta.yaml", meta)
        os.replace(unnamed(file), file)


@contextlib.contextmanager
def edited_meta(folder: Path) -> Iterator[dict[str, Any]]:
    """What meta.yaml of a table holds, for this process alone; it is written at the end of the
    block.
    """
    with _writing(folder) as meta:
        yield meta
        _write_yaml(folder / "meta.yaml", meta)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[dict[str, Any]]:
    """What meta.yaml holds, if there is one, while no other process writes the table."""
    busy = TableError(f"{folder}: another process is writing this table")
    with disk_errors(f"{folder}: cannot be written", TableError):
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / "meta.yaml.lock", busy, wait_s=MAX_WAIT_S):
            file = folder / "meta.yaml"
            yield read_table_yaml(file) if file.exists() else {}


def _write_yaml(file: Path, data: Mapping[str, Any]) -> None:
    def plain(value: Any) -> Any:
        """Dicts and lists of its own, which safe_dump writes without aliases."""
        if isinstance(value, Mapping):
            return {key: plain(entry) for key, entry in value.items()}
        return [plain(entry) for entry in value] if isinstance(value, list | tuple) else value

    write_atomic(file, str(yaml.safe_dump(plain(data), sort_keys=False, width=118)))


def _write_parquet(path: Path, kind: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Returns the entry of meta.yaml."""
    types = {
        **dict.fromkeys(VALUE_COLUMNS, "category"),
        **dict.fromkeys(KINDS[kind], "int32"),
        **dict.fromkeys(("latency_us", *NUMBERS), "float32"),
        **dict.fromkeys(TEXT_KEYS, "category"),
    }
    rows = rows.astype({column: types[column] for column in map(str, rows)})
    with atomic_file(path) as part:
        rows.to_parquet(part.absolute(), index=False, compression="zstd", compression_level=19)
        digest = sha256_of(part)
    return {"rows": len(rows), "sha256": digest}
