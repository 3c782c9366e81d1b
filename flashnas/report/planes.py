"""A quality against latency: the figures of a front, its short losses and its further objectives."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from flashnas.architecture.folding import compressed
from flashnas.report.marks import Scale, Key, Label, Line, Mark, Panel, Picture, Points, Guide, Whiskers
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
    place_labels,
    staircase,
)
from flashnas.report.text import known, number, parameters
from flashnas.report.words import counts_line
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import FULL, larger_is_better, title_of

INTERVAL_90 = 1.645      # standard deviations on each side
HEADROOM = 0.6           # of the front's height that points above it may add to the axis
MAX_FOLDED = 600         # networks up to which all hovers have short notations, which take milliseconds
BOX_WIDTH, LETTER, LINE = 760.0, 7.4, 15.0   # pixels: of a plotting area, of labels
HEIGHT, SMALL_HEIGHT = 430.0, 220.0
NOTHING = "No network was trained to the end"


def front_picture(run: RecordedRun) -> Picture:
    """What ranks, against latency. Fill: most frequent token mixer, ring: second most frequent; diamonds:
    pure-operator baselines; where the full loss ranks, bars: 90 % intervals of the difference."""
    if run.scored.empty:
        return Picture(title="Loss against latency", empty=f"{NOTHING} ({counts_line(run)}).")
    return _picture(run, [plane_of(run)])


def short_loss_picture(run: RecordedRun) -> Picture:
    """The loss of the short trainings, where the full loss ranks."""
    if run.trained.empty:
        return Picture(title="Loss of the short trainings", empty="Nothing was trained.")
    return _picture(run, [plane_of(run, "loss")])


def objectives_picture(run: RecordedRun) -> Picture:
    """One panel for each objective besides loss and latency."""
    title = "Further objectives against latency"
    if not run.further_objectives or objective_points(run)[0].empty:
        return Picture(title=title, empty="No network has all objectives.")
    return _picture(run, [plane_of(run, name) for name in run.further_objectives], title)


def still_picture(run: RecordedRun) -> Picture:
    """The front; below it the short loss where the full loss ranks, and further objectives."""
    if run.scored.empty:
        return front_picture(run)
    names = [run.quality, *(["loss"] if run.ranks_full and not run.trained.empty else []),
             *run.further_objectives]
    planes = [plane_of(run, name) for name in names]
    parts = [run.entry("workload", "name"), run.entry("table", "device") or run.entry("table", "name")]
    return _picture(run, [plane for plane in planes if len(plane.points)], planes[0].title,
                    " · ".join([*(str(part) for part in parts if part), counts_line(run)]))


@dataclass(frozen=True, eq=False)
class Plane:
    """Networks by latency and one quality.

    quality: `loss`, of short trainings; `full_loss`, as the difference to the recommended network; or another
    objective. points: trials with further columns: y, the quality; reach, half of its 90 % interval, NaN
    without one; final: on the front; small: neither on the front nor a baseline, where the full loss ranks.
    """

    run: RecordedRun
    quality: str
    points: pd.DataFrame
    title: str
    axis: str

    @property
    def main(self) -> bool:
        """Whether it is of what ranks."""
        return self.quality == self.run.quality

    @property
    def further(self) -> bool:
        return self.quality in self.run.further_objectives

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

    def steps(self) -> tuple[list[float], list[float]]:
        """The corners of the front, drawn to the budget. There are none where the full loss ranks, since its
        uncertainty counts there as well, and a floor for recall."""
        right = self.ranges()[0][1]
        drawn = self.main and not self.run.ranks_full
        return staircase(front(self.run), min(right, self.run.budget_ms or right)) if drawn else ([], [])

    def labels(self, height: float) -> list[tuple[str, Any, tuple[float, float]]]:
        """(text, trial, offset in pixels) of the labels: the front's names and the baselines'; of short
        losses where the full loss ranks, the recommended network and those that cannot be told from it."""
        (x0, x1), (y0, y1) = self.ranges()

        def pixel(latency_ms: float, y: float) -> tuple[float, float]:
            return (latency_ms - x0) / (x1 - x0) * BOX_WIDTH, (y - y0) / (y1 - y0) * height

        labelled = [row for row in rows(self.points) if self._labelled(row)]
        texts = [self._name(row) for row in labelled]
        obstacles = [pixel(row.latency_ms, row.y) for row in rows(self.points) if not row.small]
        xs, ys = self.steps()
        obstacles += [pixel(xa + (xb - xa) * k / 80, ya + (yb - ya) * k / 80)  # a label is wider
                      for xa, ya, xb, yb in zip(xs, ys, xs[1:], ys[1:], strict=False) for k in range(81)]
        obstacles += [pixel(row.latency_ms, row.y + row.reach * k / 10) for row in rows(self.points)
                      if known(row.reach) for k in range(-10, 11)]
        if self.run.budget_ms:
            obstacles += [pixel(self.run.budget_ms, y0 + (y1 - y0) * k / 40) for k in range(41)]
        offsets = place_labels([pixel(row.latency_ms, row.y) for row in labelled],
                               [(LETTER * len(text) + 4, LINE) for text in texts], obstacles,
                               (BOX_WIDTH, height))
        return list(zip(texts, labelled, offsets, strict=True))

    def matters(self, row: Any) -> bool:
        """Whether a network is named where there is little room: it may be the best, or is on the front."""
        answer = self.run.answer
        return bool(row.final) if answer is None else row.hash in (answer.recommended, *answer.tied)

    def _labelled(self, row: Any) -> bool:
        if self.further:
            return bool(row.final)
        if self.run.answer is not None and not self.main:
            return self.matters(row)
        return bool(row.final or row.origin == "baseline")

    def _name(self, row: Any) -> str:
        """The name of the front; of other baselines what they are made of, since diamonds mark them."""
        finalist = finalist_of(self.run, row)
        if finalist and (self.run.ranks_full or self.further):
            return finalist.name
        return name_of(self.run, row).replace("pure ", "")


def plane_of(run: RecordedRun, quality: str | None = None) -> Plane:
    """The plane of what ranks, or of another quality."""
    quality = quality or run.quality
    none = pd.Series(np.nan, index=run.trials.index)
    if quality == FULL:
        return _full_plane(run)
    if quality != "loss":
        points = objective_points(run)[0]
        better = f"{'higher' if larger_is_better(quality) else 'lower'} is better"
        return Plane(run, quality, _marked(run, points, points[quality], none), "",
                     f"{title_of(quality)}\n{better}")
    points = run.trained
    ranks = run.quality == quality
    return Plane(run, quality, _marked(run, points, points["loss"], none),
                 "Loss against latency: every trained network" if ranks else
                 "Loss of the short trainings against latency",
                 "validation loss after short training\n(nats per token)" if ranks else
                 "short loss\n(nats per token)")


def _full_plane(run: RecordedRun) -> Plane:
    """The full loss to expect, as the difference to the recommended network; without one, to the lowest."""
    points, answer = run.scored, run.answer
    chosen = None if answer is None else run.front[run.finalists[1][answer.recommended]]
    base = points[FULL].min() if chosen is None else chosen.figures[FULL]
    y, reach = points[FULL] - base, pd.Series(np.nan, index=points.index)
    standings = {} if answer is None else {each.hash: each for each in (*answer.baselines, *answer.standings)}
    for row in rows(points):
        if row.hash in standings:
            y.at[row.Index] = standings[row.hash].difference
            reach.at[row.Index] = INTERVAL_90 * standings[row.hash].sd
    to = "the lowest" if chosen is None else chosen.name
    return Plane(run, FULL, _marked(run, points, y, reach),
                 "Loss to expect of a full training, against latency",
                 f"expected full loss,\ndifference to {to} (nats per token)")


def _marked(run: RecordedRun, points: pd.DataFrame, y: pd.Series, reach: pd.Series) -> pd.DataFrame:
    """The points with the further columns."""
    final = np.array([finalist_of(run, row) is not None for row in rows(points)], dtype=bool)
    return points.assign(y=y, reach=reach, final=final,
                         small=run.ranks_full & ~final & (points["origin"] != "baseline").to_numpy())


# -- pictures of planes --------------------------------------------------------------------------------------

def _picture(run: RecordedRun, planes: Sequence[Plane], title: str = "", subtitle: str = "") -> Picture:
    """The planes below each other, the first one large where it is what ranks."""
    return Picture(title=title or planes[0].title, subtitle=subtitle or counts_line(run),
                   panels=[_panel(plane, HEIGHT if plane.main else SMALL_HEIGHT, last=plane is planes[-1],
                                  alone=len(planes) == 1) for plane in planes],
                   keys=_keys(planes), keys_title="Fill: most frequent mixer\nRing: second most frequent")


def _panel(plane: Plane, height: float, *, last: bool, alone: bool) -> Panel:
    run, points, (factor, unit) = plane.run, plane.points, plane.unit
    (x0, x1), (y0, y1) = plane.ranges()
    marks: list[Mark] = []
    xs, ys = plane.steps()
    if xs:
        marks.append(Line(x=[x * factor for x in xs], y=ys, colour=INK))
    spread = points[points["reach"].notna()]
    if len(spread):
        marks.append(Whiskers(x=spread["latency_ms"] * factor, y=spread["y"], low=spread["reach"],
                              high=spread["reach"], colour=SOFT))
    failed = run.failed[run.failed["latency_ms"].notna()]
    if len(failed) and not plane.further:
        marks.append(Points(x=failed["latency_ms"] * factor, y=[y1 - 0.025 * (y1 - y0)] * len(failed),
                            fill=[MUTED] * len(failed), shape="cross", size=9, edge_width=2,
                            hover=[f"trial {row.number} failed\n{row.reason}" for row in rows(failed)]))
    if run.budget_ms:
        text = f"budget {number(run.budget_ms * factor, 5, unit)}" if plane.main or alone else ""
        marks.append(Guide(at=run.budget_ms * factor, colour=BUDGET, upright=True, text=text))
    marks += _networks(plane)
    marks += [Label(x=row.latency_ms * factor, y=row.y, text=text, dx=dx, dy=dy, minor=not plane.matters(row),
                    strong=bool(row.final), colour=INK if row.final else MUTED)
              for text, row, (dx, dy) in plane.labels(height)]
    workload, device = run.entry("workload", "name"), run.entry("table", "device") or run.entry("table",
                                                                                                "name")
    words = (f"latency of one request{f', {workload}' if workload else ''}{f' on {device}' if device else ''}"
             f" ({unit})")
    return Panel(x=Scale(title=words if last else "", range=(x0 * factor, x1 * factor)),
                 y=Scale(title=plane.axis if height < HEIGHT else plane.axis.replace("\n", " "),
                        range=(y0, y1)),
                 marks=marks, height=height)


def _networks(plane: Plane) -> Iterable[Points]:
    """Markers of one mixer and one look together, those that matter last."""
    run, points, factor = plane.run, plane.points, plane.unit[0]
    mixers = points["notation"].map(mixer_colours)
    pure, searched = points["origin"] == "baseline", points["origin"] == "search"
    size = np.where(pure, 14, np.where(points["small"], 5, np.where(searched | run.ranks_full, 11, 8)))
    faint = points["small"] | (plane.further & ~points["final"])
    looks = points.assign(size=size, faint=faint, pure=pure, kind=mixers.str[0], ring=mixers.str[1])
    for (_, faint, size), group in sorted(looks.groupby(["pure", "faint", "size"]),
                                          key=lambda item: (item[0][0], not item[0][1], item[0][2])):
        for kind in sorted(set(group["kind"]), key=operator_order):
            drawn = group[group["kind"] == kind]
            diamond = bool(drawn["pure"].iloc[0])
            yield Points(
                x=drawn["latency_ms"] * factor, y=drawn["y"], group=kind, size=float(size),
                fill=[operator_colour(kind)] * len(drawn), shape="diamond" if diamond else "circle",
                edge=[INK if diamond else operator_colour(ring) for ring in drawn["ring"]],
                edge_width=1.2 if diamond else 1.4 if size == 5 else 2.6, opacity=0.55 if faint else 1.0,
                hover=[_hover(plane, row,
                              folded=row.final or len(points) <= MAX_FOLDED) for row in rows(drawn)])


def _keys(planes: Sequence[Plane]) -> Iterable[Key]:
    run, points = planes[0].run, pd.concat([plane.points for plane in planes])
    mixers, baseline = points["notation"].map(mixer_colours), points["origin"] == "baseline"
    keys = [Key(text="Pareto front (P1, P2, …)" if run.front else "front so far", shape="line", colour=INK)
            ] if any(plane.steps()[0] for plane in planes) else []
    if points["reach"].notna().any():
        keys.append(Key(text="90 % interval", shape="interval", colour=SOFT))
    kinds = {*mixers.str[0], *mixers[~baseline].str[1]}
    keys += [Key(text=operator_label(kind), shape="circle", colour=operator_colour(kind), group=kind)
             for kind in sorted(kinds, key=operator_order)]
    if baseline.any():
        keys.append(Key(text="pure-operator baseline", shape="diamond", colour="white", edge=INK))
    if points["small"].any():
        keys.append(Key(text="small: not on the front", shape="circle", colour=RULE, edge=MUTED, size=6))
    if run.failed["latency_ms"].notna().any() and not planes[0].further:
        keys.append(Key(text="failed: no loss", shape="cross", colour=MUTED, edge=MUTED, size=9))
    return keys


def _hover(plane: Plane, row: Any, *, folded: bool) -> str:
    """The text of a trial; `folded` shortens the notation by its repeats."""
    bounds = (f" (bounds {number(row.lower_ms)} to {number(row.upper_ms)})"
              if known(row.lower_ms) and known(row.upper_ms) else "")
    lines = [name_of(plane.run, row), *_losses(row), f"latency {number(row.latency_ms, 5, 'ms')}{bounds}",
             f"{parameters(row.params)} parameters · {number(row.memory_gb, 3, 'GB')}",
             *textwrap.wrap(compressed(row.notation) if folded else row.notation, 64)]
    if plane.further:
        lines.append(f"{title_of(plane.quality)} {row.y:.3g}")
    return "\n".join(lines)


def _losses(row: Any) -> Iterable[str]:
    """What is known of the losses of a trial, a line each."""
    full = known(row.full_loss)
    if full and known(row.reach):
        yield f"full loss {row.y:+.3f} nats to the recommended one, 90 % within ± {row.reach:.3f}"
    if full:
        recall, sd = number(row.expected_recall, 2), number(row.expected_recall_sd, 2)
        yield f"recall {recall} ± {sd} to a transformer"
    if known(row.loss) or not full:
        name, bits = "short loss" if full else "loss", number(row.bits_per_byte)
        yield f"{name} {number(row.loss)} nats/token · {bits} bits/byte"
