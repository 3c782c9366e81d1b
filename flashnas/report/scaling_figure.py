"""scaling_law.png: the predicted loss against latency by depth, and the law against what was measured."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flashnas.report.palette import BUDGET, INK, MUTED, RULE
from flashnas.report.plot_data import latency_unit
from flashnas.trust.depth_width import Findings, Size, Sizes

SIZE_INCHES, DPI = (12.0, 5.6), 150
DEPTH_COLOURS = colormaps["viridis"]


def draw_scaling(found: Findings, sizes: Sizes, words: str, best: Size | None, budget_ms: float | None) -> Figure:
    """The picture. words: the line above it. best: the answer within the budget, marked by a star."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        figure.text(0.02, 0.945, f"Which depth, which width? Blocks of `{sizes.pattern}`", fontsize=14, weight="bold",
                    color=INK)
        figure.text(0.02, 0.895, words, color=MUTED)
        _by_depth(figure.add_axes((0.065, 0.115, 0.515, 0.70)), sizes, best, budget_ms)
        _against_measured(figure.add_axes((0.665, 0.115, 0.315, 0.70)), found)
    return figure


def write_scaling_figure(figure: Figure, path: Path) -> None:
    """Write a PNG."""
    figure.savefig(path, format="png")


def _frame(axes: Axes) -> None:
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _by_depth(axes: Axes, sizes: Sizes, best: Size | None, budget_ms: float | None) -> None:
    """One line for each trained depth, a point for each trained width; dashes where no training was as wide."""
    _frame(axes)
    depths, widths = sizes.trained["depth"], sizes.trained["width"]
    table = sizes.table
    factor, unit = latency_unit(list(table["latency_ms"]))
    for place, depth in enumerate(depths):
        colour = DEPTH_COLOURS(0.05 + 0.85 * place / max(1, len(depths) - 1))
        line = table[table["depth"] == depth].sort_values("width")
        inside = line[line["width"] <= widths[-1]]
        beyond = line[line["width"] >= widths[-1]]
        trained = line[line["width"].isin(widths)]
        axes.plot(inside["latency_ms"] * factor, inside["loss"], color=colour, linewidth=1.8)
        axes.plot(beyond["latency_ms"] * factor, beyond["loss"], color=colour, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot(trained["latency_ms"] * factor, trained["loss"], "o", color=colour, markersize=5,
                  label=f"{depth} blocks")
    if budget_ms is not None:
        axes.axvline(budget_ms * factor, color=BUDGET, linestyle="--", linewidth=1.3)
        axes.text(budget_ms * factor, 1.012, f"budget {budget_ms * factor:.4g} {unit}", color=BUDGET, ha="center",
                  va="bottom", transform=axes.get_xaxis_transform())
    if best is not None:
        axes.plot(best.latency_ms * factor, best.loss, "*", markersize=17, color=BUDGET, markeredgecolor="white",
                  label=f"best: {best.depth} x {best.width}", linestyle="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"latency of one request ({unit}), {sizes.model.workload.name} on {sizes.model.table.name}",
                    color=INK)
    axes.set_ylabel(f"loss by the law at {sizes.tokens:,} tokens (nats per token)", color=INK)
    axes.legend(frameon=False, title="points: trained widths\ndashes: wider than any", loc="upper right")


def _against_measured(axes: Axes, found: Findings) -> None:
    """Each fitted size, and each held-out one as the smaller ones foretell it; on the line the law is right."""
    _frame(axes)
    points, law = found.points, found.law
    held = found.held_out
    left_out = {(h.depth, h.width, h.tokens) for h in held}
    part = points[[size not in left_out for size in zip(points["depth"], points["width"], points["tokens"],
                                                       strict=True)]]
    axes.plot(part["loss"], law.loss(part["depth"], part["width"], part["tokens"]), "o", color=MUTED, markersize=4.5,
              label="fitted")
    if held:
        axes.plot([h.loss for h in held], [h.predicted for h in held], "D", color=BUDGET, markersize=5,
                  label="held out: larger sizes")
    ends = [float(points["loss"].min()), float(points["loss"].max())]
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.set_xlabel("measured loss (nats per token)", color=INK)
    axes.set_ylabel("loss by the law", color=INK)
    axes.legend(frameon=False, loc="upper left")
