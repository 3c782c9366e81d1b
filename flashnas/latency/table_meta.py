"""meta.yaml of a latency table, checked when the table is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.base.documents import LocatedDict, convert, read_yaml
from flashnas.base.errors import ConfigError, TableError
from flashnas.base.text import did_you_mean
from flashnas.latency.calibration import check_calibrations
from flashnas.latency.schema import FORMAT, KINDS, NUMBERS, UNITS, VALUE_COLUMNS, Device


@dataclass(frozen=True, kw_only=True)
class RowsEntry:
    """The rows of one kind. constants: columns with one value for all rows, which the file leaves
    out.
    """

    rows: int
    sha256: str
    constants: Mapping[str, Any]
    origin: Any = None


@dataclass(frozen=True, kw_only=True)
class TableMeta:
    """The content of meta.yaml; jobs and validations are what `flashnas profile` and `validate`
    recorded.
    """

    format: int
    device: str
    units: Mapping[str, Any]
    stacks: Mapping[str, Mapping[str, Any]]  # name in the column `stack` -> framework, version, ..
    kinds: Mapping[str, Any]  # -> RowsEntry
    calibration: Mapping[str, Any] | None = None  # calibration.py
    jobs: list[dict[str, Any]] | None = None
    validations: list[dict[str, Any]] | None = None
    timed_networks: list[str] | None = None


def load_meta(path: Path, device: Device) -> LocatedDict:
    """meta.yaml of the table in the folder `path`; raises TableError with file, line and rule."""
    try:
        meta: LocatedDict = read_yaml(path / "meta.yaml")
    except ConfigError as error:
        raise TableError(str(error)) from None
    convert(
        meta, TableMeta, error=TableError, finite=False
    )  # correlations that are not known are NaN
    for key, value in (("format", FORMAT), ("device", device.name)):
        if meta[key] != value:
            raise TableError(f"{meta.place(key)}: {key} must be {value!r}; got {meta[key]!r}")
    for key, unit in UNITS.items():
        if meta["units"].get(key) != unit:
            raise TableError(f"{meta.place('units')}: units.{key} must be {unit!r}")
    for kind, entry in meta["kinds"].items():
        if kind not in KINDS:
            raise TableError(
                f"{meta['kinds'].place(kind)}: unknown kind of rows"
                f" {kind!r}{did_you_mean(kind, KINDS)}"
            )
        convert(entry, RowsEntry, meta["kinds"].place(kind), TableError, name=f"kinds.{kind}")
        _check_constants(kind, entry["constants"])
    for name, stack in meta["stacks"].items():
        threads = stack.get("threads", 1)
        if type(threads) is not int or threads < 1:
            raise TableError(
                f"{stack.place('threads')}: stacks.{name}.threads must be a whole number of at"
                f" least 1; got {threads!r}"
            )
    if meta.get("calibration") is not None:
        check_calibrations(meta["calibration"])
    return meta


def _check_constants(kind: str, constants: LocatedDict) -> None:
    allowed = VALUE_COLUMNS[1:]
    for name, value in constants.items():
        place = f"{constants.place(name)}: kinds.{kind}.constants"
        if name not in allowed:
            raise TableError(
                f"{place} has no key {name!r}{did_you_mean(name, allowed)}; allowed:"
                f" {', '.join(allowed)}"
            )
        if (
            name in NUMBERS
            and value is not None
            and (type(value) not in (int, float) or value <= 0)
        ):
            raise TableError(f"{place}.{name} must be a positive number or null; got {value!r}")
        if name not in NUMBERS and not isinstance(value, str):
            raise TableError(f"{place}.{name} must be text; got {value!r}")
