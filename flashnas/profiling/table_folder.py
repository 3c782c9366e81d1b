"""The folder of a table that is measured: checked before, written while, and completed after it
is.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.system import disk_errors
from flashnas.latency.row_requests import RowRequest, missing
from flashnas.latency.schema import NUMBERS, Device
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.table_writer import RowContext, edited_meta, write_rows
from flashnas.profiling.device_timing import Measurement
from flashnas.profiling.setup import Setup
from flashnas.profiling.target import Target

OWN_FILES = ("device.yaml", "meta.yaml", "operator_decode.parquet", "operator_prefill.parquet")


class TableFolder:
    """A table's folder, which is created, so that nothing is measured that could not be written.

    Args:
        further: files that it may have beside those of a table.

    Raises:
        ConfigError: the folder is in use for something else or cannot be created.
        TableError: it holds the table of another device, of another build of the same software, or
            rows of the same software that were timed with other settings.
    """

    def __init__(self, path: Path, target: Target, further: tuple[str, ...] = ()) -> None:
        self.path, self.target = path, target
        with disk_errors(f"--out {path}: the table cannot be written", ConfigError):
            path.mkdir(parents=True, exist_ok=True)
            others = [
                file.name
                for file in path.iterdir()
                if not file.name.removeprefix(".").startswith((*OWN_FILES, *further))
            ]
            if others and not (path / "meta.yaml").exists():
                raise ConfigError(
                    f"--out {path}: must be a new folder or a latency table; it has {min(others)}"
                )
            probe = path / ".writable"
            probe.touch()
            probe.unlink(missing_ok=True)  # another process may look, too
        self.table = LatencyTable.load(path) if (path / "meta.yaml").exists() else None
        if self.table is not None:
            here, stacks = target.describe_stack(), self.table.meta["stacks"]
            same = [
                stack
                for stack in texts(self.table, "stack")
                if stacks.get(stack, {}).get("framework") == here["framework"]
            ]
            self.table.settings(same, here)
            target.check_build(f"--out {path}: the table", stacks.get(target.stack, {}))
        self.device = self._device()

    def _device(self) -> Device:
        """The device of the table, or the one at hand for a new table."""
        if not (self.path / "device.yaml").exists():
            setup = self.target if isinstance(self.target, Setup) else Setup()
            return setup.run(lambda: setup.platform.describe(self.path.name))
        device, here = Device.load(self.path / "device.yaml"), self.target.platform.label()
        if (device.platform, device.label) != (self.target.device, here):
            raise TableError(
                f"{self.path}: the table is of {device.label or device.name}, but this is {here};"
                " choose another --out"
            )
        return device

    def missing(self, items: Sequence[RowRequest]) -> list[RowRequest]:
        """The requests that no row of the target answers."""
        target = self.target
        return missing(
            items, self.table, stack=target.stack, mode=target.mode_name, dtype=target.dtype_name
        )

    def write(self, rows: Mapping[RowRequest, Measurement], by: str) -> None:
        """Add rows; by: what measured them."""
        target = self.target
        context = RowContext(
            device=self.device,
            stacks={target.stack: target.describe_stack()},
            origin={"measured_by": by},
        )
        for kind in ("operator_decode", "operator_prefill"):
            part = [
                {
                    **item.key(),
                    **{name: getattr(row, name) for name in ("latency_us", *NUMBERS)},
                    "mode": row.mode or target.mode_name,
                    "dtype": target.dtype_name,
                    "stack": target.stack,
                    "source": "measured",
                }
                for item, row in rows.items()
                if item.kind == kind
            ]
            if part:
                write_rows(self.path, kind, pd.DataFrame(part), context, append=True)

    def finish(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Keep the record of a measurement under `jobs` in meta.yaml, and return it."""
        record = {
            "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "stack": self.target.stack,
            "mode": self.target.mode_name,
            "dtype": self.target.dtype_name,
            **facts,
        }
        with edited_meta(self.path) as meta:
            meta["jobs"] = [*(meta.get("jobs") or ()), record]
        return record
