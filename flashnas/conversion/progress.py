"""How much of a conversion is measured, and how long the rest takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

ShowProgress = Callable[[int, int, float], None]  # measurements done, of all, seconds left


@dataclass
class MeasuringProgress:
    """planned: measurements. left: passes through the whole network that they take. The clock runs
    from the model's own pass on."""

    show_progress: ShowProgress
    planned: int
    left: float
    worked: float = 1.2  # the model's own pass, which also finds the columns that matter
    done: int = 0
    started: float = field(default_factory=lambda: time.monotonic())

    @property
    def pass_s(self) -> float:
        return (time.monotonic() - self.started) / self.worked

    def advance(self, passes: float, known: bool) -> None:
        """One more measurement is there; a known one took no time."""
        self.done += 1
        self.left -= passes
        self.worked += 0 if known else passes
        left = max(self.left, 0.0) if self.done < self.planned else 0.0
        self.show_progress(self.done, self.planned, self.pass_s * left)
