"""A quality against latency: the figures of a front and its further objectives."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.folding import compressed
from flashnas.report.marks import (
    Guide,
    Key,
    Label,
    Line,
    Mark,
    Panel,
    Picture,
    PlotAxis,
    Points,
    Whiskers,
)
from flashnas.report.palette import (
    BUDGET,
    INK,
    MUTED,
    RULE,
    SOFT,
    operator_colour,
    operator_label,
    operator_order,
)
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
from flashnas.report.text import known, number, parameters
from flashnas.report.words import counts_line, place_words
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import FULL, larger_is_better, title_of

INTERVAL_90 = 1.645  # standard deviations on each side
HEADROOM = 0.6  # of the front's height that points above it may add to the axis
MAX_FOLDED = 600  # networks up to which all hovers have short notations, which take milliseconds
BOX_WIDTH, LETTER, LINE = 760.0, 7.4, 15.0  # pixels: of a plotting area, of labels
HEIGHT, SMALL_HEIGHT = 430.0, 220.0


def front_picture(run: RecordedRun) -> Picture:
    """What ranks, against latency. Fill: most frequent token mixer, ring: second most frequent;
    diamonds: pure-operator baselines; where the full loss ranks, bars: 90 % intervals of the
    difference."""
    if run.scored.empty:
        return Picture(
            title="Loss against latency",
            empty=f"No network was trained to the end ({counts_line(run)}).",
        )
    return _picture(run, [plane_of(run)])


def objectives_picture(run: RecordedRun) -> Picture:
    title = "Further objectives against latency"
    if not run.further_objectives or objective_points(run)[0].empty:
        return Picture(title=title, empty="No network has all objectives.")
    return _picture(run, [plane_of(run, name) for name in run.further_objectives], title)


@dataclass(frozen=True, eq=False)
class Plane:
    """Networks by latency and one quality.

    points: trials with further columns: x, the latency in `unit`; y, the quality, of a full loss
    its difference to the recommended network; reach, half of its 90 % interval, NaN without one;
    final: on the front; small: neither on the front nor a baseline, where the full loss ranks;
    kind, ring: the two most frequent mixers.
    """

    run: RecordedRun
    quality: str
    points: pd.DataFrame
    factor: float
    unit: str
    title: str
    axis: str

    @property
    def main(self) -> bool:
        return self.quality == self.run.quality

    @property
    def budget(self) -> float:
        """In `unit`; 0 without one."""
        return (self.run.budget_ms or 0.0) * self.factor

    def ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """((x low, high), (y low, high)) with room for labels and for the marks of failed trials on
        top. Small points far above the front do not stretch the axis."""
        xs = [*self.points["x"], *filter(None, [self.budget])]
        wide = (max(xs) - min(xs)) or max(xs) * 0.1 or 1.0
        bottom, tops = (
            self.points["y"] + sign * self.points["reach"].fillna(0.0) for sign in (-1, 1)
        )
        low, high = bottom.min(), tops.max()
        if not self.points["small"].all():
            top = tops[~self.points["small"]].max()
            high = min(high, top + HEADROOM * (top - low))
        # a lone network differs from itself by what rounding leaves
        tall = next(size for size in (high - low, abs(high) * 0.1, 1.0) if size > 1e-6)
        return (
            (max(min(xs) - 0.07 * wide, 0.0), max(xs) + 0.09 * wide),
            (low - 0.13 * tall, high + 0.13 * tall),
        )

    def steps(self) -> tuple[list[float], list[float]]:
        """The corners of the front, drawn to the budget; none where the full loss ranks, whose
        front has uncertainty and a floor for recall in it."""
        if not self.main or self.run.ranks_full:
            return [], []
        right = self.ranges()[0][1]
        xs, ys = staircase(front(self.run), min(right, self.budget or right) / self.factor)
        return [x * self.factor for x in xs], ys

    def labels(self, height: float) -> Iterable[Label]:
        """The front's names and the baselines'. A minor one may be left out: it can neither be the
        best nor, without an answer, is on the front."""
        (x0, x1), (y0, y1) = self.ranges()
        points, answer = self.points, self.run.answer
        best = (
            points["final"]
            if answer is None
            else points["hash"].isin((answer.recommended, *answer.tied))
        )
        labelled = points.assign(minor=~best)[
            points["final"] | ((points["origin"] == "baseline") & self.main)
        ]
        texts = [self._name(row) for row in rows(labelled)]
        xs, ys = self.steps()  # a label is wider than the gaps between these points
        obstacles = [
            *points[~points["small"]][["x", "y"]].to_numpy(),
            *(
                (xa + (xb - xa) * k / 80, ya + (yb - ya) * k / 80)
                for xa, ya, xb, yb in zip(xs, ys, xs[1:], ys[1:], strict=False)
                for k in range(81)
            ),
            *(
                (row.x, row.y + row.reach * k / 10)
                for row in rows(points)
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
                minor=row.minor,
                strong=bool(row.final),
                colour=INK if row.final else MUTED,
            )

    def _name(self, row: Any) -> str:
        """The name of the front; of other baselines what they are made of, since diamonds mark
        them.
        """
        finalist = finalist_of(self.run, row)
        if finalist and (self.run.ranks_full or not self.main):
            return finalist.name
        return name_of(self.run, row).replace("pure ", "")


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
    return Plane(
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


# -- pictures of planes ----------------------------------------------------------------------------


def _picture(run: RecordedRun, planes: Sequence[Plane], title: str = "") -> Picture:
    """The planes below each other."""
    return Picture(
        title=title or planes[0].title,
        subtitle=counts_line(run),
        panels=[
            _panel(plane, first=plane is planes[0], last=plane is planes[-1]) for plane in planes
        ],
        keys=list(_keys(planes)),
        keys_title="Fill: most frequent mixer\nRing: second most frequent",
    )


def _panel(plane: Plane, *, first: bool, last: bool) -> Panel:
    run, points, (range_x, range_y) = plane.run, plane.points, plane.ranges()
    marks: list[Mark] = []
    xs, ys = plane.steps()
    if xs:
        marks.append(Line(x=xs, y=ys, colour=INK))
    spread = points[points["reach"].notna()]
    if len(spread):
        marks.append(
            Whiskers(
                x=spread["x"], y=spread["y"], low=spread["reach"], high=spread["reach"], colour=SOFT
            )
        )
    failed = run.failed[run.failed["latency_ms"].notna()]
    if len(failed) and plane.main:
        top = range_y[1] - 0.025 * (range_y[1] - range_y[0])
        marks.append(
            Points(
                x=failed["latency_ms"] * plane.factor,
                y=[top] * len(failed),
                fill=MUTED,
                shape="cross",
                size=9,
                edge_width=2,
                hover=[f"trial {row.number} failed\n{row.reason}" for row in rows(failed)],
            )
        )
    if plane.budget:
        marks.append(
            Guide(
                at=plane.budget,
                colour=BUDGET,
                text=f"budget {number(plane.budget, 5, plane.unit)}" if first else "",
            )
        )
    height = HEIGHT if plane.main else SMALL_HEIGHT
    place = " on ".join(place_words(run))
    words = f"latency of one request{', ' * bool(place)}{place} ({plane.unit})"
    return Panel(
        x=PlotAxis(title=words if last else "", range=range_x),
        height=height,
        y=PlotAxis(
            title=plane.axis.replace("\n", " ") if plane.main else plane.axis, range=range_y
        ),
        marks=[*marks, *_networks(plane), *plane.labels(height)],
    )


def _networks(plane: Plane) -> Iterable[Points]:
    """Markers of one mixer and one look together, those that matter last."""
    points, folded = plane.points, len(plane.points) <= MAX_FOLDED
    looks = points.assign(
        pure=points["origin"] == "baseline",
        clear=~points["small"] & (points["final"] | plane.main),
        size=np.where(
            points["small"],
            5,
            np.where((points["origin"] == "search") | plane.run.ranks_full, 11, 8),
        ),
    )
    for (pure, clear, size), group in looks.groupby(["pure", "clear", "size"]):
        for kind in sorted(set(group["kind"]), key=operator_order):
            drawn = group[group["kind"] == kind]
            yield Points(
                x=drawn["x"],
                y=drawn["y"],
                group=kind,
                fill=operator_colour(kind),
                opacity=1.0 if clear else 0.55,
                size=14 if pure else float(str(size)),
                shape="diamond" if pure else "circle",
                edge=[INK] * len(drawn)
                if pure
                else [operator_colour(ring) for ring in drawn["ring"]],
                edge_width=1.2 if pure else 1.4 if size == 5 else 2.6,
                hover=[_hover(plane, row, folded=row.final or folded) for row in rows(drawn)],
            )


def _keys(planes: Sequence[Plane]) -> Iterable[Key]:
    run, points = planes[0].run, pd.concat([plane.points for plane in planes])
    baseline = points["origin"] == "baseline"
    if any(plane.steps()[0] for plane in planes):
        yield Key(
            text="Pareto front (P1, P2, …)" if run.front else "front so far",
            shape="line",
            colour=INK,
        )
    if points["reach"].notna().any():
        yield Key(text="90 % interval", shape="interval", colour=SOFT)
    for kind in sorted({*points["kind"], *points[~baseline]["ring"]}, key=operator_order):
        yield Key(
            text=operator_label(kind), shape="circle", colour=operator_colour(kind), group=kind
        )
    if baseline.any():
        yield Key(text="pure-operator baseline", shape="diamond", colour="white", edge=INK)
    if points["small"].any():
        yield Key(text="small: not on the front", shape="circle", colour=RULE, edge=MUTED, size=6)
    if run.failed["latency_ms"].notna().any() and planes[0].main:
        yield Key(text="failed: no loss", shape="cross", colour=MUTED, edge=MUTED, size=9)


def _hover(plane: Plane, row: Any, *, folded: bool) -> str:
    """The text of a trial; `folded` shortens the notation by its repeats."""
    bounds = (
        f" (90 %: {number(row.lower_ms)} to {number(row.upper_ms)})"
        if known(row.lower_ms) and known(row.upper_ms)
        else ""
    )
    lines, full = [name_of(plane.run, row)], known(row.full_loss)
    if full and known(row.reach):
        lines.append(
            f"full loss {row.y:+.3f} nats to the recommended one, 90 % within ± {row.reach:.3f}"
        )
    if full:
        recall, sd = number(row.expected_recall, 2), number(row.expected_recall_sd, 2)
        lines.append(f"recall {recall} ± {sd} to a transformer")
    if known(row.loss) or not full:
        name, bits = "short loss" if full else "loss", number(row.bits_per_byte)
        lines.append(f"{name} {number(row.loss)} nats/token · {bits} bits/byte")
    lines += [
        f"latency {number(row.latency_ms, 5, 'ms')}{bounds}",
        f"{parameters(row.params)} parameters · {number(row.memory_gb, 3, 'GB')}",
        *textwrap.wrap(compressed(row.notation) if folded else row.notation, 64),
    ]
    if not plane.main:
        lines.append(f"{title_of(plane.quality)} {row.y:.3g}")
    return "\n".join(lines)
