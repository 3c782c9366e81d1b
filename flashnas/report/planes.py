"""A quality against latency: the figures of a front and its further objectives."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.text import INTERVAL_90
from flashnas.report.beside import stack_label
from flashnas.report.marks import Label
from flashnas.report.palette import INK, MUTED
from flashnas.report.plot_data import (
    finalist_of,
    front,
    latency_unit,
    mixer_colours,
    name_of,
    objective_points,
    on_front,
    place_labels,
    staircase,
)
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import FULL, larger_is_better, title_of

HEADROOM = 0.6  # of the height of what is compared that intervals and other points may add
MARGIN = 0.13  # of the height, above and below what the axis has to hold
EDGE, BESIDE = 1.0, 0.35  # widths and heights up to which published models stretch the axes
BOX_WIDTH, LETTER, LINE = 760.0, 7.4, 15.0  # pixels: of a plotting area, of labels

Ranges = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Plane:
    """Networks by latency and one quality.

    points: trials with further columns: x, the latency in `unit`; y, the quality, of a full loss
    its difference to the recommended network; reach, half of its 90 % interval, NaN without one;
    final: on the front; small: neither on the front nor a baseline, where the full loss ranks;
    kind, ring: the two most frequent mixers. published: models that an answer names.
    """

    run: RecordedRun
    quality: str
    points: pd.DataFrame
    factor: float
    unit: str
    title: str
    axis: str
    published: pd.DataFrame

    @property
    def main(self) -> bool:
        return self.quality == self.run.quality

    @property
    def budgets(self) -> list[float]:
        """That of the latency, in `unit`; empty without one."""
        return [self.run.budget_ms * self.factor] if self.run.budget_ms else []

    def ranges(self) -> Ranges:
        """((x low, high), (y low, high)) with room for labels. Of an answer, they hold what it
        compares; fast networks of the front that are far above it, and published models far from
        it, are outside."""
        points, answer = self.points, self.run.answer
        bottom, tops = _intervals(points)
        if not self.main or answer is None:
            low, high = bottom.min(), tops.max()
            if not points["small"].all():  # small points far above the front do not stretch it
                top = tops[~points["small"]].max()
                high = min(high, top + HEADROOM * (top - low))
            return self._padded(points["x"], low, high)
        compared = points["origin"] == "baseline"
        compared |= points["hash"].isin((answer.recommended, *answer.tied))
        low, high = points["y"][compared].min(), points["y"][compared].max()
        reach = HEADROOM * (high - low) or np.inf  # a longer interval is cut by the frame
        low, high = (
            max(bottom[compared].min(), low - reach),
            min(tops[compared].max(), high + reach),
        )
        stretch, published = BESIDE * (high - low), self.published
        published = published[published["y"].between(low - stretch, high + stretch)]
        bottom, tops = _intervals(published)
        low, high = min([low, *bottom]), max([high, *tops])
        final = points["final"] & (points["y"] <= high + MARGIN * (high - low))
        xs = [*points["x"][compared | final], *self.budgets]
        edge = max(xs) + EDGE * (max(xs) - min(xs))
        return self._padded([*xs, *published["x"][published["x"] <= edge]], low, high)

    def _padded(self, values: Iterable[float], low: float, high: float) -> Ranges:
        xs = [*values, *self.budgets]
        wide = (max(xs) - min(xs)) or max(xs) * 0.1 or 1.0
        # a lone network differs from itself by what rounding leaves
        tall = next(size for size in (high - low, abs(high) * 0.1, 1.0) if size > 1e-6)
        return (
            (max(min(xs) - 0.07 * wide, 0.0), max(xs) + 0.09 * wide),
            (low - MARGIN * tall, high + MARGIN * tall),
        )

    def inside(self, points: pd.DataFrame) -> pd.Series:
        """Which of them lie within the axes."""
        (x0, x1), (y0, y1) = self.ranges()
        return points["x"].between(x0, x1) & points["y"].between(y0, y1)

    def outside(self) -> list[str]:
        """Names of what the table has and the axes do not hold."""
        named = self._named()
        return list(named["name"][~self.inside(named)])

    def _named(self) -> pd.DataFrame:
        """The networks that have a label, with it as `name`."""
        points = self.points
        labelled = points[points["final"] | ((points["origin"] == "baseline") & self.main)]
        names = [self._name(row) for row in rows(labelled)]
        return pd.concat([labelled.assign(name=names), self.published.assign(final=False)])

    def steps(self) -> tuple[list[float], list[float]]:
        """The corners of the front, drawn to the budget; none where the full loss ranks, whose
        front has uncertainty and a floor for recall in it."""
        if not self.main or self.run.ranks_full:
            return [], []
        right = self.ranges()[0][1]
        xs, ys = staircase(front(self.run), min(right, *self.budgets, right) / self.factor)
        return [x * self.factor for x in xs], ys

    def labels(self, height: float) -> Iterable[Label]:
        """The names of the front, of baselines and of published models within the axes. A minor one
        may be left out: it can neither be the best nor is compared with it."""
        (x0, x1), (y0, y1) = self.ranges()
        shown = pd.concat([self.points[self.inside(self.points)], self.published])
        named = self._named()
        named = named[self.inside(named)]
        named = named.assign(minor=~named["final"])
        if (answer := self.run.answer) is not None:
            rivals = (each.get("hash") for each in (answer.pure, answer.transformer))
            matter = (answer.recommended, *answer.tied, *rivals)
            named["minor"] = ~named["hash"].isin(matter) & named["hash"].notna()
        steps = list(zip(*self.steps(), strict=True))
        spread = shown[shown["reach"].notna()]
        segments = [  # a label is wider than the gaps between the points of these
            *itertools.pairwise(steps),
            *(((x, y0), (x, y1)) for x in self.budgets),
            *(
                ((each.x, each.y - each.reach), (each.x, each.y + each.reach))
                for each in rows(spread)
            ),
        ]
        obstacles = [shown[shown["small"].ne(True)][["x", "y"]].to_numpy(dtype=float)]
        obstacles += [np.linspace(*segment, 40) for segment in segments]

        def pixels(points: Any) -> np.ndarray:
            """[N, 2] from the lower left corner."""
            return (points - np.array((x0, y0))) / (x1 - x0, y1 - y0) * (BOX_WIDTH, height)

        offsets = place_labels(
            pixels(named[["x", "y"]].to_numpy(dtype=float)),
            [(LETTER * len(name) + 4, LINE) for name in named["name"]],
            pixels(np.concatenate(obstacles)),
            (BOX_WIDTH, height),
        )
        for row, (dx, dy) in zip(rows(named), offsets, strict=True):
            yield Label(
                x=row.x,
                y=row.y,
                text=row.name,
                dx=dx,
                dy=dy,
                minor=bool(row.minor),
                strong=bool(row.final and not row.minor),
                colour=INK if row.final else MUTED,
            )

    def _name(self, row: Any) -> str:
        """The name of the front; of other baselines what they are made of, as the table has it."""
        finalist = finalist_of(self.run, row)
        if finalist and (self.run.ranks_full or not self.main):
            return finalist.name
        if self.run.ranks_full:
            return stack_label(row.notation)
        return name_of(self.run, row).replace("pure ", "")


def _intervals(points: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
    reach = points["reach"].fillna(0.0)
    return points["y"] - reach, points["y"] + reach


def plane_of(run: RecordedRun, quality: str | None = None) -> Plane:
    quality = quality or run.quality
    title, points, standings = "", run.scored, {}
    base: float | None = 0.0
    if quality == FULL:
        title, to = "Loss to expect of a full training, against latency", "the lowest"
        base = run.scored[FULL].min()
        if run.answer is not None:
            chosen = run.finalists[run.answer.recommended]
            to, base = chosen.name, chosen.figures[FULL]
            standings = {each.hash: each for each in (*run.answer.baselines, *run.answer.standings)}
        axis = f"expected full loss,\ndifference to {to} (nats per token)"
    elif quality == "loss":
        title = "Loss against latency: every trained network"
        axis = "validation loss after short training\n(nats per token)"
    else:
        points = objective_points(run)[0]
        axis = (
            f"{title_of(quality)}\n{'higher' if larger_is_better(quality) else 'lower'} is better"
        )
    factor, unit = latency_unit([*points["latency_ms"], run.budget_ms or 0.0])
    final = on_front(run, points)
    mixers, own = points["notation"].map(mixer_colours), points["hash"].map(standings.get)
    models = run.answer.published if quality == FULL and run.answer is not None else []
    published = [
        (
            model["name"],
            model["latency_ms"] * factor,
            model["difference"],
            INTERVAL_90 * model["sd"],
        )
        for model in models
        if model["latency_ms"] is not None
    ]
    return Plane(
        run=run,
        quality=quality,
        points=points.assign(
            x=points["latency_ms"] * factor,
            kind=mixers.str[0],
            ring=mixers.str[1],
            final=final,
            y=[
                value - base if standing is None else standing.difference
                for value, standing in zip(points[quality], own, strict=True)
            ],
            reach=[np.nan if standing is None else INTERVAL_90 * standing.sd for standing in own],
            small=run.ranks_full & ~final & (points["origin"] != "baseline").to_numpy(),
        ),
        factor=factor,
        unit=unit,
        title=title,
        axis=axis,
        published=pd.DataFrame(published, columns=["name", "x", "y", "reach"]).astype(
            {"x": float, "y": float, "reach": float}
        ),
    )
