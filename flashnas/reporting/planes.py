"""Networks by latency and one quality: what the figures of a front and of further objectives show."""

from __future__ import annotations

import functools
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from flashnas.algorithms.trial import FULL, larger_is_better, title_of
from flashnas.architecture.architecture import compressed, mixers_by_use, parsed
from flashnas.base.text import (
    INTERVAL_90,
    is_number,
    number,
    parameters,
    printable,
    signed,
    with_interval,
)
from flashnas.reporting.drawing import (
    BUDGET,
    INK,
    MUTED,
    POINT,
    RULE,
    SOFT,
    Plot,
    key,
    operator_colour,
    operator_label,
    operator_order,
    place_labels,
)
from flashnas.reporting.objectives import staircase
from flashnas.reporting.words import (
    front,
    latency_unit,
    loads_in,
    named,
    objective_points,
    recommended,
)
from flashnas.run_folder.recorded_run import RecordedRun, rows

HEADROOM = 0.6  # of the height of what is compared that intervals and other points may add
MARGIN = 0.13  # of the height, above and below what the axis has to hold
EDGE, BESIDE = 1.0, 0.35  # widths and heights up to which published models stretch the axes
LETTER, LINE = 0.57, 1.2  # width and height of a label, of its size
MAX_FOLDED = 600  # networks up to which all hovers have short notations, which take milliseconds
# marker, size and edge in pixels; in the order in which they are drawn
STYLES = {
    "published": ("^", 10, 0.0),
    "small": ("o", 5, 1.4),
    "network": ("o", 11, 2.6),
    "baseline": ("D", 10, 1.2),
}

Ranges = tuple[tuple[float, float], tuple[float, float]]


@dataclass(frozen=True, eq=False)
class Plane:
    """Networks by latency and one quality.

    points: trials and published models, with further columns: x, the latency in the unit of the
    run; y, the quality, of a full loss its difference to the recommended network; reach, half of
    its 90 % interval, NaN without one; style: of STYLES, small is neither on the front nor a
    baseline, where the full loss ranks; final: on the front; kind, ring: the two most frequent
    mixers; text: its label. title, axis: of the figure and of y.
    """

    run: RecordedRun
    quality: str
    points: pd.DataFrame
    title: str
    axis: str

    @property
    def main(self) -> bool:
        return self.quality == self.run.quality

    @property
    def budgets(self) -> list[float]:
        """That of the latency, in the unit of the run; empty without one."""
        return [self.run.budget_ms * latency_unit(self.run)[0]] if self.run.budget_ms else []

    @functools.cached_property
    def ranges(self) -> Ranges:
        """((x low, high), (y low, high)) with room for labels. Of an answer, they hold what it
        compares; fast networks of the front that are far above it, and published models far from
        it, are outside."""
        points, answer = self.points, self.run.answer
        reach = points["reach"].fillna(0.0)
        points = points.assign(bottom=points["y"] - reach, top=points["y"] + reach)
        published = points[points["style"] == "published"]
        points = points[points["style"] != "published"]
        if not self.main or answer is None:
            low, high = points["bottom"].min(), points["top"].max()
            large = points[points["style"] != "small"]
            if len(large):  # small points far above the front do not stretch it
                top = large["top"].max()
                high = min(high, top + HEADROOM * (top - low))
            return self._padded(points["x"], low, high)
        compared = points[
            (points["style"] == "baseline")
            | points["hash"].isin((answer.recommended, *answer.tied))
        ]
        low, high = compared["y"].min(), compared["y"].max()
        room = HEADROOM * (high - low) or np.inf  # a longer interval is cut by the frame
        low = max(compared["bottom"].min(), low - room)
        high = min(compared["top"].max(), high + room)
        stretch = BESIDE * (high - low)
        published = published[published["y"].between(low - stretch, high + stretch)]
        low, high = min([low, *published["bottom"]]), max([high, *published["top"]])
        final = points[points["final"] & (points["y"] <= high + MARGIN * (high - low))]
        xs = [*compared["x"], *final["x"], *self.budgets]
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
        (x0, x1), (y0, y1) = self.ranges
        return points["x"].between(x0, x1) & points["y"].between(y0, y1)

    @functools.cached_property
    def labelled(self) -> pd.DataFrame:
        """The networks that have a label, wherever they lie. minor: can neither be the best nor is
        compared with it."""
        points, answer = self.points, self.run.answer
        points = points[
            points["final"]
            | (points["style"] == "published")
            | ((points["style"] == "baseline") & self.main)
        ]
        minor = ~points["final"]
        if answer is not None:
            matter = (answer.recommended, *answer.tied, *(f["hash"] for f in answer.families))
            minor = ~points["hash"].isin(matter) & (points["style"] != "published")
        return points.assign(minor=minor)

    @functools.cached_property
    def steps(self) -> tuple[list[float], list[float]]:
        """The corners of the front, drawn to the budget; none where the full loss ranks, whose
        front has uncertainty and a limit for recall in it."""
        if not self.main or self.run.ranks_full:
            return [], []
        right, factor = self.ranges[0][1], latency_unit(self.run)[0]
        xs, ys = staircase(front(self.run), min(right, *self.budgets, right) / factor)
        return [x * factor for x in xs], ys


def plane_of(run: RecordedRun, quality: str | None = None) -> Plane:
    quality = quality or run.quality
    title, trials, standings = "", run.scored, dict[str, tuple[float, float]]()
    base: float = 0.0
    published: list[dict[str, Any]] = []
    factor, _ = latency_unit(run)
    if quality == FULL:
        title, to = "Loss to expect of a full training, against latency", "the lowest"
        base = run.scored[FULL].min()
        if (answer := run.answer) is not None:
            chosen = recommended(run)
            to, base = chosen.name, chosen.figures[FULL] or 0.0
            beside = [*answer.families, *([answer.free_mix] if answer.free_mix else [])]
            standings = {
                **{other["hash"]: (other["difference"], other["sd"]) for other in beside},
                **{s.hash: (s.difference, s.sd) for s in answer.standings},
            }
            published = [
                {
                    "style": "published",
                    "text": model["name"],
                    "x": model["latency_ms"] * factor,
                    "y": model["difference"],
                    "reach": INTERVAL_90 * model["sd"],
                    "final": False,
                }
                for model in answer.published
                if model["latency_ms"] is not None
            ]
        axis = f"expected full loss,\ndifference to {to} (nats per token)"
    elif quality == "loss":
        title = "Loss against latency: every evaluated network"
        axis = "loss\n(nats per token)"
    else:
        trials = objective_points(run)[0]
        better = "higher" if larger_is_better(quality) else "lower"
        axis = f"{title_of(quality)}\n{better} is better"
    points = _points_of(run, quality, trials, standings, base)
    return Plane(run, quality, pd.DataFrame([*points, *published]), title, axis)


def _points_of(
    run: RecordedRun,
    quality: str,
    trials: pd.DataFrame,
    standings: dict[str, tuple[float, float]],
    base: float,
) -> list[dict[str, Any]]:
    """A point of each trial: its position, text and style. base: what is taken off the quality."""
    factor, _ = latency_unit(run)
    points = []
    for row in rows(named(run, trials)):
        first, *others = mixers_by_use(row.notation) or ("?",)
        standing, final = standings.get(row.hash), row.finalist != ""
        # the recommended network may be the best of a family, too
        pure = row.origin == "baseline" and not (run.ranks_full and final)
        style = "small" if run.ranks_full and not final else "network"
        if final and (run.ranks_full or quality != run.quality):
            text = row.finalist
        else:
            text = row.label if run.ranks_full else row.name.replace("pure ", "")
        points.append(
            {
                **row._asdict(),
                "style": "baseline" if pure else style,
                "text": text,
                "x": row.latency_ms * factor,
                "y": getattr(row, quality) - base if standing is None else standing[0],
                "reach": np.nan if standing is None else INTERVAL_90 * standing[1],
                "final": final,
                "kind": first,
                "ring": others[0] if others else first,
            }
        )
    return points


# -- drawing ---------------------------------------------------------------------------------------


def draw_plane(plot: Plot, panel: Axes, plane: Plane, size: tuple[float, float]) -> None:
    """Draw the networks into a panel of that size in pixels."""
    points = plane.points
    panel.set(xlim=plane.ranges[0], ylim=plane.ranges[1])
    if plane.steps[0]:
        panel.plot(*plane.steps, color=INK, linewidth=1.6, zorder=3)
    spread = points[points["reach"].notna() & plane.inside(points)]
    panel.errorbar(
        spread["x"],
        spread["y"],
        spread["reach"],
        linestyle="none",
        ecolor=SOFT,
        elinewidth=1.1,
        capsize=2.5,
        zorder=2.5,
    )
    for at in plane.budgets:
        panel.axvline(at, color=BUDGET, linestyle="--", linewidth=1.3, zorder=2)
    folded = len(points) <= MAX_FOLDED
    for order, (style, (marker, across, edge)) in enumerate(STYLES.items()):
        drawn = points[(points["style"] == style) & plane.inside(points)]
        if drawn.empty:
            continue
        fills, edges = [SOFT] * len(drawn), [SOFT] * len(drawn)
        if style != "published":
            fills = [operator_colour(kind) for kind in drawn["kind"]]
            edges = [
                INK if style == "baseline" else operator_colour(ring) for ring in drawn["ring"]
            ]
        clear = (drawn["style"] != "small") & (drawn["final"] | plane.main)
        marks = panel.scatter(
            drawn["x"],
            drawn["y"],
            s=(across * POINT) ** 2,
            marker=marker,
            linewidths=edge * POINT,
            facecolors=fills,
            edgecolors=edges,
            alpha=np.where(clear, 1.0, 0.55),  # type: ignore[arg-type]  # one for each
            zorder=4 + order,
        )
        if not plot.narrow:
            plot.hover(marks, [_hover(plane, row, folded or row.final) for row in rows(drawn)])
    _draw_labels(plot, panel, plane, size)


def _draw_labels(plot: Plot, panel: Axes, plane: Plane, size: tuple[float, float]) -> None:
    """The names of the front, of baselines and of published models within the axes; a narrow figure
    has those that matter."""
    (x0, x1), (y0, y1) = plane.ranges
    shown = plane.points[plane.inside(plane.points)]
    labelled = plane.labelled[plane.inside(plane.labelled)]
    if plot.narrow:
        labelled = labelled[~labelled["minor"]]
    spread = shown[shown["reach"].notna()]
    segments = [  # a label is wider than the gaps between the points of these
        *itertools.pairwise(zip(*plane.steps, strict=True)),
        *(((x, y0), (x, y1)) for x in plane.budgets),
        *(((row.x, row.y - row.reach), (row.x, row.y + row.reach)) for row in rows(spread)),
    ]
    obstacles = [shown[shown["style"] != "small"][["x", "y"]].to_numpy(dtype=float)]
    obstacles += [np.linspace(*segment, 40) for segment in segments]

    def pixels(points: Any) -> np.ndarray:
        """[N, 2] from the lower left corner."""
        return (points - np.array((x0, y0))) / (x1 - x0, y1 - y0) * size

    letter, line = (factor * plot.small / POINT for factor in (LETTER, LINE))
    offsets = place_labels(
        pixels(labelled[["x", "y"]].to_numpy(dtype=float)),
        [(letter * len(text) + 4, line) for text in labelled["text"]],
        pixels(np.concatenate(obstacles)),
        size,
    )
    for row, (right, up) in zip(rows(labelled), offsets, strict=True):
        panel.annotate(
            printable(row.text),
            (row.x, row.y),
            xytext=(right * POINT, up * POINT),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=plot.small - 0.75,
            color=INK if row.final else MUTED,
            weight="bold" if row.final and not row.minor else "normal",
            zorder=9,
            bbox={"pad": 1, "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": SOFT, "shrinkB": 5, "shrinkA": 0},
        )


def plane_keys(planes: Sequence[Plane]) -> Iterable[Line2D]:
    """The entries of their legend."""
    run, points = planes[0].run, pd.concat([plane.points for plane in planes])
    networks = points[points["style"] != "published"]
    styles = set(networks["style"])
    if any(plane.steps[0] for plane in planes):
        text = "Pareto front (P1, P2, …)" if run.front else "front so far"
        yield key(text, INK, linestyle="-")
    if networks["reach"].notna().any():
        yield key("90 % interval", SOFT, "|", linestyle="-", markeredgecolor=SOFT)
    rings = networks["ring"][networks["style"] != "baseline"]
    for kind in sorted({*networks["kind"], *rings}, key=operator_order):
        yield key(operator_label(kind), operator_colour(kind), "o")
    if "baseline" in styles:
        words = "best of another family" if run.ranks_full else "baseline"
        yield key(words, "white", "D", markeredgecolor=INK)
    if (plane := planes[0]).inside(plane.points[plane.points["style"] == "published"]).any():
        yield key("published model", SOFT, "^")
    if "small" in styles:
        yield key("small: not on the front", RULE, "o", markeredgecolor=MUTED, markersize=4.5)


def _hover(plane: Plane, row: Any, folded: bool) -> str:
    """The text of a network; `folded` shortens the notation by its repeats."""
    full_loss = f"full loss {signed(row.y)} ± {row.reach:.3f} nats to the recommended one"
    if row.style == "published":
        unit = latency_unit(plane.run)[1]
        words = "shape of a published model, trained alike"
        return f"{row.text}\n{words}\n{full_loss}\nlatency {number(row.x, 4, unit)}"
    bounds = ""
    if is_number(row.lower_ms) and is_number(row.upper_ms):
        bounds = f" (90 %: {number(row.lower_ms)} to {number(row.upper_ms)})"
    lines, full = [row.name], is_number(row.full_loss)
    if full and is_number(row.reach):
        lines.append(full_loss)
    if is_number(row.expected_recall):
        recall = with_interval(row.expected_recall, row.expected_recall_sd, 2)
        lines.append(f"recall {recall} relative to a transformer")
    if is_number(row.loss) or not full:
        name, bits = "loss here" if full else "loss", number(row.bits_per_byte)
        lines.append(f"{name} {number(row.loss)} nats/token · {bits} bits/byte")
    lines += [
        f"latency {number(row.latency_ms, 5, 'ms')}{bounds}",
        f"{parameters(row.params)} parameters · {number(row.memory_gb, 3, 'GB')}",
        *textwrap.wrap(compressed(row.notation) if folded else row.notation, 64),
        *textwrap.wrap(f"loads in: {loads_in(parsed(row.notation))}", 64),
    ]
    if not plane.main:
        lines.append(f"{title_of(plane.quality)} {row.y:.3g}")
    return "\n".join(lines)
