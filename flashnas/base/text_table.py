"""Records under each other, as a table of text."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from flashnas.base.text import MISSING, columns, number


class _TableFormatter(string.Formatter):
    """Format strings in which None is a dash, with a conversion `n`."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if value is None:
            return MISSING
        return number(value) if conversion == "n" else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        return value if value == MISSING else super().format_field(value, format_spec)


def table(records: Iterable[Mapping[str, Any]], cells: Mapping[str, str]) -> str:
    """Records under each other, one a line.

    Args:
        records: values by name.
        cells: heading -> what a cell shows of a record, as a format string: `{loss:.3f}`, also
            `{count!n}` (number). None is a dash. Headings that begin with `<` are of text; the
            others of numbers.
    """
    write = _TableFormatter().vformat
    lines = [[write(cell, (), record) for cell in cells.values()] for record in records]
    left = [place for place, heading in enumerate(cells) if heading.startswith("<")]
    return "\n".join(columns([[heading.removeprefix("<") for heading in cells], *lines], left))
