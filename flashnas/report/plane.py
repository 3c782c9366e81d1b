"""A quality over latency: what the pictures of a front show, for Plotly and for matplotlib alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.report.plot_data import finalist_of, front, latency_unit, name_of, place_labels, staircase
from flashnas.report.text import known
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import FULL

INTERVAL_90 = 1.645      # standard deviations on each side
HEADROOM = 0.6           # of the front's height that points above it may add to the axis


@dataclass(frozen=True, eq=False)
class Plane:
    """Networks by latency and one quality.

    Attributes:
        run: what it shows.
        quality: `loss`, of short trainings; or `full_loss`, as the difference to the recommended network.
        points: trials with further columns: y, the quality; reach, half of its 90 % interval, NaN without
            one; final: on the front; small: neither on the front nor a baseline, where the full loss ranks.
        title, axis: of the picture and of the vertical axis.
    """

    run: RecordedRun
    quality: str
    points: pd.DataFrame
    title: str
    axis: str

    @property
    def unit(self) -> tuple[float, str]:
        """Factor and unit of the latencies."""
        return latency_unit([*self.points["latency_ms"], self.run.budget_ms or 0.0])

    def ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """((latency_ms low, high), (quality low, high)) with room for labels and for the marks of failed
        trials on top. Small points far above the front do not stretch the axis."""
        xs = [*self.points["latency_ms"], *([self.run.budget_ms] if self.run.budget_ms else [])]
        wide = (max(xs) - min(xs)) or max(xs) * 0.1 or 1.0
        reach = self.points["reach"].fillna(0.0)
        low, high = (self.points["y"] - reach).min(), (self.points["y"] + reach).max()
        main = self.points[~self.points["small"]]
        if len(main):
            top = (main["y"] + main["reach"].fillna(0.0)).max()
            high = min(high, top + HEADROOM * (top - low))
        tall = (high - low) or abs(high) * 0.1 or 1.0
        return (max(min(xs) - 0.07 * wide, 0.0), max(xs) + 0.09 * wide), (low - 0.13 * tall,
                                                                          high + 0.13 * tall)

    def steps(self, right: float) -> tuple[list[float], list[float]]:
        """The corners of the front, drawn to the latency `right`; none where the full loss ranks, since its
        uncertainty counts there as well, and a floor for recall."""
        return ([], []) if self.run.ranks_full else staircase(front(self.run), right)

    def labels(self, box: tuple[float, float], letter: float = 6.6,
               ) -> list[tuple[str, Any, tuple[float, float]]]:
        """(text, trial, offset in pixels) of the labels: the front's names and the baselines'; of short
        losses where the full loss ranks, the recommended network and those that cannot be told from it.

        Args:
            box: width and height of the plotting area in pixels.
            letter: width of a letter.
        """
        (x0, x1), (y0, y1) = self.ranges()

        def pixel(latency_ms: float, y: float) -> tuple[float, float]:
            return (latency_ms - x0) / (x1 - x0) * box[0], (y - y0) / (y1 - y0) * box[1]

        labelled = [row for row in rows(self.points) if self._labelled(row)]
        texts = [self._name(row) for row in labelled]
        obstacles = [pixel(row.latency_ms, row.y) for row in rows(self.points) if not row.small]
        xs, ys = self.steps(x1)
        obstacles += [pixel(xa + (xb - xa) * k / 80,
                            ya + (yb - ya) * k / 80)  # a label is wider than the gaps
                      for xa, ya, xb, yb in zip(xs, ys, xs[1:], ys[1:], strict=False) for k in range(81)]
        obstacles += [pixel(row.latency_ms, row.y + row.reach * k / 10) for row in rows(self.points)
                      if known(row.reach) for k in range(-10, 11)]
        if self.run.budget_ms:
            obstacles += [pixel(self.run.budget_ms, y0 + (y1 - y0) * k / 40) for k in range(41)]
        offsets = place_labels([pixel(row.latency_ms, row.y) for row in labelled],
                               [(letter * len(text) + 4, 15.0) for text in texts], obstacles, box)
        return list(zip(texts, labelled, offsets, strict=True))

    def matters(self, row: Any) -> bool:
        """Whether a network is named where there is little room: it may be the best, or is on the front."""
        answer = self.run.answer
        return bool(row.final) if answer is None else row.hash in (answer.recommended, *answer.tied)

    def _labelled(self, row: Any) -> bool:
        if self.run.answer is not None and self.quality != FULL:
            return self.matters(row)
        return bool(row.final or row.origin == "baseline")

    def _name(self, row: Any) -> str:
        """The name of the front; of other baselines what they are made of, since diamonds mark them."""
        finalist = finalist_of(self.run, row)
        if finalist and self.run.ranks_full:
            return finalist.name
        return name_of(self.run, row).replace("pure ", "")


def plane_of(run: RecordedRun, quality: str | None = None) -> Plane:
    """The plane of what ranks, or of another quality."""
    quality = quality or run.quality
    if quality == FULL:
        return _full_plane(run)
    points = run.trained
    return Plane(run, quality, _marked(run, points, points["loss"], pd.Series(np.nan, index=points.index)),
                 "Loss against latency: every trained network" if run.quality == quality else
                 "Loss of the short trainings against latency",
                 "validation loss after short training (nats per token)" if run.quality == quality else
                 "short loss (nats per token)")


def _full_plane(run: RecordedRun) -> Plane:
    """The full loss to expect, as the difference to the recommended network; without one, to the lowest."""
    points, answer = run.scored, run.answer
    chosen = None if answer is None else run.front[run.finalists[1][answer.recommended]]
    base = points[FULL].min() if chosen is None else chosen.figures[FULL]
    y, reach = points[FULL] - base, pd.Series(np.nan, index=points.index)
    standings = {} if answer is None else {one.hash: one for one in (*answer.baselines, *answer.standings)}
    for row in rows(points):
        if row.hash in standings:
            y.at[row.Index] = standings[row.hash].difference
            reach.at[row.Index] = INTERVAL_90 * standings[row.hash].sd
    to = "the lowest" if chosen is None else chosen.name
    return Plane(run, FULL, _marked(run, points, y, reach),
                 "Loss to expect of a full training, against latency",
                 f"expected full loss, difference to {to} (nats per token)")


def _marked(run: RecordedRun, points: pd.DataFrame, y: pd.Series, reach: pd.Series) -> pd.DataFrame:
    """The points with the further columns."""
    final = np.array([finalist_of(run, row) is not None for row in rows(points)], dtype=bool)
    return points.assign(y=y, reach=reach, final=final,
                         small=run.ranks_full & ~final & (points["origin"] != "baseline").to_numpy())
