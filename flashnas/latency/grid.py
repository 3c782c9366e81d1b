"""Log-space interpolation on a grid of measured rows, and what happens outside it.

Rows of one kind are points of a grid, such as m x n x k. Between grid points the logarithm of the
time is interpolated linearly in the logarithms of the sizes, so that every product of powers of the
sizes is reproduced exactly. Outside the grid, and in cells that nobody measured, a rule answers.

scipy's RegularGridInterpolator computes the same inside the grid. It has no rules outside, does not
say which points needed one, and takes 0.33 s to import.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from flashnas.latency.calibration import SOURCE_SPREAD, BoundedTime
from flashnas.latency.schema import SOURCES

# Beyond the largest measured value of an axis the time grows along a straight line through the
# largest one and the largest of at most half its size, at most in proportion: a kernel costs a
# launch, and then so much for each unit of work. Up to this many times the largest value,
# OTHER_REACH on axes that are not named here. Rows and sequences do not depend on each other, and
# an engine cuts a large batch into pieces: they have no limit.
REACH = {"m": math.inf, "n": 16, "k": 16, "batch": math.inf, "tokens": 16, "context": 16}
OTHER_REACH = 4


# Widths of the rules, set so that at least nine of ten rows that a rule did not use lie inside its
# bounds on each of the shipped tables (experiments/serving/rule_coverage.py): a point outside the grid, or a
# cell that was not measured, on top of what the grid says:
OUTSIDE_SPREAD = 0.25
OUTSIDE_UPPER = 0.60  # further up, because a kernel that leaves a cache grows faster than its work
HEADS_SPREAD = 0.40  # attention with numbers of heads between measured ones
# share of the time below which points outside the grid do not make the whole `derived`
NEGLIGIBLE = 0.01


@dataclass(frozen=True)
class Axis:
    """One size that varies over a grid: the measured values, ascending. power: the work grows with
    this power of the size: 1, or 2 for causal attention over tokens. reach: the largest multiple of
    the largest value; beyond it there is no answer."""

    name: str
    values: np.ndarray
    power: int = 1
    reach: float = 1

    def fit(self, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For sizes of any shape: the nearest size inside the grid (NaN: no answer), and their
        multiples of it."""
        inside = np.clip(sizes, self.values[0], self.values[-1])
        return np.where(sizes <= self.reach * self.values[-1], inside, np.nan), sizes / inside

    def place(self, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of sizes inside the grid: the index of the nearest value that is not larger, but for the
        last one, and how far each is from it to the next value in log space."""
        if len(self.values) == 1:
            return np.zeros(inside.shape, int), 0.0 * inside
        low = np.searchsorted(self.values[1:-1], inside, side="right")
        return low, np.log(inside / self.values[low]) / self._log_steps[low]

    @cached_property
    def _log_steps(self) -> np.ndarray:
        return np.log(self.values[1:] / self.values[:-1])

    @cached_property
    def half(self) -> float:
        """The largest size of at most half the largest: far enough from it that noise does not set
        the slope."""
        smaller = self.values[2 * self.values <= self.values[-1]]
        return float(smaller[-1] if len(smaller) else self.values[0])

    def growth(self, times: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How many times as long as the largest size a larger one takes: along the line through
        `half` and the largest, at most in proportion; and the most that it takes: in proportion, or
        along a steeper line. times: as a multiple of the largest size. share: time of `half` as a
        share of that of the largest."""
        work = times**self.power
        if len(self.values) == 1:
            return work + 0 * share, work + 0 * share
        slope = (1 - share) / (1 - (self.half / self.values[-1]) ** self.power)
        return 1 + np.clip(slope, 0.0, 1.0) * (work - 1), 1 + np.maximum(slope, 1.0) * (work - 1)


class LogGrid:
    """Times over the product of some axes. us: [*axes, 3], microseconds: median, p10, p90.
    inferred: [*axes], cells that nobody measured. source: the least direct one of its rows."""

    def __init__(
        self, axes: Sequence[Axis], us: np.ndarray, inferred: np.ndarray, source: str
    ) -> None:
        self.axes, self.source = tuple(axes), source
        self._log_us = np.log(us)  # [..., 3]: median, p10, p90
        self._inferred = inferred

    @classmethod
    def from_rows(
        cls, rows: pd.DataFrame, names: Sequence[str], *, grow: str, tokens_power: int = 1
    ) -> LogGrid:
        """A grid over all measured values of some columns. The bounds are at least SOURCE_SPREAD wide,
        and so wide where p10 and p90 are null.

        Args:
            grow: the axis along which cells that nobody measured (mostly too large for the device)
                follow: twice its value takes twice the time, and at least as long as the line
                through the two largest says. Where only larger values were measured, the next
                larger one answers.
            tokens_power: of the axis `tokens`.
        """
        axes = [
            Axis(
                name,
                np.unique(rows[name].to_numpy(float)),
                tokens_power if name == "tokens" else 1,
                REACH.get(name, OTHER_REACH),
            )
            for name in names
        ]
        source = max(map(str, rows["source"].unique()), key=SOURCES.index)
        spread = SOURCE_SPREAD[source]
        us = np.full([*(len(axis.values) for axis in axes), 3], np.nan)
        cells = tuple(
            np.searchsorted(axis.values, rows[axis.name].to_numpy(float)) for axis in axes
        )
        median = rows["latency_us"].to_numpy(float)
        low = rows["p10_us"].astype(float).to_numpy()
        high = rows["p90_us"].astype(float).to_numpy()
        us[cells] = np.stack(
            [median, np.fmin(low, median * (1 - spread)), np.fmax(high, median * (1 + spread))], -1
        )
        inferred = np.isnan(us[..., 0])
        along = [axis.name for axis in axes].index(grow)
        moved, values = np.moveaxis(us, along, 0), axes[along].values
        for i in range(1, len(values)):
            line = Axis(grow, values[max(i - 2, 0) : i])
            share = moved[i - 2, ..., 1:2] / moved[i - 1, ..., 1:2] if i > 1 else np.zeros(1)
            times = np.full_like(share, values[i] / values[i - 1])
            least, _ = line.growth(times, np.nan_to_num(share))
            moved[i] = np.where(
                np.isnan(moved[i]),
                moved[i - 1] * np.concatenate([times, least, times], -1),
                moved[i],
            )
        for i in range(len(values) - 2, -1, -1):
            # only larger ones measured: no smaller one takes longer
            moved[i] = np.where(np.isnan(moved[i]), moved[i + 1], moved[i])
        return cls(axes, us, inferred, source)

    def at(self, **sizes: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The times at some points: a size, or an array of sizes, for each axis, which broadcast to
        [...].

        Returns us [..., 3]: median, p10 and p90 in microseconds, NaN where there is no answer; and
        ruled [...]: whether a point lay outside the grid or used an inferred cell. Beyond the
        largest size p90 grows in proportion, or along a steeper line. Below the smallest size the
        smallest answers, and p10 falls in proportion.
        """
        fitted = [axis.fit(np.asarray(sizes[axis.name], float)) for axis in self.axes]
        inside, times = [point for point, _ in fitted], [times for _, times in fitted]
        us, ruled = self._inside(inside)
        within = us[..., 0]
        for i, axis in enumerate(self.axes):
            ruled = ruled | (times[i] != 1)
            more = np.maximum(times[i], 1.0)
            growth, most = more, more
            if (more > 1).any():
                second = np.where(more > 1, axis.half, inside[i])
                below, used = self._inside([*inside[:i], second, *inside[i + 1 :]])
                (growth, most), ruled = axis.growth(more, below[..., 0] / within), ruled | used
            us = us * np.stack(
                np.broadcast_arrays(growth, growth * np.minimum(times[i], 1), most), -1
            )
        return us, ruled

    def _inside(self, points: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Times at points inside the grid [..., 3], and which used an inferred cell [...]."""
        shape = np.broadcast_shapes(*(point.shape for point in points))
        ruled = np.zeros(shape, bool)
        # of each axis one or two neighbours: their indices and shares
        neighbours = []
        for axis, point in zip(self.axes, points, strict=True):
            low, weight = axis.place(point)
            between = weight.any()  # true of NaN
            last = len(axis.values) - 1
            high = [(np.minimum(low + 1, last), weight)] if between else []
            neighbours.append([(low, 1 - weight), *high])
        log_us = np.zeros((*shape, 3))
        for corner in itertools.product(*neighbours):
            share = functools.reduce(np.multiply, (weight for _, weight in corner))
            used = share != 0  # true of NaN
            if not used.any():
                continue
            cell = tuple(index for index, _ in corner)
            log_us += np.where(used[..., None], share[..., None] * self._log_us[cell], 0.0)
            ruled |= used & self._inferred[cell]
        return np.exp(log_us), ruled

    def mean(self, us: np.ndarray, ruled: np.ndarray) -> BoundedTime:
        """Over all points of `at`, with wider bounds where a point needed a rule. The whole is
        `derived` if these take more than NEGLIGIBLE of the time (context 1 of 8192, where 2 is the
        shortest measured)."""
        us, ruled = us.reshape(-1, 3), ruled.reshape(-1)
        wider = np.where(ruled[:, None], [1, 1 - OUTSIDE_SPREAD, 1 + OUTSIDE_UPPER], 1.0)
        by_rule = us[ruled, 0].sum() > NEGLIGIBLE * us[:, 0].sum()
        median, low, high = (us * wider).mean(axis=0).tolist()
        return BoundedTime(median, low, high, "derived" if by_rule else self.source)


def bracket(values: Sequence[int], size: float) -> list[tuple[int, float]] | None:
    """The neighbours of a size among ascending values, with log-space weights; None outside
    them.
    """
    if not values or not values[0] <= size <= values[-1]:
        return None
    if size in values:
        return [(int(size), 1.0)]
    i = int(np.searchsorted(values, size))
    below, above = values[i - 1], values[i]
    weight = float(np.log(size / below) / np.log(above / below))
    return [(below, 1 - weight), (above, weight)]
