"""The pictures of planes: the figures of a front and of its further objectives."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from flashnas.architecture.folding import compressed
from flashnas.base.text import known, names_text, number, parameters, with_interval
from flashnas.report.marks import (
    Guide,
    Key,
    Line,
    Mark,
    Panel,
    Picture,
    PlotAxis,
    Points,
    Shape,
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
from flashnas.report.planes import Plane, plane_of
from flashnas.report.plot_data import name_of, objective_points
from flashnas.report.words import counts_line, place_words
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import title_of

MAX_FOLDED = 600  # networks up to which all hovers have short notations, which take milliseconds
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
    points, (range_x, range_y) = plane.points, plane.ranges()
    marks: list[Mark] = []
    xs, ys = plane.steps()
    if xs:
        marks.append(Line(x=xs, y=ys, colour=INK))
    spread = pd.concat([points[points["reach"].notna()], plane.published])
    spread = spread[plane.inside(spread)]
    if len(spread):
        marks.append(
            Whiskers(
                x=spread["x"], y=spread["y"], low=spread["reach"], high=spread["reach"], colour=SOFT
            )
        )
    marks += [
        Guide(at=at, colour=BUDGET, text=f"budget {number(at, 5, plane.unit)}" * first)
        for at in plane.budgets
    ]
    height = HEIGHT if plane.main else SMALL_HEIGHT
    place = " on ".join(place_words(plane.run))
    words = f"latency of one request{', ' * bool(place)}{place} ({plane.unit})"
    if plane.run.answer is not None and (names := plane.outside()):
        words += f"\nbeyond the axes: {names_text(names)}"
    return Panel(
        x=PlotAxis(title=words if last else "", range=range_x),
        height=height,
        y=PlotAxis(
            title=plane.axis.replace("\n", " ") if plane.main else plane.axis, range=range_y
        ),
        marks=[*marks, *_published(plane), *_networks(plane), *plane.labels(height)],
    )


def _published(plane: Plane) -> Iterable[Points]:
    shown = plane.published
    if len(shown):
        hovers = [
            f"{row.name}\npublished model, with the vocabulary of the space\n"
            f"full loss {row.y:+.3f} ± {row.reach:.3f} nats to the recommended one\n"
            f"latency {number(row.x, 4, plane.unit)}"
            for row in rows(shown)
        ]
        yield Points(x=shown["x"], y=shown["y"], fill=SOFT, shape="triangle", size=10, hover=hovers)


def _networks(plane: Plane) -> Iterable[Points]:
    """Markers of one mixer and one look together, those that matter last."""
    points, folded = plane.points, len(plane.points) <= MAX_FOLDED
    looks = points.assign(
        pure=points["origin"] == "baseline",
        clear=~points["small"] & (points["final"] | plane.main),
    )
    for (pure, small, clear), group in looks.groupby(["pure", "small", "clear"]):
        for kind in sorted(set(group["kind"]), key=operator_order):
            drawn = group[group["kind"] == kind]
            yield Points(
                x=drawn["x"],
                y=drawn["y"],
                group=kind,
                fill=operator_colour(kind),
                opacity=1.0 if clear else 0.55,
                size=12 if pure else 5 if small else 11,
                shape="diamond" if pure else "circle",
                edge=[INK if pure else operator_colour(ring) for ring in drawn["ring"]],
                edge_width=1.2 if pure else 1.4 if small else 2.6,
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
    yield from operator_keys({*points["kind"], *points[~baseline]["ring"]}, "circle")
    if baseline.any():
        yield Key(text="pure-operator baseline", shape="diamond", colour="white", edge=INK)
    if planes[0].inside(planes[0].published).any():
        yield Key(text="published model", shape="triangle", colour=SOFT)
    if points["small"].any():
        yield Key(text="small: not on the front", shape="circle", colour=RULE, edge=MUTED, size=6)


def operator_keys(kinds: Iterable[str], shape: Shape) -> list[Key]:
    return [
        Key(text=operator_label(kind), shape=shape, colour=operator_colour(kind), group=kind)
        for kind in sorted(set(kinds), key=operator_order)
    ]


def _hover(plane: Plane, row: Any, *, folded: bool) -> str:
    """The text of a trial; `folded` shortens the notation by its repeats."""
    bounds = ""
    if known(row.lower_ms) and known(row.upper_ms):
        bounds = f" (90 %: {number(row.lower_ms)} to {number(row.upper_ms)})"
    lines, full = [name_of(plane.run, row)], known(row.full_loss)
    if full and known(row.reach):
        lines.append(f"full loss {row.y:+.3f} ± {row.reach:.3f} nats to the recommended one")
    if full:
        recall = with_interval(row.expected_recall, row.expected_recall_sd, 2)
        lines.append(f"recall {recall} to a transformer")
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
