"""LatencyTable: the rows of one device, verified when loaded."""

from __future__ import annotations

import copy
import functools
import hashlib
import math
from collections.abc import Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.documents import convert, fingerprint
from flashnas.base.errors import ConfigError, TableError
from flashnas.base.foreign import MAX_JOURNAL_MB, check_inside, read_bytes, read_parquet
from flashnas.base.registry import shipped_names
from flashnas.base.system import disk_errors
from flashnas.base.text import did_you_mean, one_of
from flashnas.latency.calibration import (
    VALIDATIONS,
    Calibration,
    check_calibrations,
    conformal_margin,
)
from flashnas.latency.schema import (
    KINDS,
    NUMBERS,
    PLATFORMS,
    SOURCES,
    TEXT_KEYS,
    VALUE_COLUMNS,
    Device,
    load_meta,
)
from flashnas.latency.workload import CALIBRATIONS

# Of a stack: rows that differ in one of these are never added up, because the sum is not a
# network's time.
SETTINGS = ("threads", "flash_attention", "cache_type", "engine_option")


@dataclass
class LatencyTable:
    """The rows of one device.

    Args:
        path: the folder.
        device: facts from device.yaml.
        meta: contents of meta.yaml.
        frames: rows by kind of rows (schema.KINDS).

    Example:
        >>> import flashnas as fn
        >>> table = fn.LatencyTable.load("h100_sxm")
        >>> table.device.platform, sorted(table.frames)[:1]
        ('cuda', ['attention_decode'])
    """

    path: Path
    device: Device
    meta: dict[str, Any]
    frames: dict[str, pd.DataFrame] = field(repr=False)

    @classmethod
    def load(cls, source: str | Path | LatencyTable) -> LatencyTable:
        """A table from a folder, or a shipped one by name; a table itself is returned as it is.
        Raises TableError for what is missing or damaged."""
        if isinstance(source, LatencyTable):
            return source
        _, path, _ = state = table_state(source)
        device, meta, frames = _read(*state)
        return cls(
            path,
            device,
            copy.deepcopy(meta),
            {kind: frame.copy() for kind, frame in frames.items()},
        )

    @property
    def name(self) -> str:
        return self.device.name

    @property
    def calibration(self) -> dict[str, Any]:
        return self.meta.get("calibration") or {}

    def calibrated(self, name: str, programs: Collection[str] = ()) -> Calibration:
        """The calibration of that name, with the host of some programs. Without constants of it, that
        of the table's own rows, with the interval that holds nine of ten latencies of the networks
        that were validated, if enough were. Raises ConfigError for an
        unknown name, TableError for a damaged entry of a validation."""
        if name not in CALIBRATIONS:
            raise ConfigError(one_of("calibration", name, CALIBRATIONS))
        entry = self.calibration.get(name)
        if entry is not None:
            return convert({**entry, "name": name}, Calibration).of_programs(programs)
        validated = self.meta.get(VALIDATIONS) or ()
        basis = self.basis if validated else ""
        try:
            ratios = [
                abs(float(ratio))
                for found in validated
                if (found.get("mode"), found.get("basis")) == (self.mode, basis)
                for ratio in found["metrics"].get("latency_ms", {}).get("log_ratios", ())
            ]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise TableError(
                f"{self.path}: the entry in {VALIDATIONS} of meta.yaml is damaged; validate again"
            ) from None
        width = conformal_margin(ratios)
        if width == math.inf:
            return Calibration()
        return Calibration(half_width=width, kinds=dict.fromkeys(KINDS, 0.0))

    @property
    def basis(self) -> str:
        """A hash of the calibrations and of the stacks of the rows; when it changes, what a
        validation found is stale."""
        return fingerprint([texts(self, "stack"), self.calibration])

    @property
    def stack(self) -> str:
        """Names of the stacks whose rows are here, such as `trtllm-1.3.0rc20, vllm-0.24.0`."""
        return ", ".join(sorted(self.meta["stacks"])) or "unknown"

    @property
    def mode(self) -> str:
        """How all of its rows ran, such as cuda_graph."""
        return next(iter(texts(self, "mode")), PLATFORMS[self.device.platform])

    @property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(texts(self, "dtype"))

    def settings(self, rows: Iterable[str], *further: Mapping[str, Any]) -> dict[str, str]:
        """What the stacks of rows, and `further` ones, state of SETTINGS; raises TableError where
        they differ."""
        settings: dict[str, str] = {}
        stacks = [*(self.meta["stacks"].get(name, {}) for name in rows), *further]
        for setting in SETTINGS:
            values = sorted({str(stack[setting]) for stack in stacks if setting in stack})
            if len(values) > 1:
                raise TableError(
                    f"{self.path}: rows of {setting.replace('_', ' ')} {_do_not_mix(values)}"
                )
            settings.update((setting, value) for value in values)
        return settings


def texts(
    table: LatencyTable,
    column: str,
    kinds: Container[str] | None = None,
    dtype: str = "",
) -> list[str]:
    """What a column holds, sorted; of some kinds of rows and of one dtype."""
    frames = [frame for kind, frame in table.frames.items() if kinds is None or kind in kinds]
    return sorted(
        {
            str(value)
            for frame in frames
            for value in (frame[frame["dtype"] == dtype] if dtype else frame)[column].unique()
        }
    )


def table_state(source: str | Path) -> tuple[Path, Path, tuple[Any, ...]]:
    """Absolute path, path, and a tuple that differs once a file of the folder has changed."""
    path = _find(str(source))
    with disk_errors(f"{path}: cannot be read", TableError):
        files = [
            (file.name, (stat := file.stat()).st_size, stat.st_mtime_ns, stat.st_ino)
            for file in path.iterdir()
        ]
        check_inside(path, path.iterdir(), TableError)
    return path.absolute(), path, tuple(sorted(files))


@functools.lru_cache(maxsize=8)
def _read(
    _: Path, path: Path, __: tuple[Any, ...]
) -> tuple[Device, dict[str, Any], dict[str, pd.DataFrame]]:
    """Read again when a file of the folder has changed."""
    device = Device.load(path / "device.yaml")
    meta = load_meta(path, device)
    if meta.get("calibration") is not None:
        check_calibrations(meta["calibration"])
    rows = {kind: _load_rows(path, kind, entry) for kind, entry in meta["kinds"].items()}
    modes = {str(mode) for frame in rows.values() for mode in frame["mode"].unique()}
    if len(modes) > 1:
        raise TableError(f"{path}: rows of mode {_do_not_mix(modes)}")
    return device, meta, rows


def _do_not_mix(values: Iterable[str]) -> str:
    return (
        f"{' and '.join(sorted(values))} do not mix; profile each into a folder of its own (--out)"
    )


def _find(source: str) -> Path:
    shipped = shipped_names("latency_tables")
    path = shipped.get(source, Path(source))
    if not (path / "device.yaml").exists():
        missing = "the folder has no device.yaml" if path.is_dir() else "no such folder"
        raise TableError(
            f"latency table {source!r}: {missing} and no shipped table"
            f"{did_you_mean(source, shipped)}; shipped: {', '.join(shipped)};"
            " flashnas profile measures one on its device"
        )
    return path


def unnamed(file: Path) -> Path:
    """Where new rows lie until meta.yaml names them; then they become `file`. A kill may leave them
    there.
    """
    return file.with_suffix(".parquet.next")


def sha256_of(file: Path) -> str:
    return hashlib.sha256(read_bytes(file, TableError, max_mb=MAX_JOURNAL_MB)).hexdigest()


def rows_file(file: Path, sha256: str) -> Path:
    """The file with these rows: `file`, or the one that a kill has left unnamed."""
    left = unnamed(file)
    return left if left.exists() and sha256_of(left) == sha256 else file


def _load_rows(path: Path, kind: str, entry: dict[str, Any]) -> pd.DataFrame:
    file = path / f"{kind}.parquet"
    data = read_bytes(rows_file(file, entry["sha256"]), TableError, max_mb=MAX_JOURNAL_MB)
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        raise TableError(
            f"{file}: the checksum differs from meta.yaml; the table is damaged or was edited"
        )
    frame = read_parquet(file, TableError, data=data)
    frame = frame.assign(**(entry.get("constants") or {}))
    expected = [*KINDS[kind], *VALUE_COLUMNS]
    if set(frame.columns) != set(expected):
        lacking, extra = (
            [c for c in expected if c not in frame],
            [c for c in frame if c not in expected],
        )
        raise TableError(
            f"{file}: wrong columns: lacking {', '.join(lacking) or 'none'};"
            f" unknown {', '.join(map(str, extra)) or 'none'}"
        )
    if len(frame) != entry["rows"]:
        raise TableError(f"{file}: meta.yaml promises {entry['rows']} rows; got {len(frame)}")
    _check_values(file, kind, frame)
    return frame[expected]


def _check_values(file: Path, kind: str, frame: pd.DataFrame) -> None:
    keys = [column for column in KINDS[kind] if column not in TEXT_KEYS]
    for column in (*keys, "latency_us", *NUMBERS):
        known = frame[column].dropna().infer_objects()
        if len(known) and not pd.api.types.is_numeric_dtype(known):
            raise TableError(f"{file}: column {column} must hold numbers")
        values = frame[column].astype(float).to_numpy()
        wrong = ~np.isfinite(values) if column in keys else ~(np.isfinite(values) & (values > 0))
        if column in NUMBERS:
            wrong &= ~np.isnan(values)
        if wrong.any():
            rule = "a number" if column in keys else "a positive number"
            null = " or null" * (column in NUMBERS)
            row = int(wrong.argmax())
            raise TableError(f"{file}: row {row}: {column} must be {rule}{null}; got {values[row]}")
    unknown = set(frame["source"].astype(str)) - set(SOURCES)
    if unknown:
        raise TableError(
            f"{file}: source must be one of {', '.join(SOURCES)}; got {sorted(unknown)[0]!r}"
        )
    if frame.duplicated([*KINDS[kind], "dtype"]).any():
        raise TableError(f"{file}: two rows of the same {', '.join(KINDS[kind])}")
