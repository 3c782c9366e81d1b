"""What is left of recall: how often a probe's value is still found, from what values lose.

Whether a probe is hit is 0 or 1, and the layers that seem to cost nothing are those in which chance
was kind. How much the log-probability of its value falls tells layers apart with few probes, and
adds up over the layers of a set. How often values that have lost so much are still found is learnt
from sets that are measured, with its error on prompts that the sets were not chosen by.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.optimize import minimize_scalar

from flashnas.base.text import INTERVAL_90

MOST_SLOPE = 10.0  # of the logarithm of the share, per nat


@dataclass(frozen=True)
class RecallLaw:
    """Share of the recall that is left = exp(-slope x nats that values lose). error: standard
    deviation of its `angle` on prompts that nothing was chosen by."""

    slope: float = 1.0
    error: float = 0.0

    @classmethod
    def fit(cls, lost: np.ndarray, left: np.ndarray) -> Self:
        """From nats that values lose and the shares that are left, of the same layouts [S]."""

        def square(slope: float) -> float:
            return float(np.mean((angle(np.exp(-slope * lost)) - angle(left)) ** 2))

        found = minimize_scalar(square, bounds=(0, MOST_SLOPE), method="bounded")
        return cls(float(found.x), float(np.sqrt(found.fun)))

    def predict(self, lost: float) -> tuple[float, float, float]:
        """The share that is left, and both ends of its 90 % interval."""
        share = np.exp(-self.slope * lost)
        wide = INTERVAL_90 * self.error
        low, high = np.sin(np.clip(angle(share) + np.array([-wide, wide]), 0, np.pi / 2)) ** 2
        return float(share), float(low), float(high)

    def most_lost(self, floor: float) -> float:
        """Slope x nats that values may lose, so that the lower end of the interval keeps a floor;
        less than 0 where it cannot."""
        needed = angle(floor) + INTERVAL_90 * self.error
        return float(-2 * np.log(np.sin(needed))) if needed <= np.pi / 2 else -1.0


def angle(share: np.ndarray | float) -> np.ndarray:
    """The arc sine of the root: by chance, shares differ alike in it near 1 and elsewhere."""
    return np.arcsin(np.sqrt(share))
