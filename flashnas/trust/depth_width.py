"""What a scaling law is good for: how it foretells larger sizes, and which size suits a latency budget.

The law adds its terms, so that more tokens never change the answer. Whether that holds is measured: `mixing`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.errors import BudgetError, ConfigError
from flashnas.latency.prediction import LatencyModel
from flashnas.trust.analysis import Interval, interval
from flashnas.trust.scaling_grid import block
from flashnas.trust.scaling_law import AXES, RESAMPLES, SizeLaw, fit, sizes_P3, too_few

PAPER_ERROR = 0.053       # arXiv 2511.18890, section 2.1: perplexity at larger depths and widths
ENOUGH = 4                # values of an axis from which on its largest is held out
BEYOND = 2                # times the largest trained size that an answer may have
MAX_VALUES = 64          # of depths and of widths among which an answer is sought
SAME_NATS = 5e-4          # losses this close are the same
LADDER = 6                # budgets for which the best size is shown


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """A size that was left out of a fit. loss: mean over its seeds. error: of the perplexity, relative."""

    depth: float
    width: float
    tokens: float
    loss: float
    predicted: float

    @property
    def error(self) -> float:
        return math.expm1(self.predicted - self.loss)

    def to_dict(self) -> dict[str, float]:
        return {**dataclasses.asdict(self), "error": self.error}


@dataclass(frozen=True, kw_only=True)
class Size:
    """A depth and width with what they cost. low, high: 95 % interval of the loss. extrapolated: axes along
    which no training was as large."""

    depth: int
    width: int
    notation: str
    params: int
    latency_ms: float
    loss: float
    low: float
    high: float
    extrapolated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "extrapolated": list(self.extrapolated)}


@dataclass(frozen=True, kw_only=True)
class Findings:
    """Everything that a table of trainings says.

    held_out: the largest sizes, as the law of the others foretells them. held_out_tokens: the same for the
    largest token count; empty where fewer than ENOUGH were trained. mixing: how far the residuals grow with
    depth and tokens together, in nats for e times each; below 0, depth pays off with more tokens than a short
    training has. None without several counts. failed: trainings without a loss.
    """

    law: SizeLaw
    points: pd.DataFrame
    held_out: tuple[HeldOut, ...]
    held_out_tokens: tuple[HeldOut, ...]
    mixing: Interval | None
    failed: int

    @property
    def extrapolation_error(self) -> float | None:
        """The largest error among the held-out sizes, relative, of the perplexity."""
        return largest_error(self.held_out)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        errors = [abs(held.error) for held in self.held_out]
        return {
            "law": self.law.to_dict(), "trainings": len(self.points), "failed": self.failed,
            "held_out": [held.to_dict() for held in self.held_out],
            "extrapolation_error": self.extrapolation_error,
            "mean_extrapolation_error": float(np.mean(errors)) if errors else None,
            "paper_error": PAPER_ERROR,
            "held_out_tokens": [held.to_dict() for held in self.held_out_tokens],
            "token_extrapolation_error": largest_error(self.held_out_tokens),
            "mixing": None if self.mixing is None else dataclasses.asdict(self.mixing),
            "gone": list(self.law.gone)}


def largest_error(held: Sequence[HeldOut]) -> float | None:
    """Of held-out sizes; None if there are none."""
    return max((abs(point.error) for point in held), default=None)


def findings(table: pd.DataFrame, *, resamples: int = RESAMPLES, place: str = "scaling law") -> Findings:
    """Fit the law to a table of trainings and hold it against the largest sizes. Errors as of
    `scaling_law.fit`."""
    points = table[table["loss"].notna()].reset_index(drop=True)
    law = fit(points, resamples=resamples, place=place)
    largest = _at_most(points, "depth") | _at_most(points, "width")
    if not largest.any():  # few values of each: the corner
        largest = ((points["depth"] == points["depth"].max())
                   & (points["width"] == points["width"].max())).to_numpy()
    return Findings(law=law, points=points, failed=len(table) - len(points),
                    held_out=_foretold(points, largest),
                    held_out_tokens=_foretold(points, _at_most(points, "tokens")),
                    mixing=_mixing(points, law) if "tokens" in law.axes else None)


# -- held-out sizes ------------------------------------------------------------------------------------------


def _at_most(points: pd.DataFrame, axis: str) -> np.ndarray:
    """Mask of the trainings with the largest value of an axis; none where it has fewer than ENOUGH values."""
    return np.asarray((points[axis] == points[axis].max()) & (points[axis].nunique() >= ENOUGH))


def _foretold(points: pd.DataFrame, held: np.ndarray) -> tuple[HeldOut, ...]:
    """What the law of the trainings outside the mask says of those inside, if it can be fitted."""
    rest = points[~held]
    if not held.any() or rest.empty or too_few(rest):
        return ()
    law = fit(rest, resamples=0)
    means = points[held].groupby(list(AXES), as_index=False)["loss"].mean().to_numpy(float)
    return tuple(HeldOut(depth=d, width=w, tokens=n, loss=loss, predicted=float(law.loss(d, w, n)))
                 for d, w, n, loss in means.tolist())


def _mixing(points: pd.DataFrame, law: SizeLaw) -> Interval:
    """Slope of the residuals over (log depth, centred) x (log tokens, centred), with a bootstrap interval."""
    sizes = sizes_P3(points)
    depth, tokens = (np.log(values) - np.log(values).mean() for values in (sizes[:, 0], sizes[:, 2]))
    residual = points["loss"].to_numpy(float) - law.loss(*sizes.T)

    def slope(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        x = x - x.mean(axis, keepdims=True)
        return np.asarray((x * y).sum(axis) / np.maximum((x * x).sum(axis), 1e-12))

    return interval([depth * tokens, residual], slope)


# -- the answer ----------------------------------------------------------------------------------------------


class Sizes:
    """Depths and widths of a pattern, to twice those of the trainings, with latencies and the losses of a
    law.

    Args:
        pattern: operators of one block, such as `m2 f`.
        tokens: for which the loss is given; None: the largest trained count.

    Raises:
        ConfigError: no width can be built, or tokens are given that the law has no term for.
    """

    def __init__(self, pattern: str, findings: Findings, model: LatencyModel,
                 tokens: int | None = None) -> None:
        self.pattern, self.law, self.model = pattern, findings.law, model
        trained = int(findings.points["tokens"].max())
        self.tokens = trained if tokens is None else tokens
        if "tokens" not in self.law.axes and self.tokens != trained:
            raise ConfigError(f"scaling_law.at_tokens must be {trained:,}, the only token count of the"
                              f" trainings; got {self.tokens:,}")
        self.trained = {axis: sorted({int(value) for value in findings.points[axis]}) for axis in AXES[:2]}
        block(pattern, self.trained["depth"][-1], self.trained["width"][-1])
        self.depths = _spread(self.trained["depth"], 1)
        widths = _spread(self.trained["width"], math.gcd(*self.trained["width"]))
        self.widths = [width for width in widths if self._can_be_built(width)]
        if not self.widths:
            block(pattern, 1, widths[-1])  # raises the reason

    def _can_be_built(self, width: int) -> bool:
        try:
            return bool(block(self.pattern, 1, width))
        except ConfigError:
            return False

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """Columns depth, width, latency_ms and loss (nats per token), a row for each size."""
        sizes = [(depth, width) for width in self.widths for depth in self.depths]
        table = pd.DataFrame(sizes, columns=["depth", "width"])
        table["latency_ms"] = self.model.latencies([block(self.pattern, *size) for size in sizes])
        table["loss"] = self.law.loss(table["depth"], table["width"], self.tokens)
        return table

    def best(self, budget_ms: float) -> Size | None:
        """The size with the lowest loss within a latency budget; None if none is as fast."""
        fitting = self.table[self.table["latency_ms"] <= budget_ms]
        return None if fitting.empty else self._size(_fastest_of_best(fitting))

    def by_depth(self, budget_ms: float) -> list[Size]:
        """For each trained depth the best width within the budget."""
        fitting = self.table[(self.table["latency_ms"] <= budget_ms)
                             & self.table["depth"].isin(self.trained["depth"])]
        return [self._size(_fastest_of_best(sizes)) for _, sizes in fitting.groupby("depth")]

    def ladder(self) -> list[tuple[float, Size]]:
        """(budget in ms, best size) from the fastest trained size to the slowest."""
        trained = self.table[self.table["depth"].isin(self.trained["depth"])
                             & self.table["width"].isin(self.trained["width"])]
        steps = np.geomspace(trained["latency_ms"].min(), trained["latency_ms"].max(), LADDER)
        answers = [(float(budget_ms), self.best(float(budget_ms) * (1 + 1e-9))) for budget_ms in steps]
        return [(budget_ms, size) for budget_ms, size in answers if size is not None]

    def answer(self, budget_ms: float) -> dict[str, Any]:
        """JSON-ready: the best size, and the best width of each trained depth; BudgetError if none is fast
        enough."""
        size = self.best(budget_ms)
        if size is None:
            fastest = self.table.iloc[int(self.table["latency_ms"].argmin())]
            raise BudgetError(f"scaling_law.budget_ms: no depth and width of {self.pattern!r} is within"
                              f" {budget_ms:g} ms; the fastest, depth {fastest['depth']:.0f} at width"
                              f" {fastest['width']:.0f}, takes {fastest['latency_ms']:,.4g} ms")
        return {**size.to_dict(), "budget_ms": budget_ms,
                "by_depth": [best.to_dict() for best in self.by_depth(budget_ms)]}

    def _size(self, row: Any) -> Size:
        depth, width = int(row["depth"]), int(row["width"])
        low, high = self.law.interval(depth, width, self.tokens)
        return Size(depth=depth, width=width, notation=f"{width}: {depth}x({self.pattern})",
                    params=block(self.pattern, depth, width).params, latency_ms=float(row["latency_ms"]),
                    loss=float(row["loss"]), low=float(low), high=float(high),
                    extrapolated=tuple(axis for axis, value in (("depth", depth), ("width", width))
                                       if value > self.trained[axis][-1]))


def _fastest_of_best(sizes: pd.DataFrame) -> Any:
    same = sizes["loss"] <= sizes["loss"].min() + SAME_NATS
    return sizes.iloc[int(np.where(same, sizes["latency_ms"], np.inf).argmin())]


def _spread(trained: Sequence[int], step: int) -> list[int]:
    """Multiples of the step to BEYOND times the largest trained value, thinned; the trained ones among them.
    """
    largest = BEYOND * trained[-1]
    step *= max(1, -(-(largest - trained[0]) // (step * MAX_VALUES)))
    return sorted({*trained, *range(trained[0], largest + 1, step)})
