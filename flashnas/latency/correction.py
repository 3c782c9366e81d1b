"""What both corrections from rows to whole models share: named constants of at least 0, read from meta.yaml."""

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


def check_constant(place: str, value: Any) -> None:
    """Raises TableError unless the value is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not (math.isfinite(value) and value >= 0):
        raise TableError(f"{place} must be a number of at least 0; got {value!r}")
