"""What a latency table can answer, and where its rows are from."""

from __future__ import annotations

from typing import Any

from flashnas.base.text import first_sentence, is_number
from flashnas.latency.grid import HEADS_SPREAD, OUTSIDE_SPREAD, OUTSIDE_UPPER
from flashnas.latency.schema import KINDS, TEXT_KEYS
from flashnas.latency.table import LatencyTable, texts
from flashnas.operators.kernel_kinds import KERNEL_KINDS


def rules() -> list[str]:
    """One line per rule that makes a `derived` or `roofline` value, with its numbers."""
    by_text: dict[str, list[str]] = {}
    for name, kind in KERNEL_KINDS.items():
        for rule in kind.rules:
            numbers = ", ".join(f"{key} {n:g}" for key, n in vars(rule).items() if is_number(n))
            text = first_sentence(type(rule).__doc__ or "") + f" ({numbers})" * bool(numbers)
            by_text.setdefault(text, []).append(name)
    return [
        f"every kind: beyond the measured sizes along a line, or as the smallest one, and cells that"
        f" were not measured in proportion (-{OUTSIDE_SPREAD:.0%}, +{OUTSIDE_UPPER:.0%})",
        *(
            f"{name}: {' and '.join(kind.between)} between measured ones: their mean in log space"
            f" (+-{HEADS_SPREAD:.0%})"
            for name, kind in KERNEL_KINDS.items()
            if kind.between
        ),
        *(f"{', '.join(names)}: {text}" for text, names in by_text.items()),
    ]


def facts_of(table: LatencyTable) -> dict[str, Any]:
    """What `flashnas table info` shows of a table, JSON-ready: with the range of each column, and the
    rules by which this version derives times."""
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
        "rules": rules(),
        "calibration": table.calibration or None,
    }
