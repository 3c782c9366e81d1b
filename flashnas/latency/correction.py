"""What both corrections from rows to whole models share: named constants, read from meta.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from flashnas.base.errors import TableError


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Constants that turn times of rows into the time of a whole model. The fields of a subclass are the constants;
    their defaults correct nothing."""

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The constants, in order."""
        return tuple(field.name for field in fields(cls))

    @classmethod
    def read(cls, *entries: Mapping[str, Any]) -> Self:
        """From mappings that were checked when the table was loaded (calibration.py); a later entry overrides."""
        return cls(**{name: float(entry[name]) for entry in entries for name in cls.names() if name in entry})

    def to_dict(self) -> dict[str, float]:
        """Ready for meta.yaml."""
        return {name: round(float(getattr(self, name)), 5) for name in self.names()}


TIMED_ALONE = ("cuda_graph",)   # modes whose rows are of operators alone: operator_us may be negative


def check_constant(place: str, value: Any, *, any_sign: bool = False) -> None:
    """Raises TableError unless the value is a finite number of at least 0, or of any sign."""
    number = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    if not number or (value < 0 and not any_sign):
        raise TableError(f"{place} must be a number{'' if any_sign else ' of at least 0'}; got {value!r}")
