"""The plots of a run by matplotlib, without a display: its networks in the objectives that were asked
for, and the curves of its trainings."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flashnas.architecture.architecture import mixers_by_use
from flashnas.base.text import (
    INTERVAL_90,
    counted,
    is_number,
    number,
    printable,
    shortened,
    tokens_text,
)
from flashnas.operators import OPERATORS
from flashnas.reporting.words import (
    PUBLISHED,
    Beside,
    Shown,
    counts_line,
    latency_unit,
    place_words,
    recommended,
    shown_networks,
)
from flashnas.run_folder.recorded_run import RecordedRun, rows
from flashnas.trials.objectives import FULL, larger_is_better, title_of

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


def _fits(value: Any) -> TypeGuard[float]:
    """Whether a number can be drawn, which strangers' files need not."""
    return is_number(value) and abs(value) < 1e15


def key(text: str, colour: str, marker: str = "", **style: Any) -> Line2D:
    """An entry of a legend: a marker, or a line."""
    line = {"linestyle": "none", "markersize": 7, **style}
    return Line2D([], [], color=colour, marker=marker, label=shortened(printable(text), 40), **line)


# -- the front -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """A network with its figures by name. y: what ranks; of a full loss, its difference to the
    recommended network. reach: half of its 90 % interval. text: its label, if the table has it."""

    kind: str
    figures: Mapping[str, Any]
    y: float
    mixer: str
    reach: float
    text: str

    def ends(self, cost: str) -> tuple[float, float]:
        """By how much a latency may be less, and more; NaN where that is not drawn."""
        value, lower, upper = (self.figures.get(name) for name in (cost, "lower_ms", "upper_ms"))
        drawn = cost == "latency_ms" and bool(self.text)
        if not (drawn and _fits(value) and _fits(lower) and _fits(upper)):
            return np.nan, np.nan
        return max(value - lower, 0.0), max(upper - value, 0.0)


def pareto_plot(run: RecordedRun) -> Plot:
    """All networks of a run in its objectives: what ranks over each cost, in a panel each. The front
    is within the axes; networks of the table have a label, and their interval."""
    costs = [name for name in run.objectives if name != run.quality]
    words = [title_of(name).partition(" (")[0] for name in costs]
    title = f"{'Loss to expect of a full training' if run.ranks_full else 'Loss'} against"
    points = _points(run)
    with matplotlib.rc_context(STYLE):
        plot = Plot(f"{title} {' and '.join(words)}", f"{run.name}: {counts_line(run)}", len(costs))
        placed = [
            _draw(panel, run, cost, points) for panel, cost in zip(plot.panels, costs, strict=True)
        ]
        shown = {id(point): point for drawn in placed for _, point in drawn}
        keys = list(_keys(list(shown.values())))
        drawable = [point for point in points if all(_fits(point.figures.get(c)) for c in costs)]
        if beyond := sum(id(point) not in shown for point in drawable):
            keys.append(key(f"beyond the axes: {counted(beyond, 'network')}", "none"))
        plot.legend(handles=keys, loc="outside lower left", ncols=3, fontsize=9)
        plot.draw_without_rendering()  # places the panels, from which follow the places of labels
        for panel, drawn in zip(plot.panels, placed, strict=True):
            _label(panel, drawn)
    return plot


def _points(run: RecordedRun) -> list[_Point]:
    """Those of the table last."""
    shown = shown_networks(run)
    named = {entry.hash for entry in shown}
    front = {entry.hash for entry in run.front}
    trials = [row for row in rows(run.scored) if row.hash not in named | front]
    others = [entry for entry in run.front if entry.hash not in named]
    base = 0.0
    if run.ranks_full:
        base = run.scored[FULL].min() if run.answer is None else recommended(run).full_loss or 0.0
    found = []
    for entry in (*trials, *others, *shown):
        figures = entry.figures if isinstance(entry, Shown) else entry._asdict()
        y, sd = figures.get("full_loss_difference"), figures.get("full_loss_difference_sd")
        if not (run.ranks_full and is_number(y)):
            y, sd = figures.get(run.quality), 0.0
            y = y - base if is_number(y) else None
        if _fits(y) and _fits(sd or 0.0):
            listed = isinstance(entry, Shown) and entry.hash in named
            found.append(
                _Point(
                    kind=_kind(run, entry, front),
                    figures=figures,
                    y=y,
                    mixer=next(iter(mixers_by_use(entry.notation)), "?"),
                    reach=INTERVAL_90 * (sd or 0.0) * listed,
                    text=entry.name.partition(" (")[0] if listed else "",
                )
            )
    return found


def _kind(run: RecordedRun, entry: Any, front: Collection[str]) -> str:
    if run.answer is not None and entry.hash == run.answer.recommended:
        return "recommended"
    if entry.label == PUBLISHED:
        return "published model"
    if entry.hash in front:
        return "on the front"
    if isinstance(entry, Beside) or entry.origin == "baseline":
        return "best of another family" if run.ranks_full else "baseline"
    return "other network"


INTERVAL: dict[str, Any] = {"linestyle": "none", "ecolor": SOFT, "elinewidth": 1, "capsize": 2}


def _draw(
    panel: Axes, run: RecordedRun, cost: str, points: Iterable[_Point]
) -> list[tuple[float, _Point]]:
    """Draw networks over one cost, on axes that hold all of the front and what it is compared with,
    and others as far as they are near. Returns those within, with their cost."""
    scale, unit = latency_unit(run) if cost == "latency_ms" else (1.0, "")
    place = place_words(run)
    better = "higher" if larger_is_better(cost) else "lower"
    label = f"latency of one request{', ' * bool(place)}{place} ({unit})"
    panel.set_xlabel(printable(label if unit else f"{title_of(cost)}; {better} is better"))
    full = "expected full loss" + ", to the recommended" * (run.answer is not None)
    panel.set_ylabel(f"{full if run.ranks_full else 'loss'}\n(nats per token)")
    if cost.endswith("params"):
        panel.xaxis.set_major_formatter(lambda count, _: tokens_text(count) if count else "0")
    placed = [(p.figures[cost] * scale, p) for p in points if _fits(p.figures.get(cost))]
    if not placed:
        panel.text(0.5, 0.5, "no network has a score yet", transform=panel.transAxes, ha="center")
        return []
    compared = [(x, point) for x, point in placed if point.kind in COMPARED] or placed
    budgets = run.entry("options", "budgets")
    budget = budgets.get(cost) if isinstance(budgets, dict) else None
    at = [budget * scale] if _fits(budget) else []
    ends = [y for _, p in compared for y in (p.y - p.reach, p.y + p.reach)]
    low, high = _range([p.y for _, p in compared], [*(p.y for _, p in placed), *ends])
    left, right = _range([x for x, _ in compared], [*(x for x, _ in placed), *at])
    panel.set(xlim=(left, right), ylim=(low, high))
    front = sorted((x, point.y) for x, point in placed if point.kind == "on the front")
    if len(run.objectives) == 2 and front and not run.ranks_full:
        panel.step(*zip(*front, strict=True), where="post", color=INK, linewidth=1, zorder=2)
    for x in at:
        panel.axvline(x, color=BUDGET, linestyle="--", linewidth=1.2)
        text = f"dashed: budget of {number(x, 5, unit)}"
        panel.set_title(text, color=BUDGET, fontsize=9, loc="right")
    for order, (kind, (marker, size)) in enumerate(MARKS.items()):
        of_kind = [(x, point) for x, point in placed if point.kind == kind]
        xs, ys = [x for x, _ in of_kind], [point.y for _, point in of_kind]
        reach = [point.reach or np.nan for _, point in of_kind]
        wide = scale * np.array([point.ends(cost) for _, point in of_kind]).reshape(-1, 2).T
        beyond = (xs - wide[0] < left) & (xs + wide[1] > right)  # faint: would be taken for a grid
        for bars, alpha in ((beyond, 0.2), (~beyond, 1.0)):
            lengths = np.where(bars, wide, np.nan)
            panel.errorbar(xs, ys, None, lengths, **INTERVAL, alpha=alpha)
        panel.errorbar(xs, ys, reach, **INTERVAL)
        colours = [
            SOFT if kind == "published model" else operator_colour(p.mixer) for _, p in of_kind
        ]
        edge = INK if marker == "D" else "white"
        sizes = [size if point.text or kind != "on the front" else size / 3 for _, point in of_kind]
        panel.scatter(
            xs, ys, sizes, colours, marker=marker, edgecolors=edge, linewidths=0.7, zorder=4 + order
        )
    return [(x, p) for x, p in placed if left <= x <= right and low <= p.y <= high]


def _range(compared: Sequence[float], others: Iterable[float]) -> tuple[float, float]:
    """Limits of an axis that hold what is compared, others up to its length away."""
    low, high = min(compared), max(compared)
    # a lone network differs from itself by what rounding leaves
    size = high - low if high - low > 1e-6 else abs(high) * 0.1 or 1.0
    near = [value for value in others if low - size <= value <= high + size]
    low, high = min([low, *near]), max([high, *near])
    room = ROOM * max(high - low, size)
    return low - room, high + room


def _keys(points: Sequence[_Point]) -> Iterator[Line2D]:
    """The entries of the legend."""
    for kind, (marker, size) in MARKS.items():
        if any(point.kind == kind for point in points):
            edge = INK if marker == "D" else SOFT
            yield key(kind, SOFT, marker, markersize=size**0.5, markeredgecolor=edge)
    if any(point.reach for point in points):
        yield key("90 % interval", SOFT, "|", linestyle="-")
    mixers = {point.mixer for point in points if point.kind != "published model"}
    for kind in [kind for kind in OPERATORS if kind in mixers]:
        yield key(f"mostly {kind}, {OPERATORS[kind].label}", operator_colour(kind), "o")


def _label(panel: Axes, points: Iterable[tuple[float, _Point]]) -> None:
    """Names beside their points, greedily where they cover least."""
    within = panel.get_window_extent().padded(-1)
    places = [(panel.transData.transform((x, point.y)), point) for x, point in points]
    taken = np.array([at for at, _ in places]).reshape(-1, 2)
    boxes: list[tuple[np.ndarray, np.ndarray]] = []
    pixels = DPI / 72
    named = [(at, point) for at, point in reversed(places) if point.text]
    for at, point in sorted(named, key=lambda place: place[1].kind != "recommended"):
        half = np.array([0.3 * 8 * len(point.text) + 2, 6]) * pixels
        options = []
        for distance in (5, 14, 26, 40, 60):
            for angle in np.deg2rad([90, 0, 180, 270, 45, 135, 315, 225]):
                way = np.array([np.cos(angle), np.sin(angle)])
                centre = at + way * (half + distance * pixels)
                covered = (np.abs(taken - centre) < half + 3).all(axis=1).sum()
                crossed = sum((np.abs(c - centre) < half + h).all() for c, h in boxes)
                outside = not (
                    within.contains(*(centre - half)) and within.contains(*(centre + half))
                )
                worse = 20 * min(covered, 3) + 200 * crossed + 1000 * outside
                options.append((distance + worse, *centre))
        _, *best = min(options)
        boxes.append((np.array(best), half))
        panel.annotate(
            printable(point.text),
            at,
            xytext=(best[0], best[1]),
            xycoords="figure pixels",
            textcoords="figure pixels",
            ha="center",
            va="center",
            fontsize=8,
            weight="bold" if point.kind == "recommended" else "normal",
            zorder=20,
            arrowprops={"arrowstyle": "-", "color": SOFT, "shrinkA": 0, "shrinkB": 3},
        ).set_in_layout(False)


# -- trainings -------------------------------------------------------------------------------------


def curves_plot(run: RecordedRun) -> Plot | None:
    """Validation loss over tokens of all trainings, the front in colours; None without a curve."""
    trials = [
        row
        for row in rows(run.trained)
        if len(row.curve) > 1 and all(_fits(value) for point in row.curve for value in point)
    ]
    if not trials:
        return None
    front = [entry for entry in run.front if entry.hash in {row.hash for row in trials}]
    colours = dict(zip((entry.hash for entry in front), SERIES, strict=False))
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
        keys += [
            key(entry.name, colours[entry.hash], linestyle="-") for entry in front[: len(SERIES)]
        ]
        plot.legend(handles=keys, loc="outside lower left", ncols=6, fontsize=9)
    return plot
