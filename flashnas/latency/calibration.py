"""The entry `calibration` of a table's meta.yaml, checked once, when the table is loaded.

    calibration:
      stack: unfused                    the stack that `estimate` takes if none is given
      unfused: {scale: 1.1, ...}        constants of one stack (kernel_correction.py)
      width: 0.3                        constants outside of a stack are those of all stacks
      fitted_on: ...                    what the constants come from, and the command that finds them again
      reproduce: ...
      whole:                            constants for rows of whole operators (model_correction.py)
        eager: {prefill: {scale: 1.0, ...}, decode: {...}}
        workload: chat
        fitted_on: [hash, ...]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flashnas.base.errors import TableError
from flashnas.base.hints import did_you_mean, one_of
from flashnas.base.yaml import LocatedDict
from flashnas.latency.correction import TIMED_ALONE, check_constant
from flashnas.latency.kernel_correction import STACKS, KernelCorrection
from flashnas.latency.model_correction import ModelCorrection
from flashnas.latency.schema import MODES, RUNTIMES
from flashnas.operators.kernel import PHASES

ERRORS = ("left_out_mean_error", "left_out_max_error", "left_out_throughput_mean_error",
          "left_out_throughput_max_error")
TEXTS = ("fitted_on", "reproduce")


def check_calibration(meta: Mapping[str, Any], file: Path) -> None:
    """Checks `calibration`, if there is one.

    Args:
        meta: contents of meta.yaml.
        file: its path.

    Raises:
        TableError: a key that does not exist, or a value of another type or range; with file, line and rule.
    """
    if meta.get("calibration") is None:
        return
    constants = (*KernelCorrection.names(), *ERRORS)
    entry = _mapping(meta, "calibration", "", file, (*constants, "stack", *STACKS, *TEXTS, "whole"))
    for key in entry:
        place = f"{_place(entry, key, file)}: calibration.{key}"
        if key in constants:
            check_constant(place, entry[key])
        elif key in STACKS:
            own = _mapping(entry, key, "calibration.", file, constants)
            for name in own:
                check_constant(f"{_place(own, name, file)}: calibration.{key}.{name}", own[name])
        elif key == "stack" and entry[key] not in STACKS:
            raise TableError(one_of(place, entry[key], STACKS))
        elif key in TEXTS and not isinstance(entry[key], str):
            raise TableError(f"{place} must be text; got {entry[key]!r}")
    if "whole" in entry:
        _check_whole(entry, file)


def _check_whole(calibration: Mapping[str, Any], file: Path) -> None:
    whole = _mapping(calibration, "whole", "calibration.", file, (*MODES, *RUNTIMES, "workload", "fitted_on"))
    for key, value in whole.items():
        place = f"{_place(whole, key, file)}: calibration.whole.{key}"
        if key == "workload" and not isinstance(value, str):
            raise TableError(f"{place} must be text; got {value!r}")
        if key == "fitted_on" and not (isinstance(value, list) and all(isinstance(item, str) for item in value)):
            raise TableError(f"{place} must be a list of hashes; got {value!r}")
        if key not in (*MODES, *RUNTIMES):
            continue
        mode = _mapping(whole, key, "calibration.whole.", file, PHASES)
        for phase in mode:
            constants = _mapping(mode, phase, f"calibration.whole.{key}.", file, ModelCorrection.names())
            for name, constant in constants.items():
                check_constant(f"{_place(constants, name, file)}: calibration.whole.{key}.{phase}.{name}", constant,
                               any_sign=name == "operator_us" and key in TIMED_ALONE)


def _mapping(parent: Mapping[str, Any], key: str, above: str, file: Path, allowed: Iterable[str]) -> Mapping[str, Any]:
    """`parent[key]`, which must be a mapping with allowed keys."""
    entry, allowed = parent[key], tuple(allowed)
    if not isinstance(entry, Mapping):
        raise TableError(f"{_place(parent, key, file)}: {above}{key} must be a mapping; got {entry!r}")
    for name in entry:
        if name not in allowed:
            raise TableError(f"{_place(entry, name, file)}: {above}{key} has no key {name!r}"
                             f"{did_you_mean(name, allowed)}; allowed: {', '.join(allowed)}")
    return entry


def _place(mapping: Mapping[str, Any], key: str, file: Path) -> str:
    return mapping.place(key) if isinstance(mapping, LocatedDict) else str(file)
