"""The plots of a run by matplotlib, without a display: its networks in the objectives that were asked
for, and the curves of its trainings."""

from __future__ import annotations

import io
import itertools
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flashnas.architecture.architecture import mixers_by_use
from flashnas.base.text import (
    INTERVAL_90,
    counted,
    number,
    printable,
    shortened,
    tokens_text,
)
from flashnas.operators import OPERATORS
from flashnas.reporting.words import (
    PUBLISHED,
    counts_line,
    latency_unit,
    place_words,
    shown_networks,
)
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.trials.pareto import FULL, larger_is_better, title_of

INK, MUTED, SOFT, FAINT, RULE = "#1B1F24", "#667085", "#98A2B3", "#D0D5DD", "#E4E7EC"
BUDGET = "#B42318"
# hues of Okabe-Ito and Tol, for colour-blind readers
SERIES = ("#D55E00", "#2B2D5B", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7B8494", "#0072B2")
STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a dollar sign is no formula
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "grid.color": RULE,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "legend.frameon": False,
    "font.size": 10,
}
INTERVAL: dict[str, Any] = {"linestyle": "none", "ecolor": SOFT, "elinewidth": 1, "capsize": 2}
WIDTH, DPI = 7.6, 150  # inches; pixels to an inch
# kind of a point -> marker and its size in square points, in the order of drawing
MARKS = {
    "other network": (".", 30),
    "published model": ("^", 42),
    "on the front": ("o", 40),
    "best of another family": ("D", 36),
    "baseline": ("D", 36),
    "recommended": ("*", 190),
}
COMPARED = ("best of another family", "baseline", "on the front", "recommended")
ROOM = 0.08  # of an axis, beside the outermost points
LARGEST = 1e15  # number that is drawn, which strangers' files need not keep to


class Plot(Figure):
    """A figure of matplotlib with a title and panels below each other, which a notebook shows.

    panels: the axes, from above.
    """

    def __init__(self, title: str, subtitle: str, panels: int = 1, height: float = 4.2) -> None:
        """height: inches of a panel with its share of the title and the legend."""
        super().__init__((WIDTH, height * panels + 0.7), dpi=DPI, layout="constrained")
        FigureCanvasAgg(self)
        words = "\n".join(map(printable, [title, *textwrap.wrap(subtitle, 100)]))
        self.suptitle(words, x=0.01, ha="left", fontsize=10.5)
        self.panels: list[Axes] = list(self.subplots(panels, squeeze=False)[:, 0])

    def png(self) -> bytes:
        self.savefig(file := io.BytesIO(), format="png")
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()


def operator_colour(kind: str) -> str:
    """The colour of an operator's short name; grey for other names."""
    return OPERATORS[kind].colour if kind in OPERATORS else SOFT


def key(text: str, colour: str, marker: str = "", **style: Any) -> Line2D:
    """An entry of a legend: a marker, or a line."""
    line = {"linestyle": "none", "markersize": 7, **style}
    return Line2D([], [], color=colour, marker=marker, label=shortened(printable(text), 40), **line)


# -- the front -------------------------------------------------------------------------------------


def pareto_plot(run: RecordedRun) -> Plot:
    """All networks of a run in its objectives: what ranks over each cost, in a panel each. The front
    is within the axes; networks of the table have a label, and their interval."""
    costs = [name for name in run.objectives if name != run.quality]
    words = [title_of(name).partition(" (")[0] for name in costs]
    title = f"{'Loss to expect of a full training' if run.ranks_full else 'Loss'} against"
    points = _points(run, costs)
    with matplotlib.rc_context(STYLE):
        plot = Plot(f"{title} {' and '.join(words)}", f"{run.name}: {counts_line(run)}", len(costs))
        placed = [
            _draw(panel, run, cost, points) for panel, cost in zip(plot.panels, costs, strict=True)
        ]
        drawn = points.index.isin(np.concatenate([part.index for part in placed]))
        keys = list(_keys(points[drawn]))
        if beyond := int((points[costs].notna().all(axis=1) & ~drawn).sum()):
            keys.append(key(f"beyond the axes: {counted(beyond, 'network')}", "none"))
        plot.legend(handles=keys, loc="outside lower left", ncols=3, fontsize=9)
        plot.draw_without_rendering()  # places the panels, from which follow the places of labels
        for panel, part in zip(plot.panels, placed, strict=True):
            _label(panel, part)
    return plot


def _points(run: RecordedRun, costs: list[str]) -> pd.DataFrame:
    """The networks, those of the table last: kind, label if the table has it, kind of most mixers, and
    numbers. y: what ranks; of a full loss, its difference to the recommended network. reach: half of its
    90 % interval."""
    own, beside = shown_networks(run)
    known = {entry.hash for entry in (*own, *beside)}
    front = {entry.hash for entry in (*run.front, *own)}
    chosen, base = run.recommended, 0.0
    if run.ranks_full:
        base = run.scored[FULL].min() if chosen is None else chosen.full_loss or 0.0
    found = []
    others = {entry.hash: entry for entry in (*rows(run.scored), *run.front)}
    unnamed = [entry for key, entry in others.items() if key not in known]
    for entry in (*unnamed, *own, *beside):
        kind, text = "other network", ""
        if entry.hash in known:
            title = entry.label if entry.hash else entry.notation
            text = (title if entry in beside else entry.name).partition(" (")[0]
        if chosen is not None and entry.hash == chosen.hash:
            kind = "recommended"
        elif entry.label == PUBLISHED:
            kind = "published model"
        elif entry.hash in front:
            kind = "on the front"
        elif entry.origin == "baseline":
            kind = "best of another family" if run.ranks_full else "baseline"
        y, sd = (getattr(entry, f"full_loss_difference{end}", None) for end in ("", "_sd"))
        if y is None or not run.ranks_full:
            y, sd = getattr(entry, run.quality), 0.0
            y = np.nan if y is None else y - base
        times = {name: getattr(entry, name) if text else None for name in ("lower_ms", "upper_ms")}
        found.append(
            {
                **{name: getattr(entry, name) for name in costs},
                **times,
                "y": y,
                "reach": INTERVAL_90 * (sd or 0.0) if text else 0.0,
                "kind": kind,
                "text": text,
                "mixer": next(iter(mixers_by_use(entry.notation)), "?"),
            }
        )
    names = ["kind", "text", "mixer", "y", "reach", "lower_ms", "upper_ms", *costs]
    frame = pd.DataFrame(found, columns=list(dict.fromkeys(names)))
    numbers = frame.iloc[:, 3:].astype(float)
    frame[numbers.columns] = numbers.where(numbers.abs() < LARGEST)
    return frame[frame["y"].notna() & frame["reach"].notna()]


def _draw(panel: Axes, run: RecordedRun, cost: str, points: pd.DataFrame) -> pd.DataFrame:
    """Draw networks over one cost, on axes that hold all of the front and what it is compared with,
    and others as far as they are near. Returns those within, with their cost as x."""
    scale, unit = latency_unit(run) if cost == "latency_ms" else (1.0, "")
    place = place_words(run)
    better = "higher" if larger_is_better(cost) else "lower"
    label = f"latency of one request{', ' * bool(place)}{place} ({unit})"
    panel.set_xlabel(printable(label if unit else f"{title_of(cost)}; {better} is better"))
    full = "expected full loss" + ", to the recommended" * (run.answer is not None)
    panel.set_ylabel(f"{full if run.ranks_full else 'loss'}\n(nats per token)")
    if cost.endswith("params"):
        panel.xaxis.set_major_formatter(lambda count, _: tokens_text(count) if count else "0")
    placed = points.assign(x=points[cost] * scale).dropna(subset="x")
    if placed.empty:
        panel.text(0.5, 0.5, "no network has a score yet", transform=panel.transAxes, ha="center")
        return placed
    compared = placed[placed["kind"].isin(COMPARED)]
    compared = placed if compared.empty else compared
    budget = [run.budgets[cost] * scale] if cost in run.budgets else []
    ends = [compared["y"] - compared["reach"], compared["y"] + compared["reach"]]
    low, high = _range(compared["y"], itertools.chain(placed["y"], *ends))
    left, right = _range(compared["x"], [*placed["x"], *budget])
    panel.set(xlim=(left, right), ylim=(low, high))
    for x in budget:
        panel.axvline(x, color=BUDGET, linestyle="--", linewidth=1.2)
        text = f"dashed: budget of {number(x, 5, unit)}"
        panel.set_title(text, color=BUDGET, fontsize=9, loc="right")
    for order, (kind, (marker, size)) in enumerate(MARKS.items()):
        some = placed[placed["kind"] == kind]
        xs, ys = some["x"], some["y"]
        panel.errorbar(xs, ys, some["reach"].replace(0.0, np.nan), **INTERVAL)
        if cost == "latency_ms":
            widths = [xs - scale * some["lower_ms"], scale * some["upper_ms"] - xs]
            panel.errorbar(xs, ys, None, [width.clip(lower=0) for width in widths], **INTERVAL)
        sizes = np.where((some["text"] == "") & (kind == "on the front"), size / 3, size)
        colours = [SOFT if kind == "published model" else operator_colour(m) for m in some["mixer"]]
        edge = INK if marker == "D" else "white"
        panel.scatter(
            xs, ys, sizes, colours, marker=marker, edgecolors=edge, linewidths=0.7, zorder=4 + order
        )
    return placed[placed["x"].between(left, right) & placed["y"].between(low, high)]


def _range(compared: Iterable[float], others: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis that hold what is compared, others up to its length away."""
    low, high = min(compared), max(compared)
    # a lone network differs from itself by what rounding leaves
    size = high - low if high - low > 1e-6 else abs(high) * 0.1 or 1.0
    near = [value for value in others if low - size <= value <= high + size]
    low, high = min([low, *near]), max([high, *near])
    room = ROOM * max(high - low, size)
    return low - room, high + room


def _keys(points: pd.DataFrame) -> Iterator[Line2D]:
    """The entries of the legend."""
    for kind, (marker, size) in MARKS.items():
        if kind in set(points["kind"]):
            edge = INK if marker == "D" else SOFT
            yield key(kind, SOFT, marker, markersize=size**0.5, markeredgecolor=edge)
    if points["reach"].any():
        yield key("90 % interval", SOFT, "|", linestyle="-")
    mixers = set(points.loc[points["kind"] != "published model", "mixer"])
    for kind in [kind for kind in OPERATORS if kind in mixers]:
        yield key(f"mostly {kind}, {OPERATORS[kind].label}", operator_colour(kind), "o")


# where the name of a point may be: distances in points, and directions, those that are liked best first
DISTANCES = np.repeat([5, 14, 26, 40, 60], 8)[:, None]
ANGLES = np.deg2rad(np.tile([90, 0, 180, 270, 45, 135, 315, 225], 5))
DIRECTIONS = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


def _label(panel: Axes, points: pd.DataFrame) -> None:
    """Names beside their points, greedily where they cover least; that of the recommended one first."""
    pixels, frame = DPI / 72, panel.get_window_extent().padded(-1)
    at = panel.transData.transform(points[["x", "y"]].to_numpy(float))
    boxes = [(point, np.array([3.0, 3.0])) for point in at]  # centres, and half of their sizes
    named = [n for n, text in enumerate(points["text"]) if text][::-1]
    for n in sorted(named, key=lambda n: points["kind"].iat[n] != "recommended"):
        text, chosen = str(points["text"].iat[n]), points["kind"].iat[n] == "recommended"
        half = np.array([0.3 * 8 * len(text) + 2, 6]) * pixels
        centres = at[n] + DIRECTIONS * (half + DISTANCES * pixels)
        gaps, halves = (np.array(part) for part in zip(*boxes, strict=True))
        meets = (np.abs(centres[:, None] - gaps) < half + halves).all(axis=2)
        covered, crossed = meets[:, : len(at)].sum(axis=1), meets[:, len(at) :].sum(axis=1)
        outside = ((centres - half < frame.min) | (centres + half > frame.max)).any(axis=1)
        worse = 20 * np.minimum(covered, 3) + 200 * crossed + 1000 * outside
        best = centres[int((DISTANCES[:, 0] + worse).argmin())]
        boxes.append((best, half))
        panel.annotate(
            printable(text),
            at[n],
            xytext=(best[0], best[1]),
            xycoords="figure pixels",
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=8,
            weight="bold" if chosen else "normal",
            zorder=20,
            arrowprops={"arrowstyle": "-", "color": SOFT, "shrinkA": 0, "shrinkB": 3},
        ).set_in_layout(False)


# -- trainings -------------------------------------------------------------------------------------


def curves_plot(run: RecordedRun) -> Plot | None:
    """Validation loss over tokens of all trainings, the front in colours; None without a curve."""
    trials = [
        row
        for row in rows(run.trained)
        if len(row.curve) > 1 and (np.abs(np.array(row.curve)) < LARGEST).all()
    ]
    if not trials:
        return None
    trained = {row.hash for row in trials}
    front = [entry for entry in run.front if entry.hash in trained][: len(SERIES)]
    colours = {entry.hash: colour for entry, colour in zip(front, SERIES, strict=False)}
    with matplotlib.rc_context(STYLE):
        plot = Plot("Trainings of this search", "grey: networks beside the front", height=3.4)
        (panel,) = plot.panels
        for row in sorted(trials, key=lambda row: row.hash in colours):
            style = "--" if row.origin == "baseline" else "-"
            panel.plot(*zip(*row.curve, strict=True), style, color=colours.get(row.hash, FAINT))
        late = [loss for row in trials for _, loss in row.curve[1:]]
        panel.set(xlabel="tokens", ylabel="validation loss (nats per token)")
        panel.set_ylim(min(late) - 0.02, float(np.quantile(late, 0.98)) + 0.02)
        panel.xaxis.set_major_formatter(lambda count, _: tokens_text(count) if count else "0")
        keys = [key("baseline", FAINT, linestyle="--")]
        keys += [key(entry.name, colours[entry.hash], linestyle="-") for entry in front]
        plot.legend(handles=keys, loc="outside lower left", ncols=6, fontsize=9)
    return plot
