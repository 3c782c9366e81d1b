"""Latency tables: shown, and made from public measurements."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flashnas.api.calling import TABLE, takes, writable_out
from flashnas.base.settings import REQUIRED, Settings, option

if TYPE_CHECKING:
    from flashnas.latency.table_info import TableInfo


@dataclass(frozen=True, kw_only=True)
class TableInfoOptions(Settings, where="table_info"):
    table: str = option(REQUIRED, "shipped table or folder", positional=True, objects=(TABLE,))


@dataclass(frozen=True, kw_only=True)
class ImportTableOptions(Settings, where="import_table"):
    source: str = option(
        REQUIRED, "whose measurements: aiconfigurator", positional=True, choices=("aiconfigurator",)
    )
    system: str = option(REQUIRED, "system of the source, such as h100_sxm", positional=True)
    out: Path = option(REQUIRED, "table folder to write", yaml=False)


@takes(TableInfoOptions)
def table_info(options: TableInfoOptions) -> TableInfo:
    """What a latency table can answer and where its rows are from."""
    from flashnas.latency.table import LatencyTable
    from flashnas.latency.table_info import TableInfo

    return TableInfo(LatencyTable.load(options.table))


@takes(ImportTableOptions)
def import_table(options: ImportTableOptions) -> TableInfo:
    """Turn public measurements into a latency table."""
    out = writable_out(options, empty=True)

    from flashnas.latency.importers.aiconfigurator import import_system

    import_system(options.system, out)
    return table_info(str(out))
