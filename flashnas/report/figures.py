"""The figures of a run as pictures; their numbers come from `plot_data`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from flashnas.base.text import counted, known
from flashnas.report.marks import Bars, Key, Line, Mark, Panel, Picture, PlotAxis, Whiskers
from flashnas.report.palette import (
    FAINT,
    INK,
    SERIES,
    SOFT,
    hatch_of,
    operator_colour,
    operator_label,
    ordered_sources,
)
from flashnas.report.plane_pictures import front_picture, objectives_picture, operator_keys
from flashnas.report.plot_data import (
    DEPTH_BINS,
    depth_shares,
    finalist_of,
    front,
    latency_parts,
    latency_unit,
    name_of,
)
from flashnas.runs.run import RecordedRun, rows

HEIGHT, CURVE_HEIGHT = 260.0, 368.0  # pixels of plotting areas
BAR_HEIGHT = 44.0  # of one finalist
MAX_CURVES = 500  # grey ones, those of the lowest loss
LATE = 0.7  # of the tokens: from here on, curves are magnified


def operator_share(run: RecordedRun) -> Picture:
    """Share of each kind of operator along the relative depth, in the front and in all networks."""
    title = "Operators along the depth"
    best, searched = front(run), run.scored[run.scored["origin"] == "search"]
    names = (
        f"the front{'' if run.front else ' so far'}",
        f"all that the search {'found' if run.untrained else 'trained'}",
    )
    panels, kinds = [], set[str]()
    for name, networks in zip(names, (best, searched), strict=True):
        shares = depth_shares(networks["notation"])
        if not shares.empty:
            kinds.update(shares.columns)
            panels.append(
                Panel(
                    heading=f"{name}: {counted(len(networks), 'network')}",
                    height=HEIGHT,
                    marks=list(_slices(shares)),
                    x=PlotAxis(title="relative depth (%)", range=(0, 100), grid=False),
                    y=PlotAxis(title="share", range=(0, 1), percent=True, grid=False),
                )
            )
    if not panels:
        return Picture(title=title, empty="No trained network with a readable notation.")
    return Picture(
        title=title,
        subtitle="mean share of each operator in equal slices from the first operator to the last",
        columns=len(panels),
        keys=operator_keys(kinds, "square"),
        panels=panels,
    )


def _slices(shares: pd.DataFrame) -> Iterable[Bars]:
    below = np.zeros(len(shares))
    for kind in shares.columns:
        label = operator_label(kind)
        yield Bars(
            at=100 * shares.index.to_numpy(),
            start=below,
            length=shares[kind],
            thickness=94 / DEPTH_BINS,
            colour=operator_colour(kind),
            group=kind,
            hover=[
                f"{label}\n{share:.0%} at {100 * depth:.0f} % of the depth"
                for depth, share in zip(shares.index.to_numpy(), shares[kind], strict=True)
            ],
        )
        below = below + shares[kind].to_numpy()


def latency_by_operator(run: RecordedRun) -> Picture:
    """Latency of each finalist: operators by colour, sources by hatching."""
    title = "Latency of each finalist by operator"
    parts = latency_parts(run)
    if parts.empty:
        return Picture(title=title, empty="No finalist with a latency by operator.")
    names = list(dict.fromkeys(parts["finalist"]))
    totals = parts.groupby("finalist")["ms"].sum()
    factor, unit = latency_unit(totals)
    marks: list[Mark] = [
        _segments(part, names, factor, unit)
        for _, part in parts.groupby(["operator", "source"], sort=False)
    ]
    keys = operator_keys(parts["operator"], "square")
    keys += [
        Key(text=f"source: {name}", shape="square", colour=SOFT, hatch=hatch_of(name))
        for name in ordered_sources(parts["source"])
    ]
    widest = max(totals) * factor
    bounds = ("lower_ms", "latency_ms", "upper_ms")
    bounded = [
        entry
        for entry in run.front
        if entry.name in names and all(known(entry.figures.get(name)) for name in bounds)
    ]
    if bounded:
        times = [[entry.figures[name] for name in bounds] for entry in bounded]
        low, middle, high = np.array(times, dtype=float).T * factor
        marks.append(
            Whiskers(
                x=middle,
                y=[names.index(entry.name) for entry in bounded],
                low=middle - low,
                high=high - middle,
                colour=INK,
                along_x=True,
            )
        )
        keys.append(Key(text="lower to upper bound", shape="line", colour=INK))
        widest = max(widest, *high)
    return Picture(
        title=title,
        keys=keys,
        subtitle="hatched: not measured but derived or roofline; whisker: lower to upper bound",
        panels=[
            Panel(
                x=PlotAxis(title=f"latency of one request ({unit})", range=(0, 1.06 * widest)),
                y=PlotAxis(names=names, grid=False),
                marks=marks,
                height=max(BAR_HEIGHT * len(names), 60.0),
            )
        ],
    )


def _segments(part: pd.DataFrame, names: Sequence[str], factor: float, unit: str) -> Bars:
    operator, source = part.iloc[0][["operator", "source"]]
    return Bars(
        at=[names.index(name) for name in part["finalist"]],
        start=part["start"] * factor,
        length=part["ms"] * factor,
        colour=operator_colour(operator),
        along_x=True,
        group=operator,
        hatch=hatch_of(source),
        hover=[
            f"{name} · {operator_label(operator)}\n{ms * factor:.4g} {unit}, {share:.1%}\nsource:"
            f" {source}"
            for name, ms, share in zip(part["finalist"], part["ms"], part["share"], strict=True)
        ],
    )


def training_curves(run: RecordedRun) -> Picture:
    """Validation loss over tokens seen, whole and, magnified, its last part."""
    title = "Training curves"
    trials = [row for row in rows(run.trained) if len(row.curve) > 0]
    if not trials:
        return Picture(title=title, empty="No training curve was recorded.")
    answer, solid = run.answer, "finalists"
    final = {row.number for row in trials if finalist_of(run, row)}
    if answer is not None:
        solid, best = "recommended and not told apart", (answer.recommended, *answer.tied)
        final &= {row.number for row in trials if row.hash in best}
    marked = sorted(
        (row for row in trials if row.number in final or row.origin == "baseline"),
        key=lambda row: -row.curve[-1][1],
    )
    others = sorted((row for row in trials if row not in marked), key=lambda row: row.loss)
    points = [point for row in others[:MAX_CURVES] for point in (*row.curve, (None, None))]
    marks: list[Mark] = []
    if points:
        xs, ys = zip(*points, strict=True)
        marks = [Line(x=xs, y=ys, colour=FAINT, width=1)]
    colours = dict(zip((row.number for row in marked), SERIES * len(marked), strict=False))
    marks += [
        Line(
            x=[x for x, _ in row.curve],
            y=[y for _, y in row.curve],
            colour=colours[row.number],
            width=2.2 if row.number in final else 1.6,
            dash=row.number not in final,
            hover=[f"{name_of(run, row)}\n{y:.4f} nats at {x:,.0f} tokens" for x, y in row.curve],
        )
        for row in marked
    ]
    last = max(row.curve[-1][0] for row in trials)
    whole, late = (_loss_range(trials, start) for start in (0.0, LATE * last))
    keys = [
        Key(
            text=name_of(run, row),
            shape="line" if row.number in final else "dashes",
            colour=colours[row.number],
        )
        for row in marked
    ]
    return Picture(
        title=title,
        subtitle=f"solid: {solid}; dashed: pure-operator baselines; grey: other networks",
        keys=keys,
        keys_title="By the final loss, highest first",
        columns=2,
        shared=False,
        panels=[
            Panel(
                heading="the whole training",
                marks=marks,
                height=CURVE_HEIGHT,
                x=PlotAxis(title="tokens seen", range=(0, last)),
                y=PlotAxis(title="validation loss (nats per token)", range=whole),
            ),
            Panel(
                heading=f"the last {1 - LATE:.0%} of the tokens",
                marks=marks,
                height=CURVE_HEIGHT,
                x=PlotAxis(title="tokens seen", range=(LATE * last, last)),
                y=PlotAxis(range=late),
            ),
        ],
    )


def _loss_range(trials: Sequence[Any], start: float) -> tuple[float, float]:
    """What holds the curves from `start` tokens on."""
    values = [y for row in trials for x, y in row.curve if x >= start and known(y)] or [0.0, 1.0]
    low, high = min(values), max(values)
    return low - 0.06 * ((high - low) or 1), high + 0.04 * ((high - low) or 1)


FIGURES: dict[str, Callable[[RecordedRun], Picture]] = {  # in the order of the page
    "front": front_picture,
    "operators": operator_share,
    "latency-by-operator": latency_by_operator,
    "curves": training_curves,
    "objectives": objectives_picture,
}
