"""The figures of a run by their names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from flashnas.architecture.architecture import kinds
from flashnas.base.errors import RunError
from flashnas.base.text import counted, is_number, names_text, number, one_of, tokens_text
from flashnas.reporting.drawing import (
    BUDGET,
    INK,
    SOFT,
    STYLE,
    NothingToShow,
    Plot,
    hatch_of,
    key,
    operator_colour,
    operator_label,
    operator_order,
    ordered_sources,
    patch_key,
    percent,
)
from flashnas.reporting.planes import Plane, draw_plane, plane_keys, plane_of
from flashnas.reporting.words import (
    counts_line,
    front,
    front_loads_in,
    latency_unit,
    objective_points,
    place_words,
)
from flashnas.run_folder.recorded_run import RecordedRun, rows

FRONT_HEIGHT, HEIGHT = 430.0, 240.0  # pixels of plotting areas
BAR_HEIGHT = 38.0  # of one finalist
DEPTH_BINS = 12


def front_figure(run: RecordedRun, narrow: bool = False) -> Plot:
    """What ranks, against latency. Fill: most frequent token mixer, ring: second most frequent;
    diamonds: pure-operator baselines; where the full loss ranks, bars: 90 % intervals of the
    difference."""
    if run.scored.empty:
        raise NothingToShow(f"No network was trained to the end ({counts_line(run)}).")
    plane = plane_of(run)
    return _planes_figure([plane], plane.title, narrow)


def objectives_figure(run: RecordedRun, narrow: bool = False) -> Plot:
    if not run.further_objectives or objective_points(run)[0].empty:
        raise NothingToShow("No network has all objectives.")
    planes = [plane_of(run, name) for name in run.further_objectives]
    return _planes_figure(planes, "Further objectives against latency", narrow)


def _planes_figure(planes: Sequence[Plane], title: str, narrow: bool) -> Plot:
    """The planes below each other."""
    run = planes[0].run
    plot = Plot(
        title,
        " · ".join(filter(None, [counts_line(run), front_loads_in(run)])),
        [FRONT_HEIGHT if plane.main else HEIGHT for plane in planes],
        keys=list(plane_keys(planes)),
        keys_title="Fill: most frequent mixer\nRing: second most frequent",
        narrow=narrow,
    )
    place, unit = place_words(run), latency_unit(run)[1]
    words = f"latency of one request{', ' * bool(place)}{place} ({unit})"
    for plane, panel, size in zip(planes, plot.panels, plot.sizes, strict=True):
        last = plane is planes[-1]
        outside = plane.labelled["text"][~plane.inside(plane.labelled)]
        if last and run.answer is not None and len(outside):
            words += f"\nbeyond the axes: {names_text(list(outside))}"
        draw_plane(plot, panel, plane, size)
        axis = plane.axis.replace("\n", " ") if plane.main else plane.axis
        if plane.quality == "params":
            panel.yaxis.set_major_formatter(lambda count, _: tokens_text(count))
        plot.label(panel, words if last else "", axis)
        for at in plane.budgets if plane is planes[0] else ():
            panel.text(
                at,
                1.012,
                f"budget {number(at, 5, unit)}",
                color=BUDGET,
                ha="center",
                size=plot.small,
                transform=panel.get_xaxis_transform(),
            )
    return plot


def operators_figure(run: RecordedRun, narrow: bool = False) -> Plot:
    """Share of each kind of operator along the relative depth, in the front and in all networks."""
    searched = run.scored[run.scored["origin"] == "search"]
    named_networks = {
        f"the front{'' if run.front else ' so far'}": front(run),
        f"all that the search {'found' if run.ranks_full else 'evaluated'}": searched,
    }
    panels = {
        f"{name}: {counted(len(networks), 'network')}": shares
        for name, networks in named_networks.items()
        if not (shares := depth_shares(networks["notation"])).empty
    }
    if not panels:
        raise NothingToShow("No trained network with a readable notation.")
    shown = sorted({str(kind) for shares in panels.values() for kind in shares}, key=operator_order)
    plot = Plot(
        "Operators along the depth",
        "mean share of each operator in equal slices from the first operator to the last",
        [HEIGHT] * len(panels),
        columns=len(panels),
        keys=[patch_key(operator_label(kind), operator_colour(kind)) for kind in shown],
        narrow=narrow,
    )
    for panel, (heading, shares) in zip(plot.panels, panels.items(), strict=True):
        below = np.zeros(len(shares))
        for kind in map(str, shares.columns):
            bars = panel.bar(
                100 * shares.index,
                shares[kind],
                94 / DEPTH_BINS,
                below,
                color=operator_colour(kind),
            )
            below += shares[kind]
            for bar, depth, share in zip(bars, shares.index, shares[kind], strict=True):
                place = f"{share:.0%} at {100 * depth:.0f} % of the depth"
                plot.hover(bar, [f"{operator_label(kind)}\n{place}"])
        panel.set(xlim=(0, 100), ylim=(0, 1))
        panel.grid(False)
        percent(panel.yaxis)
        first = panel is plot.panels[0] or narrow
        plot.label(panel, "relative depth (%)", "share" if first else "", heading)
    return plot


def depth_shares(notations: Iterable[str], bins: int = DEPTH_BINS) -> pd.DataFrame:
    """Mean share of each kind of operator (columns) in equal slices of the relative depth (rows, by
    the middle of the slice from 0 to 1). All networks have the same weight; unreadable notations
    are left out.
    """
    stacks = [stack for stack in map(kinds, notations) if stack]
    columns = sorted({kind for stack in stacks for kind in stack}, key=operator_order)
    place = {kind: column for column, kind in enumerate(columns)}
    shares = np.zeros((bins, len(columns)))
    for stack in stacks:
        # each operator `bins` times: a slice then holds as many as the network has operators
        slices = np.repeat([place[kind] for kind in stack], bins).reshape(bins, -1)
        counts = [np.bincount(slice_, minlength=len(columns)) for slice_ in slices]
        shares += np.array(counts) / len(stack) / len(stacks)
    return pd.DataFrame(shares, (np.arange(bins) + 0.5) / bins, columns)


def latency_figure(run: RecordedRun, narrow: bool = False) -> Plot:
    """Latency of each finalist: operators by colour, sources by hatching."""
    parts = latency_parts(run)
    if parts.empty:
        raise NothingToShow("No finalist with a latency by operator.")
    factor, unit = latency_unit(run)
    names = list(dict.fromkeys(parts["finalist"]))
    keys = _latency_keys(parts)
    bounds = ("lower_ms", "latency_ms", "upper_ms")
    bounded = [
        (names.index(entry.name), *(entry.figures[bound] for bound in bounds))
        for entry in run.front
        if entry.name in names and all(is_number(entry.figures.get(bound)) for bound in bounds)
    ]
    if bounded:
        keys.append(key("lower to upper bound", INK, "|", linestyle="-", markeredgecolor=INK))
    plot = Plot(
        "Latency of each finalist by operator",
        "hatched: not measured but derived or roofline; whisker: lower to upper bound",
        [BAR_HEIGHT * len(names) + 20],
        keys=keys,
        narrow=narrow,
    )
    (panel,) = plot.panels
    for pair, segments in parts.groupby(["operator", "source"], sort=False):
        operator, source = map(str, pair)
        bars = panel.barh(
            [names.index(name) for name in segments["finalist"]],
            segments["ms"] * factor,
            0.65,
            segments["start"] * factor,
            color=operator_colour(operator),
            edgecolor="white",
            linewidth=0.5,
            hatch=hatch_of(source),
        )
        for bar, row in zip(bars, rows(segments), strict=True):
            time = f"{row.ms * factor:.4g} {unit}, {row.share:.1%}"
            label = operator_label(operator)
            plot.hover(bar, [f"{row.finalist} · {label}\n{time}\nsource: {source}"])
    if bounded:
        bar_y, low, middle, high = np.array(bounded, dtype=float).T
        low = low * factor
        middle = middle * factor
        high = high * factor
        panel.errorbar(
            middle,
            bar_y,
            xerr=(middle - low, high - middle),
            linestyle="none",
            ecolor=INK,
            elinewidth=1.1,
            capsize=2.5,
        )
    panel.set(ylim=(len(names) - 0.4, -0.6), yticks=range(len(names)), yticklabels=names)
    panel.set_xlim(left=0)
    panel.grid(False, axis="y")
    plot.label(panel, f"latency of one request ({unit})")
    return plot


def _latency_keys(parts: pd.DataFrame) -> list[Any]:
    """The entries of the legend: operators, then sources."""
    operators = sorted(set(parts["operator"]), key=operator_order)
    sources = ordered_sources(parts["source"])
    return [
        *(patch_key(operator_label(kind), operator_colour(kind)) for kind in operators),
        *(patch_key(f"source: {source}", SOFT, hatch_of(source)) for source in sources),
    ]


def latency_parts(run: RecordedRun) -> pd.DataFrame:
    """Milliseconds of each finalist by operator and source, in a fixed order of operators.

    Columns: finalist, operator, source, ms, share, and start, the milliseconds of what is before
    it.
    """
    parts = [
        (finalist.name, operator, source, ms)
        for finalist in run.front
        for operator in sorted(finalist.operators_ms, key=operator_order)
        for source, ms in finalist.operators_ms[operator].items()
        if is_number(ms) and ms > 0
    ]
    frame = pd.DataFrame(parts, columns=["finalist", "operator", "source", "ms"])
    frame = frame.astype({"ms": float})  # also without rows
    by_finalist = frame.groupby("finalist")["ms"]
    return frame.assign(
        share=frame["ms"] / by_finalist.transform("sum"), start=by_finalist.cumsum() - frame["ms"]
    )


def _curves(run: RecordedRun, narrow: bool) -> Plot:
    from flashnas.reporting.curves import curves_figure  # of runs that trained something

    return curves_figure(run, narrow)


FIGURES: dict[str, Callable[[RecordedRun, bool], Plot]] = {  # in the order of the page
    "front": front_figure,
    "operators": operators_figure,
    "latency-by-operator": latency_figure,
    "curves": _curves,
    "objectives": objectives_figure,
}


def draw(run: RecordedRun, name: str, narrow: bool = False) -> Plot:
    """A figure of a run, for a wide screen or a narrow one.

    Raises:
        RunError: there is no figure of that name.
        NothingToShow: the run has no data for it.
    """
    if name not in FIGURES:
        raise RunError(one_of("figure", name, FIGURES))
    with matplotlib.rc_context(STYLE):
        return FIGURES[name](run, narrow)
