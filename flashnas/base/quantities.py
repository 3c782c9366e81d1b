"""Numbers with a unit behind them, as people write them: 350M parameters, 100B tokens. No heavy
imports.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

UNITS = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
MAX_TOKENS = 10**15  # whole numbers up to here are exact as floats, too
# of two options that several commands have
TRAIN_TOKENS_HELP = "tokens of the full training that you plan, such as 100B"
EVIDENCE_HELP = "CSV of your own full trainings, one publication more; predictions are then for it"


def number_of(text: str, units: Mapping[str, int] = UNITS) -> float:
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
        number = float(digits) * units[unit]
    except ValueError:
        return math.nan
    return number if 0 < number < math.inf else math.nan


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
        raise ValueError(f"must be a range such as 0.3B..3B, 0.3B.. or ..3B; got {text!r}")
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
