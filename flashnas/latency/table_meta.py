"""meta.yaml of a latency table, checked when the table is loaded.

    format, device, units      as schema.py defines them
    stacks                     name -> framework, version, ... of each value of the column `stack`
    kinds                      kind of rows -> rows (how many), sha256 of its file, constants (columns with one value
                               for all rows, which the file leaves out) and origin
    calibration                see calibration.py
    jobs, validations          what `flashnas profile` and `flashnas validate` recorded
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.hints import did_you_mean
from flashnas.base.yaml import LocatedDict, read_yaml
from flashnas.latency.calibration import check_calibration
from flashnas.latency.schema import FORMAT, KINDS, UNITS, VALUE_COLUMNS, Device

NUMBERS = ("p10_us", "p90_us", "repeats")  # constants that may be null


def load_meta(path: Path, device: Device) -> LocatedDict:
    """meta.yaml of the table in the folder `path`.

    Raises:
        TableError: with file, line and rule, for anything that a table cannot have.
    """
    try:
        meta: LocatedDict = read_yaml(path / "meta.yaml")
    except ConfigError as error:
        raise TableError(str(error)) from None
    for key in ("format", "device", "units", "stacks", "kinds"):
        if key not in meta:
            raise TableError(f"{meta.place()}: a latency table needs the key {key!r}")
    if meta["format"] != FORMAT:
        raise TableError(f"{meta.place('format')}: format must be {FORMAT}; got {meta['format']!r}")
    if meta["device"] != device.name:
        raise TableError(f"{meta.place('device')}: device must be {device.name!r} as in device.yaml;"
                         f" got {meta['device']!r}")
    if meta["units"] != UNITS:
        wrong = next((key for key in UNITS if not isinstance(meta["units"], dict)
                      or meta["units"].get(key) != UNITS[key]), "units")
        raise TableError(f"{meta.place('units')}: units.{wrong} must be {UNITS.get(wrong, UNITS)!r}")
    if not isinstance(meta["kinds"], LocatedDict) or not isinstance(meta["stacks"], LocatedDict):
        raise TableError(f"{meta.place('kinds')}: kinds and stacks must be mappings")
    for kind, entry in meta["kinds"].items():
        _check_kind(meta["kinds"], kind, entry)
    for name, stack in meta["stacks"].items():
        threads = stack.get("threads", 1) if isinstance(stack, dict) else None
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise TableError(f"{meta['stacks'].place(name)}: stacks.{name} must be a mapping, with threads of at least"
                             f" 1; got {stack!r}")
    for key in ("jobs", "validations"):
        entries = meta.get(key, [])
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise TableError(f"{meta.place(key)}: {key} must be a list of mappings; got {entries!r}")
    check_calibration(meta, path / "meta.yaml")
    return meta


def _check_kind(kinds: LocatedDict, kind: str, entry: Any) -> None:
    if kind not in KINDS:
        raise TableError(f"{kinds.place(kind)}: unknown kind of rows {kind!r}{did_you_mean(kind, KINDS)}")
    if not isinstance(entry, dict) or not {"rows", "sha256", "constants"} <= set(entry):
        raise TableError(f"{kinds.place(kind)}: kinds.{kind} needs rows, sha256 and constants")
    constants = entry["constants"]
    if not isinstance(constants, LocatedDict):
        raise TableError(f"{kinds.place(kind)}: kinds.{kind}.constants must be a mapping; got {constants!r}")
    for name, value in constants.items():
        place = f"{constants.place(name)}: kinds.{kind}.constants"
        if name not in VALUE_COLUMNS[1:]:
            raise TableError(f"{place} has no key {name!r}{did_you_mean(name, VALUE_COLUMNS[1:])}; allowed:"
                             f" {', '.join(VALUE_COLUMNS[1:])}")
        if name in NUMBERS and not (value is None or _positive(value)):
            raise TableError(f"{place}.{name} must be a positive number or null; got {value!r}")
        if name not in NUMBERS and not isinstance(value, str):
            raise TableError(f"{place}.{name} must be text; got {value!r}")


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0
