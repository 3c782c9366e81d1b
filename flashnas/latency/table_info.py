"""What a latency table can answer, and where its rows are from."""

from __future__ import annotations

from typing import Any

from flashnas.latency.schema import KINDS, TEXT_KEYS
from flashnas.latency.table import LatencyTable, texts


def facts_of(table: LatencyTable) -> dict[str, Any]:
    """What `flashnas table info` shows of a table, JSON-ready: with the range of each column."""
    kinds = {}
    for kind, frame in table.frames.items():
        numbers = [column for column in KINDS[kind] if column not in TEXT_KEYS]
        kinds[kind] = {
            "rows": len(frame),
            "ranges": {name: [int(frame[name].min()), int(frame[name].max())] for name in numbers},
            **{name: texts(table, name, (kind,)) for name in TEXT_KEYS if name in KINDS[kind]},
            "sources": {str(key): int(n) for key, n in frame["source"].value_counts().items()},
            "stacks": texts(table, "stack", (kind,)),
            "modes": texts(table, "mode", (kind,)),
            "origin": table.meta["kinds"][kind].get("origin"),
        }
    return {
        "name": table.name,
        "path": str(table.path),
        "device": dict(vars(table.device)),
        "dtypes": table.dtypes,
        "stacks": table.meta["stacks"],
        "kinds": kinds,
        "calibration": table.calibration or None,
    }
