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

from flashnas.training.teacher_text import half_width, student_t

MOST_SLOPE = 10.0  # of the logarithm of the share, per nat


@dataclass(frozen=True)
class RecallLaw:
    """Share of the recall that is left = exp(-slope x nats that values lose). error: standard
    deviation of the errors on layouts that were measured, in `angle`. half: of the 90 % interval, which has
    another draw of as many prompts in it."""

    slope: float = 1.0
    error: float = 0.0
    half: float = 0.0

    @classmethod
    def fit(cls, lost_S: np.ndarray, left_S: np.ndarray, recalled_SP: np.ndarray) -> Self:
        """From layouts: the nats that values lose, the share that is left on prompts that a layout
        was not chosen by, and the shares on all prompts."""

        def squares(slope: float, left_S: np.ndarray = left_S) -> float:
            return float(np.sum((angle(np.exp(-slope * lost_S)) - angle(left_S)) ** 2))

        slope = float(minimize_scalar(squares, bounds=(0, MOST_SLOPE), method="bounded").x)
        error = float(np.sqrt(squares(slope, recalled_SP.mean(1)) / max(len(lost_S) - 1, 1)))
        # the prompts of a draw are hard or easy for all layouts: on those that were measured, and
        # on those to come; one prompt says nothing of that
        draw = half_width(angle(recalled_SP.mean(0))) if recalled_SP.shape[1] > 1 else np.pi / 2
        return cls(slope, error, float(np.hypot(student_t(len(lost_S)) * error, 2**0.5 * draw)))

    def predict(self, lost: float) -> tuple[float, float, float]:
        """The share that is left, and both ends of its 90 % interval."""
        share = np.exp(-self.slope * lost)
        ends = angle(share) + np.array([-self.half, self.half])
        low, high = np.sin(np.clip(ends, 0, np.pi / 2)) ** 2
        return float(share), float(low), float(high)

    def most_lost(self, floor: float) -> float:
        """Slope x nats that values may lose, so that the lower end of the interval keeps a floor;
        less than 0 where it cannot."""
        needed = angle(floor) + self.half
        return float(-2 * np.log(np.sin(needed))) if needed <= np.pi / 2 else -1.0


def angle(share: np.ndarray | float) -> np.ndarray:
    """The arc sine of the root: by chance, shares differ alike in it near 1 and elsewhere."""
    return np.arcsin(np.sqrt(share))
