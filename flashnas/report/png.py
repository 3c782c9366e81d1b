"""pareto.png: what ranks against latency as one still picture, drawn by matplotlib without a display."""

from __future__ import annotations

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flashnas.report.objectives_figure import draw_panel
from flashnas.report.palette import (
    BUDGET,
    INK,
    INTERVAL,
    MUTED,
    RULE,
    operator_colour,
    operator_label,
    operator_order,
)
from flashnas.report.plane import Plane, plane_of
from flashnas.report.plot_data import mixer_colours
from flashnas.report.text import number
from flashnas.report.words import counts_line
from flashnas.runs.run import RecordedRun

SIZE_INCHES, DPI = (10.0, 6.0), 150
PANEL_INCHES = 3.0       # of each objective besides loss and latency, below the first axes
AXES_BOX = (0.085, 0.115, 0.665, 0.745)  # left, bottom, width, height as shares of the picture


def draw_png(run: RecordedRun) -> Figure:
    """The picture of a run: all networks, the front, the baselines with their names, and the budget. Below,
    smaller, the short loss where the full loss ranks, and further objectives."""
    panels = (*(["loss"] if run.ranks_full and not run.trained.empty else []), *run.further_objectives)
    height = SIZE_INCHES[1] + PANEL_INCHES * len(panels)
    figure = Figure(figsize=(SIZE_INCHES[0], height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        axes = figure.add_axes(_box(height, SIZE_INCHES[1] * AXES_BOX[1] + PANEL_INCHES * len(panels),
                                    SIZE_INCHES[1] * AXES_BOX[3]))
        _frame(axes)
        if run.scored.empty:
            axes.text(0.5, 0.5, "No network was trained to the end.", ha="center", transform=axes.transAxes)
            return figure
        plane = plane_of(run)
        figure.text(0.02, 1 - 0.27 / height, plane.title, fontsize=14, weight="bold", color=INK)
        figure.text(0.02, 1 - 0.54 / height, _subtitle(run), fontsize=10, color=MUTED)
        _draw(axes, plane, SIZE_INCHES[1] * AXES_BOX[3])
        _legend(figure, plane)
        for number, name in enumerate(panels, start=1):
            below = figure.add_axes(_box(height, 0.6 + PANEL_INCHES * (len(panels) - number),
                                         PANEL_INCHES - 0.95),
                                    sharex=axes)
            _frame(below)
            if name == "loss":
                _draw(below, plane_of(run, name), PANEL_INCHES - 0.95, small=True)
            else:
                draw_panel(below, run, name, plane.unit[0])
    return figure


def _box(height: float, bottom_inches: float, tall_inches: float) -> tuple[float, float, float, float]:
    """The place of axes as shares of a picture of this height."""
    return AXES_BOX[0], bottom_inches / height, AXES_BOX[2], tall_inches / height


def _frame(axes: Axes) -> None:
    axes.grid(color=RULE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#98A2B3")
    axes.tick_params(colors=INK, color="#98A2B3")


def _subtitle(run: RecordedRun) -> str:
    parts = [run.entry("workload", "name"), run.entry("table", "device") or run.entry("table", "name")]
    return " · ".join([*(_plain(part) for part in parts if part), counts_line(run)])


def _plain(text: object) -> str:
    return str(text).replace("$", r"\$")  # matplotlib would read $...$ as mathematics


def _draw(axes: Axes, plane: Plane, tall_inches: float, *, small: bool = False) -> None:
    """The networks of a plane. small: below another one, which says what the marks mean."""
    run, points = plane.run, plane.points
    factor, unit = plane.unit
    (x0, x1), (y0, y1) = plane.ranges()
    axes.set_xlim(x0 * factor, x1 * factor)
    axes.set_ylim(y0, y1)
    xs, ys = plane.steps(min(x1, run.budget_ms or x1))
    # nothing where there is no line
    axes.plot([x * factor for x in xs], ys, color=INK, linewidth=1.5, zorder=2)
    having = points[points["reach"].notna()]
    axes.errorbar(having["latency_ms"] * factor, having["y"], having["reach"], linestyle="none",
                  ecolor=INTERVAL,
                  elinewidth=1.1, capsize=2.5, zorder=2)
    mixers = points["notation"].map(mixer_colours)
    baseline = points["origin"] == "baseline"
    size = 5.5 if small else 7.5
    for pure, tiny, marker, size_points, width in (
            (False, True, "o", 3.5, 0.9), (False, False, "o", size, 0.24 * size),
            (True, False, "D", size, 0.9)):
        drawn = points[(baseline == pure) & (points["small"] == tiny)]
        axes.scatter(drawn["latency_ms"] * factor, drawn["y"], marker=marker, s=size_points**2,
                     linewidths=width,
                     zorder=3, alpha=0.55 if tiny else 1.0,
                     color=[operator_colour(first) for first, _ in mixers[drawn.index]],
                     edgecolors=[INK if pure else operator_colour(second) for _,
                                 second in mixers[drawn.index]])
    failed = run.failed[run.failed["latency_ms"].notna()]
    axes.plot(failed["latency_ms"] * factor, [y1 - 0.025 * (y1 - y0)] * len(failed), marker="x", color=MUTED,
              linestyle="none", markersize=6, zorder=3)
    if run.budget_ms:
        axes.axvline(run.budget_ms * factor, color=BUDGET, linestyle="--", linewidth=1.3, zorder=1)
    if run.budget_ms and not small:
        axes.text(run.budget_ms * factor, 1.012, f"budget {number(run.budget_ms * factor, 4, unit)}",
                  color=BUDGET,
                  ha="center", va="bottom", transform=axes.get_xaxis_transform())
    for text, trial, offset in plane.labels((72.0 * SIZE_INCHES[0] * AXES_BOX[2], 72.0 * tall_inches),
                                            letter=5.6):
        plain = trial.origin == "baseline" and not (trial.final and run.ranks_full)
        axes.annotate(_plain(text), (trial.latency_ms * factor, trial.y), xytext=offset,
                      textcoords="offset points", ha="center", va="center", fontsize=9, zorder=4,
                      bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none",
                            "alpha": 0.75},
                      color=MUTED if plain else INK, weight="normal" if plain else "bold",
                      arrowprops={"arrowstyle": "-", "color": "#98A2B3", "linewidth": 0.7, "shrinkB": 5,
                                  "shrinkA": 0})
    axes.set_xlabel(f"latency of one request ({unit})", color=INK)
    axes.set_ylabel(plane.axis.replace(" (", "\n(") if small else plane.axis, color=INK)


def _legend(figure: Figure, plane: Plane) -> None:
    points = plane.points
    pairs = zip(points["notation"].map(mixer_colours), points["origin"] == "baseline", strict=True)
    kinds = {kind for pair, pure in pairs for kind in (pair[:1] if pure else pair)}
    handles = [] if plane.run.ranks_full else [Line2D([], [], color=INK, linewidth=1.5,
                                                      label="Pareto front (P1, P2, …)")]
    if points["reach"].notna().any():
        handles.append(Line2D([], [], color=INTERVAL, linewidth=1.3, marker="|", markersize=5,
                              label="90 % interval"))
    handles += [Line2D([], [], marker="o", markersize=8, linestyle="none", markeredgecolor="white",
                       markerfacecolor=operator_colour(kind), label=_plain(operator_label(kind)))
                for kind in sorted(kinds, key=operator_order)]
    if not plane.run.baselines.empty:
        handles.append(Line2D([], [], marker="D", markersize=7, linestyle="none", markerfacecolor="white",
                              markeredgecolor=INK, label="pure-operator baseline"))
    if points["small"].any():
        handles.append(Line2D([], [], marker="o", markersize=4, linestyle="none", markerfacecolor=RULE,
                              markeredgecolor=MUTED, label="small: not on the front"))
    if plane.run.failed["latency_ms"].notna().any():
        handles.append(Line2D([], [], marker="x", markersize=6, linestyle="none", color=MUTED,
                              label="failed: no loss"))
    legend = figure.legend(handles=handles, loc="upper left", frameon=False, fontsize=9.5,
                           bbox_to_anchor=(0.765, 1 - 0.78 / figure.get_figheight()),
                           title="Fill: most frequent mixer\nRing: second most frequent", title_fontsize=9.5)
    legend.get_title().set_color(MUTED)
    legend._legend_box.align = "left"  # type: ignore[attr-defined]
