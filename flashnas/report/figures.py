"""The figures of a run as pictures; their numbers come from `plot_data`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import isotonic_regression

from flashnas.report.marks import Bars, Guide, Key, Label, Line, Mark, Panel, Picture, PlotAxis, Whiskers
from flashnas.report.palette import (
    FAINT,
    INK,
    KERNEL_COLOURS,
    MUTED,
    SERIES,
    SOFT,
    hatch_of,
    operator_colour,
    operator_label,
    operator_order,
    ordered_sources,
)
from flashnas.report.planes import LINE, NOTHING, front_picture, objectives_picture, short_loss_picture
from flashnas.report.plot_data import (
    DEPTH_BINS,
    breakdown,
    depth_shares,
    finalist_of,
    front,
    hypervolume_series,
    latency_unit,
    name_of,
)
from flashnas.report.text import counted, known, number
from flashnas.runs.run import RecordedRun, rows

HEIGHT, CURVE_HEIGHT = 260.0, 368.0    # pixels of plotting areas
BAR_HEIGHT = 44.0                      # of one finalist
MAX_CURVES = 500                       # grey ones
LATE = 0.7                             # of the tokens: from here on, curves are magnified


def hypervolume(run: RecordedRun) -> Picture:
    title = "Hypervolume of the front over the networks trained"
    series = hypervolume_series(run)
    if not series.trials:
        return Picture(title=title, empty=f"{NOTHING}.")
    shares = bool(run.further_objectives) or "latency_ms" not in run.objectives
    factor, unit = latency_unit([series.reference[0]])
    if shares:
        factor = 1 / (series.hypervolume[-1] or 1.0)
        words = f"volume in {' by '.join(run.objectives)}, as a share of the last"
    else:
        words = (f"area between the front and the point ({number(series.reference[0] * factor, 4, unit)},"
                 f" {number(series.reference[1])} nats)")
    values = [value * factor for value in series.hypervolume]
    texts = [f"{value:.1%} of the last" if shares else f"hypervolume {value:.5g}" for value in values]
    marks: list[Mark] = [Line(
        x=list(range(1, 1 + len(values))), y=values, colour=INK, width=2, steps=True, marker=4,
        hover=[f"trial {trial}\n{text}" for trial, text in zip(series.trials, texts, strict=True)])]
    alone = None if series.baselines is None or shares else series.baselines * factor
    if alone is not None:
        marks.append(Guide(at=alone, colour=MUTED, text="pure-operator baselines alone"))
    return Picture(title=title, subtitle=f"{words}; higher is better", panels=[Panel(
        x=PlotAxis(title="networks trained, in the order of the search", range=(0, 1.04 * len(values))),
        y=PlotAxis(title=f"hypervolume ({'share of the last' if shares else f'{unit} · nats'})",
                   percent=shares, range=(0, 1.08 * max(*values, alone or 0.0) or 1.0)),
        marks=marks, height=HEIGHT)])


def operator_share(run: RecordedRun) -> Picture:
    """Share of each kind of operator along the relative depth, in the front and in all networks."""
    title = "Operators along the depth"
    best, searched = front(run), run.scored[run.scored["origin"] == "search"]
    names = (f"the front{'' if run.front else ' so far'}",
             f"all that the search {'found' if run.untrained else 'trained'}")
    panels = [(f"{name}: {counted(len(networks), 'network')}", shares)
              for name, networks in zip(names, (best, searched), strict=True)
              if not (shares := depth_shares(networks["notation"])).empty]
    if not panels:
        return Picture(title=title, empty="No trained network with a readable notation.")
    kinds = sorted({kind for _, shares in panels for kind in shares.columns}, key=operator_order)
    return Picture(
        title=title,
        subtitle="mean share of each operator in equal slices from the first operator to the last",
        columns=len(panels), keys=[Key(text=operator_label(kind), shape="square",
                                       colour=operator_colour(kind), group=kind) for kind in kinds],
        panels=[Panel(heading=name, height=HEIGHT, marks=list(_slices(shares)),
                      x=PlotAxis(title="relative depth (%)", range=(0, 100), grid=False),
                      y=PlotAxis(title="" if place else "share of the operators", range=(0, 1), percent=True,
                             grid=False))
                for place, (name, shares) in enumerate(panels)])


def _slices(shares: pd.DataFrame) -> Iterable[Bars]:
    below = np.zeros(len(shares))
    for kind in shares.columns:
        label = operator_label(kind)
        yield Bars(at=100 * shares.index.to_numpy(), start=below, length=shares[kind],
                   thickness=94 / DEPTH_BINS,
                   colour=operator_colour(kind), group=kind, hover=[
                       f"{label}\n{share:.0%} at {100 * depth:.0f} % of the depth"
                       for depth, share in zip(shares.index.to_numpy(), shares[kind], strict=True)])
        below = below + shares[kind].to_numpy()


def latency_by_operator(run: RecordedRun) -> Picture:
    """Latency of each finalist: operators by colour, kernels by segment, sources by hatching."""
    return _latencies(run, "Latency of each finalist by operator",
                      "one segment per kernel; hatched: not measured but derived or roofline; whisker: lower"
                      " to upper bound", "operator", ["operator", "kernel", "label", "source"])


def latency_by_kernel(run: RecordedRun) -> Picture:
    """The same latencies by family of kernels."""
    return _latencies(run, "Latency of each finalist by kernel",
                      "the same milliseconds, grouped by what the device executes", "family",
                      ["family", "source"])


def _latencies(run: RecordedRun, title: str, subtitle: str, by: str, columns: list[str]) -> Picture:
    parts = breakdown(run)
    if parts.empty:
        return Picture(title=title, empty="No finalist with a latency breakdown.")
    names = list(dict.fromkeys(parts["finalist"]))
    totals = parts.groupby("finalist")["ms"].sum()
    factor, unit = latency_unit(totals)
    order = list(KERNEL_COLOURS).index if by == "family" else operator_order
    parts = parts.groupby(["finalist", *columns], sort=False, as_index=False)[["ms", "share"]].sum()
    parts = parts.iloc[sorted(range(len(parts)), key=lambda i: order(parts[by].iloc[i]))]
    parts["start"] = parts.groupby("finalist")["ms"].cumsum() - parts["ms"]
    look = KERNEL_COLOURS.get if by == "family" else operator_colour
    groups = dict.fromkeys(parts[by])
    marks: list[Mark] = [_segments(part, names, factor, unit, str(look(part[by].iloc[0])))
                         for _, part in parts.groupby(columns, sort=False)]
    keys = [*(Key(text=operator_label(name), shape="square", colour=str(look(name)),
                  group=name) for name in groups),
            *(Key(text=f"source: {name}", shape="square", colour=SOFT, hatch=hatch_of(name))
              for name in ordered_sources(parts["source"]))]
    bounded = [entry for entry in run.front if entry.name in names and all(
        known(entry.figures.get(name)) for name in ("lower_ms", "latency_ms", "upper_ms"))]
    widest = max(totals) * factor
    if bounded and by == "operator":
        low, middle, high = (np.array([entry.figures[name] for entry in bounded], dtype=float) * factor
                             for name in ("lower_ms", "latency_ms", "upper_ms"))
        marks.append(Whiskers(x=middle, y=[names.index(entry.name) for entry in bounded],
                              low=middle - low, high=high - middle, colour=INK, along_x=True))
        keys.append(Key(text="lower to upper bound", shape="line", colour=INK))
        widest = max(widest, *high)
    return Picture(title=title, subtitle=subtitle, keys=keys, panels=[Panel(
        x=PlotAxis(title=f"latency of one request ({unit})", range=(0, 1.06 * widest)),
        y=PlotAxis(names=names, grid=False),
        marks=marks, height=max(BAR_HEIGHT * len(names), 60.0))])


def _segments(part: pd.DataFrame, names: Sequence[str], factor: float, unit: str, colour: str) -> Bars:
    first = part.iloc[0]
    if "operator" in part:
        kernel = f" ({first['kernel']})" if first["kernel"] != first["label"] else ""
        group, text = first["operator"], f"{operator_label(first['operator'])}\n{first['label']}{kernel}"
    else:
        group = text = first["family"]
    return Bars(at=[names.index(name) for name in part["finalist"]], start=part["start"] * factor,
                length=part["ms"] * factor, colour=colour, along_x=True, group=group,
                hatch=hatch_of(first["source"]), hover=[
                    f"{name} · {text}\n{ms * factor:.4g} {unit}, {share:.1%}\nsource: {first['source']}"
                    for name, ms, share in zip(part["finalist"], part["ms"], part["share"], strict=True)])


def training_curves(run: RecordedRun) -> Picture:
    """Validation loss over tokens seen, whole and, magnified, its last part."""
    title = "Training curves"
    trials = [row for row in rows(run.trained) if len(row.curve) > 0]
    if not trials:
        return Picture(title=title, empty="No training curve was recorded.")
    best = None if run.answer is None else {run.answer.recommended, *run.answer.tied}
    final = {row.number for row in trials if finalist_of(run, row) and (best is None or row.hash in best)}
    marked = sorted((row for row in trials if row.number in final or row.origin == "baseline"),
                    key=lambda row: -row.curve[-1][1])
    others = sorted((row for row in trials if row not in marked), key=lambda row: row.loss)
    step = -(-len(others) // MAX_CURVES) or 1
    grey = "every other network" if step == 1 else f"every {step}th other network by its loss"
    points = [point for row in others[::step] for point in (*row.curve, (None, None))]
    xs, ys = (list(values) for values in zip(*points, strict=True)) if points else ([], [])
    marks: list[Mark] = [Line(x=xs, y=ys, colour=FAINT, width=1)] if xs else []
    colours = dict(zip((row.number for row in marked), SERIES * len(marked), strict=False))
    marks += [Line(
        x=[x for x, _ in row.curve], y=[y for _, y in row.curve], colour=colours[row.number],
        width=2.2 if row.number in final else 1.6, dash=row.number not in final,
        hover=[f"{name_of(run, row)}\n{y:.4f} nats at {x:,.0f} tokens" for x, y in row.curve])
        for row in marked]
    last = max(row.curve[-1][0] for row in trials)
    whole, late = (_loss_range(trials, start) for start in (0.0, LATE * last))
    shifts = _spread([(row.curve[-1][1] - late[0]) / (late[1] - late[0]) * CURVE_HEIGHT for row in marked],
                     LINE, CURVE_HEIGHT)
    labels = [Label(x=row.curve[-1][0], y=row.curve[-1][1], text=name_of(run, row), dx=30, dy=shift,
                    left=True, colour=colours[row.number], strong=row.number in final)
              for row, shift in zip(marked, shifts, strict=True)]
    solid = "finalists" if best is None else "recommended and not told apart"
    return Picture(
        title=title, subtitle=f"solid: {solid}; dashed: pure-operator baselines; grey: {grey}",
        columns=2, shared=False, right=170, panels=[
            Panel(heading="the whole training", marks=marks, height=CURVE_HEIGHT,
                  x=PlotAxis(title="tokens seen", range=(0, last)),
                  y=PlotAxis(title="validation loss (nats per token)", range=whole)),
            Panel(heading=f"the last {1 - LATE:.0%} of the tokens", marks=[*marks, *labels],
                  height=CURVE_HEIGHT, x=PlotAxis(title="tokens seen", range=(LATE * last, last)),
                  y=PlotAxis(range=late))])


def _loss_range(trials: Sequence[Any], start: float) -> tuple[float, float]:
    """What holds the curves from `start` tokens on."""
    values = [y for row in trials for x, y in row.curve if x >= start and known(y)] or [0.0, 1.0]
    low, high = min(values), max(values)
    return low - 0.06 * ((high - low) or 1), high + 0.04 * ((high - low) or 1)


def _spread(heights: Sequence[float], gap: float, limit: float) -> list[float]:
    """Shifts that keep heights, from the highest to the lowest, at least `gap` apart within 0..limit: what
    collides moves as a pile around its mean."""
    steps = gap * np.arange(len(heights))[::-1]
    apart = isotonic_regression(np.array(heights) - steps, increasing=False).x if len(heights) else steps
    return list(np.clip(apart, 0, max(limit - gap * (len(heights) - 1), 0)) + steps - heights)


FIGURES: dict[str, Callable[[RecordedRun], Picture]] = {  # in the order of the page
    "front": front_picture, "short-loss": short_loss_picture, "hypervolume": hypervolume,
    "operators": operator_share, "latency-by-operator": latency_by_operator,
    "latency-by-kernel": latency_by_kernel, "curves": training_curves, "objectives": objectives_picture}
