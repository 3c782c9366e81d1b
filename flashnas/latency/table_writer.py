"""Writing tables: importers, `flashnas profile` and `flashnas table merge` all use `write_rows`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.files import atomic_file, disk_errors, hold_lock, write_atomic
from flashnas.base.yaml import read_yaml
from flashnas.latency.schema import FORMAT, KINDS, TEXT_KEYS, UNITS, VALUE_COLUMNS, VARIANT, Device
from flashnas.latency.table import LatencyTable, rows_file, sha256_of, unnamed

MAX_WAIT_S = 60.0    # for another process that writes the table


@dataclass(frozen=True, kw_only=True)
class RowContext:
    """What is true of rows that are written together.

    Args:
        device: on which they were measured.
        stacks: describes each value of the column `stack` (framework, version, ...).
        origin: where the rows are from (package, version, licence, machine, ...).
        calibration: of the table (corrections.py); None: leave the one that is there.
    """

    device: Device
    stacks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    origin: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None


def write_rows(folder: str | Path, kind: str, rows: pd.DataFrame, context: RowContext, *,
               append: bool = False) -> None:
    """Write all rows of one kind (schema.KINDS) and update meta.yaml; the folder is created. A kill leaves
    the old table or the new one.

    Args:
        rows: with the key columns of the kind, `latency_us`, `dtype`, `stack`, `mode` and `source`, and
            optionally p10_us, p90_us and repeats.
        append: keep the rows that are there; a new row replaces the one of the same key, mode and dtype.

    Raises:
        TableError: unknown kind, missing columns, a folder of another device, a full disk.
    """
    folder = Path(folder)
    if kind not in KINDS:
        raise TableError(f"{folder}: unknown kind of rows {kind!r}; allowed: {', '.join(KINDS)}")
    rows = rows.copy()
    for column in ("p10_us", "p90_us", "repeats"):
        if column not in rows:
            rows[column] = np.nan
    columns = [*KINDS[kind], *VALUE_COLUMNS]
    lacking = [column for column in columns if column not in rows]
    if lacking:
        raise TableError(f"{folder}: rows of kind {kind} need the columns {', '.join(lacking)}")
    rows = rows[columns]
    with _writing(folder):
        meta = _read_meta(folder)
        if meta and meta["device"] != context.device.name:
            raise TableError(f"{folder}: the table is of device {meta['device']}; got rows of"
                             f" {context.device.name}")
        known, file = meta.get("kinds", {}).get(kind), folder / f"{kind}.parquet"
        if known and (left := rows_file(file, known["sha256"])) != file:
            os.replace(left, file)
        if append and known:
            rows = pd.concat([LatencyTable.load(folder).rows(kind)[columns], rows], ignore_index=True)
        identity = [*KINDS[kind], *VARIANT]
        rows = rows.drop_duplicates(identity, keep="last").sort_values(identity, ignore_index=True)
        if not (folder / "device.yaml").exists():
            write_atomic(folder / "device.yaml", _yaml(context.device.to_dict()))
        _update(meta, kind, _write_parquet(unnamed(file), kind, rows), context)
        write_atomic(folder / "meta.yaml", _yaml(meta))
        os.replace(unnamed(file), file)


def merge(first: str | Path, second: str | Path, out: str | Path) -> None:
    """Both tables in the new folder `out`; where both have a row, that of the first is kept. Raises
    TableError if the devices or the calibrations differ, or if `out` exists."""
    a, b, out = LatencyTable.load(first), LatencyTable.load(second), Path(out)
    if a.path.resolve() == b.path.resolve():
        raise TableError(f"cannot merge a table with itself: {a.path}")
    if a.device.name != b.device.name:
        raise TableError(f"cannot merge tables of two devices: {a.device.name} ({a.path}) and {b.device.name}"
                         f" ({b.path})")
    if a.calibration and b.calibration and a.calibration != b.calibration:
        raise TableError(f"cannot merge tables with two calibrations: {a.path} and {b.path}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise TableError(f"{out}: exists already; merge into a new folder")
    for table in (b, a):
        for kind in table.kinds:
            write_rows(out, kind, table.rows(kind), RowContext(
                device=a.device, stacks=table.meta["stacks"], origin=table.meta["kinds"][kind].get("origin"),
                calibration=table.calibration or None), append=True)


def write_entry(folder: str | Path, key: str, value: Any) -> None:
    """Replace one entry of a table's meta.yaml; raises TableError if it cannot be written."""
    folder = Path(folder)
    with _writing(folder):
        write_atomic(folder / "meta.yaml", _yaml({**_read_meta(folder), key: _plain(value)}))


def append_entry(folder: str | Path, key: str, value: Any, replaces: Callable[[Any], bool] = lambda _: False,
                 ) -> None:
    """Add `value` to a list in a table's meta.yaml, in place of the entries that it `replaces`."""
    folder = Path(folder)
    with _writing(folder):
        meta = _read_meta(folder)
        meta[key] = [*(old for old in meta.get(key) or () if not replaces(old)), _plain(value)]
        write_atomic(folder / "meta.yaml", _yaml(meta))


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """The folder, for this process alone."""
    busy = TableError(f"{folder}: another process is writing this table")
    with disk_errors(f"{folder}: cannot be written", TableError):
        folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(folder / "meta.yaml.lock", busy, wait_s=MAX_WAIT_S):
            yield


def _yaml(data: Mapping[str, Any]) -> str:
    return str(yaml.safe_dump(data, sort_keys=False, width=118))


def _read_meta(folder: Path) -> dict[str, Any]:
    if not (folder / "meta.yaml").exists():
        return {}
    try:
        return _plain(read_yaml(folder / "meta.yaml"))
    except ConfigError as error:
        raise TableError(str(error)) from None


def _update(meta: dict[str, Any], kind: str, entry: dict[str, Any], context: RowContext) -> None:
    meta.setdefault("format", FORMAT)
    meta.setdefault("device", context.device.name)
    meta.setdefault("units", dict(UNITS))
    described = meta.setdefault("stacks", {})
    for name, stack in context.stacks.items():
        described[name] = _plain(stack)
    if context.calibration:
        meta["calibration"] = _plain(context.calibration)
    kinds = meta.setdefault("kinds", {})
    before, origin = kinds.get(kind, {}).get("origin"), context.origin
    if origin and before and before != _plain(origin):
        origin = {"several": [*before.get("several", [before]), _plain(origin)]}
    kinds[kind] = {**entry, **({"origin": _plain(origin or before)} if origin or before else {})}


def _write_parquet(path: Path, kind: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Columns that never change go into the returned entry of meta.yaml."""
    constants: dict[str, Any] = {}
    varying = rows.copy()
    for column in VALUE_COLUMNS[1:]:
        values = rows[column]
        if values.isna().all():
            constants[column] = None
        elif values.nunique(dropna=False) == 1:
            constants[column] = values.iloc[0] if isinstance(values.iloc[0], str) else int(values.iloc[0])
        else:
            continue
        if column in ("p10_us", "p90_us") and constants[column] is not None:
            del constants[column]
            continue
        del varying[column]
    for column in map(str, varying):
        if column in KINDS[kind] and column not in TEXT_KEYS:
            varying[column] = varying[column].astype("int32")
        elif column in ("latency_us", "p10_us", "p90_us", "repeats"):
            varying[column] = varying[column].astype("float32")
        else:
            varying[column] = varying[column].astype("category")
    with atomic_file(path) as part:
        varying.to_parquet(part.absolute(), index=False, compression="zstd", compression_level=19)
        digest = sha256_of(part)
    return {"rows": len(rows), "sha256": digest, "constants": constants}


def _plain(value: Any) -> Any:
    """Plain dicts and lists, which safe_dump can write."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value
