"""Numbers as text, with a dash for missing ones; columns."""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Sequence
from typing import Any, TypeGuard

from flashnas.base import hints
from flashnas.base.hints import printable

INTERVAL_90 = 1.645  # standard deviations on each side
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


def counted(count: int, noun: str) -> str:
    """`1 network`, `2 networks`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def shortened(text: str, length: int) -> str:
    """Cut with an ellipsis where it is longer."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def flat(data: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested mappings by their names with dots: `space.name`."""
    if isinstance(data, dict) and data:
        for key, value in data.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, data


def signed(value: float, digits: int = 3) -> str:
    """`+0.020`; `0.000` without a sign."""
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


def with_interval(value: float, sd: float, digits: int = 3) -> str:
    """`+0.020 ± 0.087`: the 90 % interval of a standard deviation, as everywhere in reports."""
    return f"{signed(value, digits)} ± {INTERVAL_90 * sd:.{digits}f}"


def columns(lines: Sequence[Sequence[str]], left: Container[int] = ()) -> list[str]:
    """Lines of cells under each other, two spaces apart; the last column is left as it is.

    Args:
        lines: the header and the rows.
        left: columns of text; the others hold numbers and end under each other.
    """
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][:-1]
    return [
        "  ".join(
            [
                *(
                    cell.ljust(width)
                    if column in left or column - len(widths) - 1 in left
                    else cell.rjust(width)
                    for column, (cell, width) in enumerate(zip(line, widths, strict=False))
                ),
                line[-1],
            ]
        ).rstrip()
        for line in lines
    ]


def names_text(names: Sequence[str]) -> str:
    """`P1`, `P1 and P3`, `P1, P3 to P6 and P9`: names with numbers that follow each other are
    joined.
    """
    runs: list[list[str]] = []
    for name in names:
        if runs and name[1:].isdigit() and runs[-1][-1][1:] == str(int(name[1:]) - 1):
            runs[-1].append(name)
        else:
            runs.append([name])
    parts = [
        part for each in runs for part in ([f"{each[0]} to {each[-1]}"] if len(each) > 2 else each)
    ]
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1]))) if parts else ""
