"""A time with its source and bounds, and the rules of the lookup as text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from flashnas.latency.schema import SOURCES
from flashnas.operators.kernel_kinds import KERNEL_KINDS

# Half-widths of the bounds, relative to the value. Measured rows have their own p10 and p90, but a
# median in another process moves by a few per cent; imported rows state no percentiles. Bounds add
# up linearly over the parts of a model.
SOURCE_SPREAD = {"measured": 0.05, "imported": 0.10, "derived": 0.20, "roofline": 0.50}
# Widths of the rules, set so that at least nine of ten rows that a rule did not use lie inside its
# bounds on each of the shipped tables (experiments/rule_coverage). a point outside the grid, or a
# cell that was not measured, on top of what the grid says:
OUTSIDE_SPREAD = 0.25
OUTSIDE_UPPER = 0.60  # further up, because a kernel that leaves a cache grows faster than its work
HEADS_SPREAD = 0.40  # attention with numbers of heads between measured ones
NEGLIGIBLE = (
    0.01  # share of the time below which points outside the grid do not make the whole `derived`
)


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
        " below"
        f" proportion to +{OUTSIDE_UPPER:.0%})",
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


@dataclass(frozen=True, slots=True)
class BoundedTime:
    """A time with bounds (lower_us <= us <= upper_us), and the least direct source of its parts."""

    us: float
    lower_us: float
    upper_us: float
    source: str

    def derived(self, spread: float, *, upper: float | None = None) -> BoundedTime:
        """The same value under a rule that widens the bounds by `spread` (upwards by `upper` if
        given).
        """
        up = spread if upper is None else upper
        return replace(
            self,
            lower_us=self.lower_us * (1 - spread),
            upper_us=self.upper_us * (1 + up),
            source="derived",
        )

    def times(self, factor: float) -> BoundedTime:
        """`factor` of these one after another."""
        return BoundedTime(
            self.us * factor, self.lower_us * factor, self.upper_us * factor, self.source
        )


def source_of(rows: pd.DataFrame) -> str:
    """The least direct source among rows that answer together."""
    return max(map(str, rows["source"].unique()), key=SOURCES.index)


def from_grid(us: np.ndarray, ruled: np.ndarray, source: str) -> BoundedTime:
    """The mean over all points of `LogGrid.at`, with wider bounds where a point needed a rule. The
    whole is `derived` if these take more than NEGLIGIBLE of the time (context 1 of 8192, where 2 is
    the shortest measured)."""
    us, ruled = us.reshape(-1, 3), ruled.reshape(-1)
    wider = np.where(ruled[:, None], [1, 1 - OUTSIDE_SPREAD, 1 + OUTSIDE_UPPER], 1.0)
    mean = (us * wider).mean(axis=0)
    by_rule = us[ruled, 0].sum() > NEGLIGIBLE * us[:, 0].sum()
    return BoundedTime(
        float(mean[0]), float(mean[1]), float(mean[2]), "derived" if by_rule else source
    )


def around(us: float, width: float, source: str = "derived") -> BoundedTime:
    """A time, which may be negative, with bounds that are a share of it wide."""
    lower, upper = sorted((us * (1 - width), us * (1 + width)))
    return BoundedTime(us, lower, upper, source)
