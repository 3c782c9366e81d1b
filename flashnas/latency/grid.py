"""Log-space interpolation on a grid of measured rows, and what happens outside it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

# How a time grows along an axis beyond its largest measured value: the work is cut into equal pieces inside the grid,
# which run one after another. `power` 1: n pieces cost n times one piece; 2 (causal attention over tokens): n^2 times.
# At most `pieces`; beyond that the table has no answer. Below the smallest measured value the smallest counts.
PIECES = {"m": 1 << 16, "n": 16, "k": 16, "batch": 64, "tokens": 16, "context": 16, "heads": 4, "channels": 4}
PREFILL_BATCH_PIECES = 1 << 16  # engines never read all prompts of a large batch together


@dataclass(frozen=True)
class Axis:
    name: str
    values: np.ndarray  # ascending
    power: int = 1
    pieces: int = 1

    def fit(self, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """-> (coordinate inside the grid, factor on the time, whether it lay outside); NaN where there is no answer."""
        low, high = float(self.values[0]), float(self.values[-1])
        pieces = np.maximum(np.ceil(asked / high), 1.0)
        inside = np.maximum(asked / pieces, low)
        return np.where(pieces <= self.pieces, inside, np.nan), pieces**self.power, (asked < low) | (asked > high)


class LogGrid:
    """Times over the product of some axes. Cells that were not measured (too large for the device, mostly) are
    inferred along one axis: twice the batch, or n, at twice the time of half of it."""

    def __init__(self, axes: Sequence[Axis], us: np.ndarray, inferred: np.ndarray) -> None:
        self.axes = tuple(axes)
        self._log_us = np.log(us)  # [..., 3]: median, p10, p90
        self._inferred = inferred

    @classmethod
    def from_rows(cls, rows: pd.DataFrame, names: Sequence[str], *, grow: str, spread: float,
                  quadratic: bool = False) -> LogGrid:
        """`grow`: the axis along which cells are inferred. `spread`: half-width where p10 and p90 are null, and the
        least where they are not."""
        limits = {**PIECES, "batch": PREFILL_BATCH_PIECES} if "tokens" in names else PIECES
        axes = [Axis(name, np.unique(rows[name].to_numpy(float)), 2 if quadratic and name == "tokens" else 1,
                     limits[name]) for name in names]
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
        """-> (us [..., 3]: median, p10, p90; NaN where there is no answer; whether a rule was needed [...])."""
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
            used = share != 0  # NaN counts as used
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
