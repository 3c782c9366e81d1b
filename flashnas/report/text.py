"""Numbers as text, with thousands separators and units; a dash for missing ones. No plotting library."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

from flashnas.base import hints

MISSING = "–"  # noqa: RUF001 - an en dash for a number that is not known


def known(value: Any) -> TypeGuard[float]:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 4, unit: str = "") -> str:
    """`12,345 ms`; an en dash for a number that is not known."""
    if not known(value):
        return MISSING
    text = f"{value:,.0f}" if abs(value) >= 10 ** (digits - 1) else f"{value:.{digits}g}"
    return f"{text} {unit}".rstrip()


def parameters(value: Any) -> str:
    """`0.964 B`, `87.1 M` parameters."""
    if not known(value):
        return MISSING
    return f"{value / 1e9:.3f} B" if value >= 1e8 else f"{value / 1e6:.1f} M"


def duration(seconds: Any) -> str:
    """`1 h 02 min`, `11 min 40 s`, `8.2 s`; an en dash for a number that is not known."""
    return hints.duration(seconds, decimals=1) if known(seconds) else MISSING
