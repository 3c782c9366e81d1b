"""Identity: all that fixes the trajectory of a run. A run is continued only under the same
identity.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from flashnas.base.documents import fingerprint
from flashnas.base.errors import RunError
from flashnas.data.corpus import without_folders
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.runs.layout import as_recorded
from flashnas.training.recipe import ROUNDING

FILES = ("table", "data", "tokenizer")  # named as the user did
HINTS = {
    "space": "the run folder belongs to another space",
    "space_hash": "the run folder belongs to another space",
    "bench": "the scores of the bench are others than then",
    "device": "device.yaml of the table has changed",
    "start_from": "the runs hold other networks than then",
}


class Identity:
    """The question that a run answers, as run.yaml records it: files and functions by digests and
    names. How it is answered (workers, time limits, number of trials) is not part of it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values: dict[str, Any] = as_recorded(dict(values))

    @functools.cached_property
    def hash(self) -> str:
        """16 hex digits; the name of the run's study in its database."""
        return fingerprint(_compared(self.values))

    def check_same(self, recorded: Any, place: str) -> None:
        """Raise RunError naming the first field in which the record of a run differs."""
        if not isinstance(recorded, dict):
            raise RunError(f"{place}: question must be a mapping; got {recorded!r:.60}")
        before, now = _compared(as_recorded(recorded)), _compared(self.values)
        for key in (*now, *sorted(set(before) - set(now))):
            if now.get(key) != before.get(key):
                hint = f"; {HINTS[key]}" if key in HINTS else ""
                raise RunError(
                    f"{place}: question.{key} is {before.get(key)!r}, but this search asks"
                    f" {now.get(key)!r}{hint}; choose another --out or the same question"
                )


def _compared(values: dict[str, Any]) -> dict[str, Any]:
    """The question without what changes rounding alone, and without the folders of files, whose
    contents have digests: a run may be continued from another folder."""
    recipe = values.get("recipe")
    compared = dict(values)
    if isinstance(recipe, dict):
        compared["recipe"] = {**recipe, **ROUNDING}
    for key in FILES:
        if isinstance(value := values.get(key), str):
            compared[key] = without_folders(value)
    return compared


def table_hash(table: LatencyTable) -> str:
    """Changes with any row of the table and with its calibration."""
    return fingerprint(
        [{kind: entry["sha256"] for kind, entry in table.meta["kinds"].items()}, table.calibration]
    )


def device_facts(table: LatencyTable) -> dict[str, float]:
    """What device.yaml says and estimates depend on."""
    names = "peak_flops", "bandwidth_bytes_s", "memory_bytes", "launch_us", "bandwidth_share"
    return {name: getattr(table.device, name) for name in names}


def table_facts(model: LatencyModel) -> dict[str, Any]:
    """What run.yaml says of the table and of what answers by it."""
    table = model.table
    return {
        "name": table.name,
        "device": table.device.label or table.name,
        "stack": table.stack,
        "mode": table.default_mode,
        "weights": model.dtype,
        "calibration": model.calibration.name,
    }
