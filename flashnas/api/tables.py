"""Latency tables: shown, and made from public measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.api.calling import TABLE, Result, takes, writable_out
from flashnas.base.settings import REQUIRED, Settings, option


@dataclass(frozen=True, kw_only=True)
class TableInfoOptions(Settings, where="table_info"):
    table: str = option(REQUIRED, "shipped table or folder", positional=True, instance=TABLE)


@dataclass(frozen=True, kw_only=True)
class ImportTableOptions(Settings, where="import_table"):
    source: str = option(
        REQUIRED, "whose measurements: aiconfigurator", positional=True, choices=("aiconfigurator",)
    )
    system: str = option(REQUIRED, "system of the source, such as h100_sxm", positional=True)
    out: Path = option(REQUIRED, "table folder to write", yaml=False)


@dataclass(frozen=True)
class TableInfo(Result):
    """A latency table in plain figures (flashnas/latency/table_info.py)."""

    name: str
    path: str
    device: dict[str, Any]
    dtypes: tuple[str, ...]
    stacks: dict[str, Any]
    kinds: dict[str, Any]
    calibration: dict[str, Any] | None

    def __str__(self) -> str:
        from flashnas.reporting.words import render_text

        return render_text("table_info.txt", **self.to_dict())


@takes(TableInfoOptions)
def table_info(options: TableInfoOptions) -> TableInfo:
    """What a latency table can answer and where its rows are from."""
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.table_info import facts_of

    return TableInfo(**facts_of(LatencyTable.load(options.table)))


@takes(ImportTableOptions)
def import_table(options: ImportTableOptions) -> TableInfo:
    """Turn public measurements into a latency table."""
    out = writable_out(options, empty=True)

    from flashnas.latency.importers.aiconfigurator import import_system

    import_system(options.system, out)
    return table_info(str(out))
