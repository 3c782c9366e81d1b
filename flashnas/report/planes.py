"""A quality against latency: the figures of a front and its further objectives."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

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
from flashnas.report.text import INTERVAL_90, known, number
from flashnas.runs.answer import Answer
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
    published: pd.DataFrame = field(default_factory=lambda: published_frame([]))

    @property
    def main(self) -> bool:
        return self.quality == self.run.quality

    @property
    def budget(self) -> float:
        """In `unit`; 0 without one."""
        return (self.run.budget_ms or 0.0) * self.factor

    def ranges(self) -> Ranges:
        """((x low, high), (y low, high)) with room for labels and for the marks of failed trials on
        top. Of an answer, they hold what it compares; fast networks of the front that are far above
        it, and published models far from it, are outside."""
        if self.main and self.run.answer is not None:
            return self._compared_ranges(self.run.answer)
        bottom, tops = self._intervals(self.points)
        low, high = bottom.min(), tops.max()
        if not self.points["small"].all():  # small points far above the front do not stretch it
            top = tops[~self.points["small"]].max()
            high = min(high, top + HEADROOM * (top - low))
        return self._padded(self.points["x"], low, high)

    def _compared_ranges(self, answer: Answer) -> Ranges:
        xs, low, high = self._compared(answer)
        near = self.published[self.published["y"].between(low, high)]
        return self._padded([*xs, *near["x"]], low, high)

    def _compared(self, answer: Answer) -> tuple[list[float], float, float]:
        """Latencies of the networks of a space that an answer compares; their lowest and highest
        quality, those of published models near them included."""
        points = self.points
        compared = points[
            points["hash"].isin((answer.recommended, *answer.tied))
            | (points["origin"] == "baseline")
        ]
        bottom, tops = self._intervals(compared)
        low, high = compared["y"].min(), compared["y"].max()
        reach = HEADROOM * (high - low) or np.inf  # a longer interval is cut by the frame
        low, high = max(bottom.min(), low - reach), min(tops.max(), high + reach)
        beside = BESIDE * (high - low)
        near = [
            model["difference"] + sign * INTERVAL_90 * model["sd"]
            for model in answer.known
            if low - beside <= model["difference"] <= high + beside
            for sign in (-1, 1)
        ]
        low, high = min([low, *near]), max([high, *near])
        final = points[points["final"] & (points["y"] <= high + MARGIN * (high - low))]
        return [*compared["x"], *final["x"], *filter(None, [self.budget])], low, high

    def with_published(self, answer: Answer) -> Plane:
        """The plane with the published models of an answer. Slower ones than the axis can hold
        without squeezing the others are at its right edge."""
        xs, _, _ = self._compared(answer)
        edge = max(xs) + EDGE * (max(xs) - min(xs))
        models = []
        for model in answer.known:
            if model["latency_ms"] is not None:
                x = model["latency_ms"] * self.factor
                time = number(x, 4, self.unit)
                name = model["name"] if x <= edge else f"{model['name']}, {time} →"
                models.append(
                    (name, time, min(x, edge), model["difference"], INTERVAL_90 * model["sd"])
                )
        return dataclasses.replace(self, published=published_frame(models))

    def _padded(self, values: Iterable[float], low: float, high: float) -> Ranges:
        xs = [*values, *filter(None, [self.budget])]
        wide = (max(xs) - min(xs)) or max(xs) * 0.1 or 1.0
        # a lone network differs from itself by what rounding leaves
        tall = next(size for size in (high - low, abs(high) * 0.1, 1.0) if size > 1e-6)
        return (
            (max(min(xs) - 0.07 * wide, 0.0), max(xs) + 0.09 * wide),
            (low - MARGIN * tall, high + MARGIN * tall),
        )

    @staticmethod
    def _intervals(points: pd.DataFrame) -> tuple[pd.Series, pd.Series]:
        reach = points["reach"].fillna(0.0)
        return points["y"] - reach, points["y"] + reach

    def inside(self, points: pd.DataFrame) -> pd.Series:
        """Which of them lie within the axes."""
        (x0, x1), (y0, y1) = self.ranges()
        return points["x"].between(x0, x1) & points["y"].between(y0, y1)

    def outside(self) -> list[str]:
        """Names of what the table has and the axes do not hold."""
        named = self._named()
        return [str(name).partition(",")[0] for name in named["name"][~self.inside(named)]]

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
        xs, ys = staircase(front(self.run), min(right, self.budget or right) / self.factor)
        return [x * self.factor for x in xs], ys

    def labels(self, height: float) -> Iterable[Label]:
        """The names of the front, of baselines and of published models within the axes. A minor one
        may be left out: it can neither be the best nor is compared with it."""
        (x0, x1), (y0, y1) = self.ranges()
        points, named = self.points[self.inside(self.points)], self._named()
        named = named[self.inside(named)]
        minor = ~named["final"]
        if (answer := self.run.answer) is not None:
            rivals = (each.get("hash") for each in (answer.pure, answer.transformer))
            matter = (answer.recommended, *answer.tied, *rivals)
            minor = ~named["hash"].isin(matter) & named["hash"].notna()
        labelled = named.assign(minor=minor)
        texts = [str(name) for name in labelled["name"]]
        xs, ys = self.steps()  # a label is wider than the gaps between these points
        obstacles = [
            *points[~points["small"]][["x", "y"]].to_numpy(),
            *self.published[["x", "y"]].to_numpy(),
            *(
                (xa + (xb - xa) * k / 80, ya + (yb - ya) * k / 80)
                for xa, ya, xb, yb in zip(xs, ys, xs[1:], ys[1:], strict=False)
                for k in range(81)
            ),
            *(
                (row.x, row.y + row.reach * k / 10)
                for row in rows(pd.concat([points, self.published]))
                if known(row.reach)
                for k in range(-10, 11)
            ),
            *((self.budget, y0 + (y1 - y0) * k / 40) for k in range(41) if self.budget),
        ]

        def pixels(places: Any) -> np.ndarray:
            """[N, 2] from the lower left corner."""
            return (
                (np.reshape(places, (-1, 2)) - (x0, y0)) / (x1 - x0, y1 - y0) * (BOX_WIDTH, height)
            )

        sizes = [(LETTER * len(text) + 4, LINE) for text in texts]
        offsets = place_labels(
            pixels(labelled[["x", "y"]]), sizes, pixels(obstacles), (BOX_WIDTH, height)
        )
        for text, row, (dx, dy) in zip(texts, rows(labelled), offsets, strict=True):
            yield Label(
                x=row.x,
                y=row.y,
                text=text,
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


def published_frame(models: Sequence[tuple[str, str, float, float, float]]) -> pd.DataFrame:
    frame = pd.DataFrame(models, columns=["name", "time", "x", "y", "reach"])
    return frame.astype(dict.fromkeys(("x", "y", "reach"), float))


def plane_of(run: RecordedRun, quality: str | None = None) -> Plane:
    quality = quality or run.quality
    title, points, standings = "", run.scored, {}
    base: float | None = 0.0
    if quality == FULL:
        title, to = "Loss to expect of a full training, against latency", "the lowest"
        base = run.scored[FULL].min()
        if run.answer is not None:
            chosen = run.front[run.finalists[1][run.answer.recommended]]
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
    plane = Plane(
        run,
        quality,
        points.assign(
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
        factor,
        unit,
        title,
        axis,
    )
    if quality == FULL and run.answer is not None:
        return plane.with_published(run.answer)
    return plane
