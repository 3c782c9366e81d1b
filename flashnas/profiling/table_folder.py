"""The folder of a table that is measured: prepared before, written while, and completed after it
is.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flashnas.base.errors import ConfigError, TableError
from flashnas.base.files import disk_errors
from flashnas.latency.schema import Device
from flashnas.latency.table import LatencyTable, texts
from flashnas.latency.table_writer import RowContext, edited_meta, write_rows
from flashnas.profiling.platforms import describe_device
from flashnas.profiling.setup import Setup
from flashnas.profiling.target import Target

OWN_FILES = ("device.yaml", "meta.yaml", "operator_decode.parquet", "operator_prefill.parquet")


def prepare_folder(
    folder: Path, target: Target, further: tuple[str, ...] = ()
) -> LatencyTable | None:
    """Create a table's folder, so that nothing is measured that could not be written; -> its table,
    if any. Beside a table's own files it may have `further` ones. Raises ConfigError, and
    TableError where rows of the same software were timed with other settings."""
    with disk_errors(f"--out {folder}: the table cannot be written", ConfigError):
        folder.mkdir(parents=True, exist_ok=True)
        others = [
            path.name
            for path in folder.iterdir()
            if not path.name.removeprefix(".").startswith((*OWN_FILES, *further))
        ]
        if others and not (folder / "meta.yaml").exists():
            raise ConfigError(
                f"--out {folder}: must be a new folder or a latency table; it has {min(others)}"
            )
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)  # another process may look, too
    if not (folder / "meta.yaml").exists():
        return None
    table, here = LatencyTable.load(folder), target.describe_stack()
    stacks = table.meta["stacks"]
    table.settings(
        [
            stack
            for stack in texts(table, "stack")
            if stacks.get(stack, {}).get("framework") == here["framework"]
        ],
        here,
    )
    return table


def device_of(folder: Path, setup: Setup) -> Device:
    """The device of a table's folder, or of a new one; raises TableError if this machine has
    another.
    """
    if not (folder / "device.yaml").exists():
        with setup.running():
            return describe_device(setup.device, folder.name)
    device, here = Device.load(folder / "device.yaml"), setup.platform.label()
    if (device.platform, device.label) != (setup.device, here):
        raise TableError(
            f"{folder}: the table is of {device.label or device.name}, but this is {here};"
            " choose another --out"
        )
    return device


def write_measured(
    folder: Path, device: Device, target: Target, rows: Sequence[dict[str, Any]], by: str
) -> None:
    """Write rows of whole operators, each with its `phase`; by: what measured them."""
    context = RowContext(
        device=device, stacks={target.stack: target.describe_stack()}, origin={"measured_by": by}
    )
    for phase in ("decode", "prefill"):
        part = pd.DataFrame([row for row in rows if row["phase"] == phase])
        if len(part):
            write_rows(
                folder,
                f"operator_{phase}",
                part.assign(dtype=target.dtype_name, stack=target.stack, source="measured"),
                context,
                append=True,
            )


def finished(
    folder: Path, target: Target, counts: dict[str, int], facts: dict[str, Any]
) -> dict[str, Any]:
    """Keep the record of a measurement under `jobs` in meta.yaml; the counts and the record."""
    record = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "stack": target.stack,
        "mode": target.mode_name,
        "dtype": target.dtype_name,
        **facts,
    }
    with edited_meta(folder) as meta:
        meta["jobs"] = [*(meta.get("jobs") or ()), record]
    return {**counts, **record}
