"""Texts for people: messages, numbers with their units, lines of a table. No heavy imports."""

from __future__ import annotations

import difflib
import math
import os
import re
import string
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeGuard

SHOWN_CHARACTERS = 120  # of a wrong value in a message
INTERVAL_90 = 1.645  # standard deviations on each side
MISSING = "–"  # noqa: RUF001 - an en dash for a number that is not known
UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MAX_TOKENS = 10**15  # whole numbers up to here are exact as floats, too
# of two options that several commands have
TRAIN_TOKENS_HELP = "tokens of the full training that you plan, such as 100B"
TIMES_HELP = (
    "times of one program, which correct the milliseconds: a results file of vLLM or"
    " llama-bench, a CSV, or a folder of these; may be repeated"
)
EVIDENCE_HELP = "CSV of your own full trainings, one publication more; predictions are then for it"


# -- messages --------------------------------------------------------------------------------------


def did_you_mean(value: object, allowed: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the allowed value that is near, or of which this one is a part, or an
    empty string. Case and the dashes of flags do not count."""
    if len(str(value)) > SHOWN_CHARACTERS:
        return ""
    text, names = (
        str(value).lower().strip("-"),
        {str(name).lower().strip("-"): name for name in allowed},
    )
    close = difflib.get_close_matches(text, names, n=1, cutoff=0.65)
    close = close or [name for name in names if text in name and len(text) > 2]
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def one_of(place: str, value: object, allowed: Iterable[str]) -> str:
    """The one line for a value outside a closed list."""
    allowed = list(allowed)
    return f"{place} must be one of {', '.join(allowed)}; got {shown(value)}{did_you_mean(value, allowed)}"


def has_no(owner: str, noun: str, name: object, allowed: Iterable[str]) -> str:
    """The one line for a name that does not exist: `recipe has no option 'token' (did you mean ..`."""
    allowed = list(allowed)
    listed = ", ".join(allowed) or "none"
    return f"{owner} has no {noun} {shown(name)}{did_you_mean(name, allowed)}; allowed: {listed}"


def shown(value: Any) -> str:
    """A wrong value in a message: as Python writes it, cut where it is long."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):
        value = value[: SHOWN_CHARACTERS + 1]
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # of a whole number with thousands of digits
        text = "a number of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}.."


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`seed is 1, but 0 is asked`: the first entry in which two records differ; empty where none does."""
    for name in dict.fromkeys([*now, *before]):
        if before.get(name) != now.get(name):
            return f"{name} is {shown(before.get(name))}, but {shown(now.get(name))} is asked"
    return ""


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its class where it says nothing."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0])


def first_sentence(text: str) -> str:
    """The first sentence of a docstring or comment, without its full stop."""
    return re.split(r"(?<=[\w)\]`])\.(?:\s|$)", " ".join(text.partition("\n\n")[0].split()))[0]


def printable(text: object) -> str:
    """Foreign text for one line of a terminal: control characters, line ends included, as Python
    escapes them."""
    text = os.fspath(text) if isinstance(text, os.PathLike) else str(text)
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def duration(seconds: Any) -> str:
    """`45 s`, `3 min 20 s`, `2 h 05 min`. An en dash for a number that is not known."""
    if not is_number(seconds):
        return MISSING
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def warn_in_a_line(text: str) -> None:
    """Warn of what is left out, read otherwise or slow; the same line once in a process."""
    warnings.warn_explicit(text, UserWarning, "flashnas", 0, registry=_SAID)


_SAID: dict[Any, Any] = {}

# -- numbers with units, which people write --------------------------------------------------------


def plain_number(text: str, kind: type[int] | type[float] = float) -> Any:
    """`kind(text)` of ASCII digits without underscores, spaces, a plus sign or an open point; ValueError
    for any other text."""
    if not text.isascii() or re.search(r"[_\s]|^\+|\.$", text):
        raise ValueError(f"must be a number; got {shown(text)}")
    return kind(text)


def number_of(text: str, units: Mapping[str, float] = UNITS) -> float:
    """The number above 0 that a text is, with one of the units behind it or none; NaN for any other
    text.

    Example:
        >>> number_of("0.35B"), number_of("350"), number_of("large")
        (350000000.0, 350.0, nan)
    """
    text = text.strip()
    digits, unit = (
        (text[:-1], text[-1].upper()) if text and text[-1].upper() in units else (text, "")
    )
    try:
        number = plain_number(digits) * units[unit]
    except ValueError:
        return math.nan
    return float(f"{number:.15g}") if 0 < number < math.inf else math.nan


def range_of(text: str) -> tuple[float, float]:
    """The limits that a text such as 0.3B..3B, 0.3B.. or ..3B names.

    Raises:
        ValueError: with the rule and the value.

    Example:
        >>> range_of("0.3B..3B"), range_of("..1B")
        ((300000000.0, 3000000000.0), (0.0, 1000000000.0))
    """
    least, dots, most = text.partition("..")
    low = number_of(least) if least.strip() else 0.0
    high = number_of(most) if most.strip() else math.inf
    if not dots or not low <= high or (low, high) == (0.0, math.inf):
        hint = f" (did you mean {most}..{least}?)" if low > high else ""
        raise ValueError(f"must be a range such as 0.3B..3B, 0.3B.. or ..3B; got {text!r}{hint}")
    return low, high


def tokens_of(value: str | float) -> float:
    """Training tokens from a number or a text such as 100B.

    Raises:
        ValueError: with the rule and the value, such as `must be .. ; got 'many'`.

    Example:
        >>> tokens_of("100B"), tokens_of(2e9)
        (100000000000.0, 2000000000.0)
    """
    tokens = number_of(value) if isinstance(value, str) else float(value)
    if not 1 <= tokens <= MAX_TOKENS:
        raise ValueError(f"must be a number of tokens from 1 to 1000T, such as 100B; got {value!r}")
    return tokens


def tokens_text(tokens: float) -> str:
    """A number with its unit, to three digits, which `tokens_of` reads: 100B."""
    rounded = float(f"{tokens:.3g}")
    unit = max(
        (unit for unit, size in UNITS.items() if rounded >= size), key=UNITS.__getitem__, default=""
    )
    return f"{rounded / UNITS[unit]:g}{unit}"


# -- numbers to read --------------------------------------------------------------------------------


def is_number(value: Any) -> TypeGuard[float]:
    """True for a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def number(value: Any, digits: int = 4, unit: str = "") -> str:
    """`12,345 ms`, `0.0000183`, never with an exponent; an en dash for a number that is not
    known."""
    if not is_number(value):
        return MISSING
    text = (
        f"{value:,.0f}"
        if abs(value) >= 10 ** (digits - 1)
        else f"{Decimal(f'{value:.{digits}g}'):f}"
    )
    return f"{text} {unit}".rstrip()


def fixed(value: Any, digits: int = 3) -> str:
    """`4.389`; an en dash for a number that is not known."""
    return f"{value:.{digits}f}" if is_number(value) else MISSING


def parameters(value: Any) -> str:
    """`0.964 B`, `87.1 M` parameters."""
    if not is_number(value):
        return MISSING
    return f"{value / 1e9:.3f} B" if value >= 1e8 else f"{value / 1e6:.1f} M"


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
    padded: list[Sequence[str]] = []
    last = len(lines[0]) - 1
    for place, column in enumerate(zip(*lines, strict=True)):
        cells = [printable(cell) for cell in column]
        width = max(map(len, cells))
        if place != last:
            is_text = place in left or place - last - 1 in left
            cells = [cell.ljust(width) if is_text else cell.rjust(width) for cell in cells]
        padded.append(cells)
    return ["  ".join(line).rstrip() for line in zip(*padded, strict=True)]


def names_text(names: Sequence[str]) -> str:
    """`P1`, `P1 and P3`, `P1, P3 and P4`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


# -- sources of texts -------------------------------------------------------------------------------


def without_folders(source: str) -> str:
    """A source as it is called from any folder: files and folders by their own names."""
    return "+".join(part if ":" in part else Path(part).name for part in source.split("+"))


def from_hub(source: str | None) -> bool:
    """True if `read_corpus` of this source connects to the Hugging Face hub."""
    return source is not None and any(part.startswith("hf:") for part in source.split("+"))


# -- records under each other ----------------------------------------------------------------------


class _TableFormatter(string.Formatter):
    """Format strings in which None is a dash."""

    def format_field(self, value: Any, format_spec: str) -> Any:
        return MISSING if value is None else super().format_field(value, format_spec)


def table(records: Iterable[Mapping[str, Any]], cells: Mapping[str, str]) -> str:
    """Records under each other, one a line.

    Args:
        records: values by name.
        cells: heading -> what a cell shows of a record, as a format string: `{loss:.3f}`.
            None is a dash. Headings that begin with `<` are of text; the
            others of numbers.
    """
    write = _TableFormatter().vformat
    lines = [[write(cell, (), record) for cell in cells.values()] for record in records]
    left = [place for place, heading in enumerate(cells) if heading.startswith("<")]
    return "\n".join(columns([[heading.removeprefix("<") for heading in cells], *lines], left))
