"""The folder of a table that is measured: checked before, written while, and completed after it
is.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.system import disk_errors, hold_lock
from flashnas.latency.schema import KINDS, OPERATOR_KINDS, Device
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.table_writer import edited_meta, write_rows
from flashnas.latency.validation import TIMED
from flashnas.profiling.regression import Times
from flashnas.profiling.row_requests import RowRequest
from flashnas.profiling.target import Target

if TYPE_CHECKING:
    from filelock import BaseFileLock

JOURNAL = "networks.jsonl"
OWN_FILES = (
    "device.yaml",
    "meta.yaml",
    "operator_decode.parquet",
    "operator_prefill.parquet",
    JOURNAL,
)


class TableFolder:
    """A table's folder, which is created, so that nothing is measured that could not be written.

    Raises:
        ConfigError: the folder is in use for something else or cannot be created.
        TableError: it holds the table of another device, of another build of the same software, or
            rows of the same software that were timed with other settings.
    """

    def __init__(self, path: Path, target: Target) -> None:
        self.path, self.target = path, target
        with disk_errors(f"--out {path}: the table cannot be written", ConfigError):
            path.mkdir(parents=True, exist_ok=True)
            others = [
                file.name
                for file in path.iterdir()
                if not file.name.removeprefix(".").startswith(OWN_FILES)
            ]
            if others and not (path / "meta.yaml").exists():
                raise ConfigError(
                    f"--out {path}: must be a new folder or a latency table; it has {min(others)}"
                )
            (path / f".{JOURNAL}.lock").touch()
        self.table = LatencyTable.load(path) if (path / "meta.yaml").exists() else None
        if self.table is not None:
            here, stacks = target.describe_stack(), self.table.meta["stacks"]
            same = [
                stack
                for stack in texts(self.table, "stack")
                if stacks.get(stack, {}).get("framework") == here["framework"]
            ]
            self.table.settings(same, here)
            if self.table.mode != target.mode_name:
                raise TableError(
                    f"--out {path}: the table is of {self.table.mode}; got {target.mode_name}: take"
                    " another folder"
                )
        self.device = self._device()

    def _device(self) -> Device:
        """The device of the table, or the one at hand for a new table."""
        if not (self.path / "device.yaml").exists():
            return self.target.describe_device(self.path.name)
        device, here = Device.load(self.path / "device.yaml"), self.target.label()
        if (device.platform, device.label) != (self.target.device, here):
            raise TableError(
                f"{self.path}: the table is of {device.label or device.name}, but this is {here};"
                " choose another --out"
            )
        return device

    def held(self) -> BaseFileLock:
        """As a context: this process alone measures; TableError if another one does."""
        busy = TableError(f"{self.path}: another process is measuring this table")
        return hold_lock(self.path / f".{JOURNAL}.lock", busy)

    def missing(self, requests: Sequence[RowRequest]) -> list[RowRequest]:
        """The requests that no row of the target's stack and dtype answers."""
        target, answered = self.target, set[tuple[Any, ...]]()
        frames = {} if self.table is None else self.table.frames
        for kind in frames.keys() & OPERATOR_KINDS:
            rows = frames[kind]
            own = (rows["stack"] == target.stack) & (rows["dtype"] == target.dtype_name)
            keys = rows.loc[own, list(KINDS[kind])]
            answered.update((kind, *row) for row in keys.itertuples(index=False))
        return [item for item in requests if (item.kind, *item.key().values()) not in answered]

    def write(self, rows: Mapping[RowRequest, Times], repeats: int, source: str) -> None:
        """Add rows; repeats: the number of timings behind each."""
        target = self.target
        for kind in OPERATOR_KINDS:
            part = [
                {
                    **item.key(),
                    **dict(zip(("latency_us", "p10_us", "p90_us"), times, strict=True)),
                }
                for item, times in rows.items()
                if item.kind == kind
            ]
            if part:
                frame = pd.DataFrame(part).assign(
                    repeats=repeats,
                    mode=target.mode_name,
                    dtype=target.dtype_name,
                    stack=target.stack,
                    source=source,
                )
                write_rows(
                    self.path,
                    kind,
                    frame,
                    self.device,
                    stacks={target.stack: target.describe_stack()},
                    origin={
                        "measured_by": f"flashnas profile --runtime {target.name}, {target.stack}"
                    },
                )

    def finish(self, timed: Iterable[str], facts: Mapping[str, Any]) -> dict[str, Any]:
        """Keep in meta.yaml the hashes of the networks that were timed, and the record of a
        measurement under `jobs`; returns the record."""
        record = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "stack": self.target.stack,
            "mode": self.target.mode_name,
            "dtype": self.target.dtype_name,
            **facts,
        }
        with edited_meta(self.path) as meta:
            meta[TIMED] = sorted({*(meta.get(TIMED) or ()), *timed})
            meta["jobs"] = [*(meta.get("jobs") or ()), record]
        return record
