"""Log-space interpolation on a grid of measured rows, and what happens outside it.

Rows of one kind are points of a grid, such as m x n x k. Between grid points the logarithm of the time is interpolated
linearly in the logarithms of the sizes, so that every product of powers of the sizes is reproduced exactly. Outside the
grid, and in cells that nobody measured, a rule answers: the result states it (`ruled`), and its bounds are wider.

scipy's RegularGridInterpolator computes the same inside the grid. It has no rules outside, does not say which points
needed one, and takes 0.33 s to import.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# Beyond the largest measured value of an axis the work is cut into equal pieces inside the grid, which run one after
# another: at most this many pieces, OTHER_PIECES on axes that are not named here. Rows and sequences do not depend on
# each other, and an engine cuts a large batch in the same way: their pieces have no limit.
PIECES = {"m": math.inf, "n": 16, "k": 16, "batch": math.inf, "tokens": 16, "context": 16}
OTHER_PIECES = 4


@dataclass(frozen=True)
class Axis:
    """One size that varies over a grid.

    Args:
        name: column of the rows.
        values: measured sizes, ascending.
        power: n pieces take n^power times as long as one: 1, or 2 for causal attention over tokens.
        pieces: the largest n; beyond it there is no answer. Below the smallest measured size, the smallest answers.
    """

    name: str
    values: np.ndarray
    power: int = 1
    pieces: float = 1

    def fit(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The sizes as points of the grid.

        Args:
            asked: sizes, any shape.

        Returns:
            Three arrays of that shape: the size inside the grid (NaN: no answer), the factor on its time, and whether
            the size was outside.
        """
        low, high = float(self.values[0]), float(self.values[-1])
        pieces = np.maximum(np.ceil(asked / high), 1.0)
        inside = np.maximum(asked / pieces, low)
        return np.where(pieces <= self.pieces, inside, np.nan), pieces**self.power, (asked < low) | (asked > high)


class LogGrid:
    """Times over the product of some axes.

    Args:
        axes: one for each dimension of the grid.
        us: [*axes, 3], microseconds: median, p10, p90.
        inferred: [*axes], cells that nobody measured; see `from_rows`.
    """

    def __init__(self, axes: Sequence[Axis], us: np.ndarray, inferred: np.ndarray) -> None:
        self.axes = tuple(axes)
        self._log_us = np.log(us)  # [..., 3]: median, p10, p90
        self._inferred = inferred

    @classmethod
    def from_rows(cls, rows: pd.DataFrame, names: Sequence[str], *, grow: str, spread: float,
                  tokens_power: int = 1) -> LogGrid:
        """A grid over all measured values of some columns.

        Args:
            rows: with these columns and latency_us, p10_us, p90_us.
            names: columns that become axes.
            grow: the axis along which cells that nobody measured (mostly too large for the device) are inferred: twice
                its value takes twice the time. Where only larger values were measured, the next larger one answers.
            spread: half-width of the bounds, relative, where p10 and p90 are null; the least one where they are not.
            tokens_power: of the axis `tokens`.
        """
        axes = [Axis(name, np.unique(rows[name].to_numpy(float)), tokens_power if name == "tokens" else 1,
                     PIECES.get(name, OTHER_PIECES)) for name in names]
        us = np.full([*(len(axis.values) for axis in axes), 3], np.nan)
        cells = tuple(np.searchsorted(axis.values, rows[axis.name].to_numpy(float)) for axis in axes)
        median = rows["latency_us"].to_numpy(float)
        low = rows["p10_us"].astype(float).to_numpy()
        high = rows["p90_us"].astype(float).to_numpy()
        us[cells] = np.stack([median, np.fmin(low, median * (1 - spread)), np.fmax(high, median * (1 + spread))], -1)
        inferred = np.isnan(us[..., 0])
        along = [axis.name for axis in axes].index(grow)
        moved, values = np.moveaxis(us, along, 0), axes[along].values
        for i in range(1, len(values)):
            moved[i] = np.where(np.isnan(moved[i]), moved[i - 1] * values[i] / values[i - 1], moved[i])
        for i in range(len(values) - 2, -1, -1):  # only larger ones measured: no smaller one takes longer
            moved[i] = np.where(np.isnan(moved[i]), moved[i + 1], moved[i])
        return cls(axes, us, inferred)

    def at(self, **asked: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The times at some points.

        Args:
            asked: a size, or an array of sizes, for each axis; together they broadcast to [...].

        Returns:
            us [..., 3]: median, p10 and p90 in microseconds, NaN where there is no answer; and ruled [...]: whether a
            point lay outside the grid or used an inferred cell.
        """
        fitted = [axis.fit(np.asarray(asked[axis.name], float)) for axis in self.axes]
        shape = np.broadcast_shapes(*(inside.shape for inside, _, _ in fitted))
        ruled = np.zeros(shape, bool)
        factor = np.ones(shape)
        low, weight = [], []
        for axis, (inside, grown, outside) in zip(self.axes, fitted, strict=True):
            factor, ruled = factor * grown, ruled | outside
            i = np.clip(np.searchsorted(axis.values, np.nan_to_num(inside, nan=axis.values[0]), side="right") - 1, 0,
                        max(len(axis.values) - 2, 0))
            j = np.minimum(i + 1, len(axis.values) - 1)
            span = np.log(axis.values[j] / axis.values[i])
            low.append(i)
            weight.append(np.where(span > 0, np.log(inside / axis.values[i]) / np.where(span > 0, span, 1.0),
                                   0.0 * inside))
        log_us = np.zeros((*shape, 3))
        for corner in itertools.product((0, 1), repeat=len(self.axes)):
            share = np.ones(shape)
            for up, w in zip(corner, weight, strict=True):
                share = share * (w if up else 1 - w)
            used = share != 0  # true of NaN
            if not used.any():
                continue
            cell = tuple(np.minimum(i + up, len(axis.values) - 1)
                         for axis, i, up in zip(self.axes, low, corner, strict=True))
            log_us += np.where(used[..., None], share[..., None] * self._log_us[cell], 0.0)
            ruled |= used & self._inferred[cell]
        return np.exp(log_us) * factor[..., None], ruled


def bracket(values: Sequence[int], asked: float) -> list[tuple[int, float]] | None:
    """The one or two neighbours of `asked` among ascending values, with log-space weights; None outside them."""
    if not values or not values[0] <= asked <= values[-1]:
        return None
    if asked in values:
        return [(int(asked), 1.0)]
    i = int(np.searchsorted(values, asked))
    below, above = values[i - 1], values[i]
    weight = float(np.log(asked / below) / np.log(above / below))
    return [(below, 1 - weight), (above, weight)]
