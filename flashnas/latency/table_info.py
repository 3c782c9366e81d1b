"""What a latency table can answer, and where its rows are from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flashnas.latency.grid import HEADS_SPREAD, OUTSIDE_SPREAD, OUTSIDE_UPPER
from flashnas.latency.schema import KINDS, OPERATOR_KINDS, TEXT_KEYS
from flashnas.latency.table import LatencyTable, texts
from flashnas.operators.kernel_kinds import KERNEL_KINDS


def rules() -> list[str]:
    """One line per rule that makes a `derived` or `roofline` value."""
    by_text: dict[str, list[str]] = {}
    for name, kind in KERNEL_KINDS.items():
        for rule in kind.rules:
            by_text.setdefault(rule.text(), []).append(name)
    grow = "".join(
        f" ({name}: smaller {kind.grow})"
        for name, kind in KERNEL_KINDS.items()
        if kind.grow != "batch"
    )
    return [
        f"every kind: beyond the largest measured size: along the line through it and half of it"
        f" (-{OUTSIDE_SPREAD:.0%}; up to {OUTSIDE_UPPER:.0%} above proportion, or a steeper line)",
        f"every kind: below the smallest measured size: the smallest (from {OUTSIDE_SPREAD:.0%}"
        f" below proportion to +{OUTSIDE_UPPER:.0%})",
        f"every kind: a cell that was not measured: the smaller batch{grow} in proportion (from"
        f" {OUTSIDE_SPREAD:.0%} below the line through the two largest to +{OUTSIDE_UPPER:.0%})",
        *(
            f"{name}: {' and '.join(kind.between)} between measured ones: their mean in log space"
            f" (+-{HEADS_SPREAD:.0%})"
            for name, kind in KERNEL_KINDS.items()
            if kind.between
        ),
        *(f"{', '.join(names)}: {text}" for text, names in by_text.items()),
    ]


@dataclass(frozen=True)
class TableInfo:
    """What `flashnas table info` shows of a latency table."""

    table: LatencyTable

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, with the range of each column, and the rules by which this version derives
        times.
        """
        table, kinds = self.table, {}
        for kind, frame in table.frames.items():
            kinds[kind] = {
                "rows": len(frame),
                "ranges": {
                    column: [int(frame[column].min()), int(frame[column].max())]
                    for column in KINDS[kind]
                    if column not in TEXT_KEYS
                },
                **{
                    column: texts(table, column, (kind,))
                    for column in KINDS[kind]
                    if column in TEXT_KEYS
                },
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

    def __str__(self) -> str:
        info, table, device = self.to_dict(), self.table, self.table.device
        lines = [
            f"{table.name}: {device.label or device.platform}, {device.peak_flops / 1e12:g} TFLOP/s,"
            f" {device.bandwidth_bytes_s / 1e9:g} GB/s, {device.memory_bytes / 2**30:g} GiB;"
            f" {', '.join(table.dtypes)}",
            f"stacks: {table.stack}",
            "",
        ]
        for kind, entry in info["kinds"].items():
            ranges = ", ".join(
                f"{column} {low}..{high}" if low != high else f"{column} {low}"
                for column, (low, high) in entry["ranges"].items()
            )
            lines.append(
                f"{kind:<26}{entry['rows']:>7} rows  {'+'.join(entry['sources'])}"
                f" ({', '.join(entry['stacks'])}; {', '.join(entry['modes'])})  {ranges}"
            )
            if "operator" in entry:
                lines.append(f"{'':<26}operators: {', '.join(entry['operator'])}")
        if info["kinds"].keys() <= {*OPERATOR_KINDS}:
            lines += ["", "it answers for these operators, up to these batches and lengths"]
        else:
            lines += ["", "rules:", *(f"- {rule}" for rule in info["rules"])]
        if table.calibration:
            lines += ["", "calibration:"]
        for name, entry in table.calibration.items():
            values = ", ".join(f"{key} {value}" for key, value in entry.items())
            lines.append(f"- {name}: {values}")
        return "\n".join(lines)
