"""Records under each other, as a table of text."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

from flashnas.base.text import MISSING, columns, number, parameters, tokens_text


class _TableFormatter(string.Formatter):
    """Format strings in which None is a dash, with conversions of their own."""

    conversions: ClassVar[Mapping[str, Callable[[Any], str]]] = {
        "n": number,
        "p": parameters,
        "t": tokens_text,
    }

    def convert_field(self, value: Any, conversion: Any) -> Any:
        if value is None:
            return MISSING
        own = self.conversions.get(conversion)
        return own(value) if own else super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        return value if value == MISSING else super().format_field(value, format_spec)


def table(records: Iterable[Mapping[str, Any]], cells: Mapping[str, str]) -> str:
    """Records under each other, one a line.

    Args:
        records: values by name.
        cells: heading -> what a cell shows of a record, as a format string: `{loss:.3f}`, also
            `{params!p}` (parameters), `{tokens!t}` (tokens) and `{count!n}` (number). None is a
            dash. Headings that begin with `<` are of text; the others of numbers.
    """
    write = _TableFormatter().vformat
    lines = [[write(cell, (), record) for cell in cells.values()] for record in records]
    left = [place for place, heading in enumerate(cells) if heading.startswith("<")]
    return "\n".join(columns([[heading.removeprefix("<") for heading in cells], *lines], left))
