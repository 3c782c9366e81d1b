"""A Picture as a matplotlib figure, drawn without a display. Dollar signs are not mathematics.
Control characters are escaped, because matplotlib repeats them in its warnings of missing glyphs.
"""

from __future__ import annotations

from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text
from matplotlib.ticker import PercentFormatter

from flashnas.base.text import printable
from flashnas.report.marks import (
    LINES,
    Bars,
    Guide,
    Key,
    Label,
    Line,
    Panel,
    Picture,
    PlotAxis,
    Points,
    Whiskers,
)
from flashnas.report.palette import INK, MUTED, RULE, SOFT

WIDTH = 1091  # of a picture, in pixels of the page
PIXELS, DPI = 96, 132  # to an inch: of the lengths of a picture, and of the file
AROUND, GAP = 152, 84  # pixels above and below the panels, and between them
POINT = 72 / PIXELS  # of a pixel
MARKERS = {"diamond": "D", "square": "s", "triangle": "^", "cross": "X", "interval": "|"}


def draw_matplotlib(picture: Picture) -> Figure:
    """The figure; `savefig` writes it."""
    heights = picture.heights or [430]
    headings = max((18 * len(panel.heading.splitlines()) for panel in picture.panels), default=0)
    tall = AROUND + headings + sum(heights) + GAP * (len(heights) - 1)
    figure = Figure(
        (WIDTH / PIXELS, tall / PIXELS), dpi=DPI, facecolor="white", layout="constrained"
    )
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(
        {"font.family": "sans-serif", "font.size": 13 * POINT, "text.parse_math": False}
    ):
        left = 22 / WIDTH
        # the empty lines keep the panels clear of the subtitle
        figure.suptitle(
            f"{picture.title}\n\n", x=left, ha="left", fontsize=14, weight="bold", color=INK
        )
        figure.text(left, 1 - 52 / tall, picture.subtitle, color=MUTED)
        if not picture.panels:
            figure.text(0.5, 0.5, picture.empty, ha="center", color=MUTED)
        else:
            share: Any = {"sharex": "col", "sharey": "row"} if picture.shared else {}
            grid = figure.subplots(
                len(heights), picture.columns, squeeze=False, height_ratios=heights, **share
            )
            for axes, panel in zip(grid.flat, picture.panels, strict=True):
                _draw_panel(axes, panel)
        if picture.keys:
            legend = figure.legend(
                handles=[_handle(key) for key in picture.keys],
                loc="outside right upper",
                frameon=False,
                alignment="left",
                title=picture.keys_title,
            )
            legend.get_title().set_color(MUTED)
        for text in figure.findobj(Text):
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))
        figure.draw_without_rendering()  # lays it out
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, color=SOFT)
    for order, mark in enumerate(panel.marks, start=3):
        match mark:
            case Points():
                axes.scatter(
                    mark.x,
                    mark.y,
                    s=(mark.size * POINT) ** 2,
                    zorder=order,
                    marker=MARKERS.get(mark.shape, "o"),
                    alpha=mark.opacity,
                    linewidths=mark.edge_width * POINT,
                    facecolors=mark.fill,
                    edgecolors=mark.edge or mark.fill,
                )
            case Line():
                axes.plot(
                    np.array(mark.x, dtype=float),  # None is NaN, which interrupts a line
                    np.array(mark.y, dtype=float),
                    color=mark.colour,
                    linewidth=mark.width,
                    zorder=order,
                    linestyle="--" if mark.dash else "-",
                )
            case Whiskers():
                reach: dict[str, Any] = {"xerr" if mark.along_x else "yerr": (mark.low, mark.high)}
                axes.errorbar(
                    mark.x,
                    mark.y,
                    linestyle="none",
                    ecolor=mark.colour,
                    elinewidth=1.1,
                    capsize=2.5,
                    zorder=order,
                    **reach,
                )
            case Bars():
                how: dict[str, Any] = {
                    "color": mark.colour,
                    "edgecolor": "white",
                    "linewidth": 0.5,
                    "hatch": mark.hatch * 3,
                    "zorder": order,
                }
                if mark.along_x:
                    axes.barh(mark.at, mark.length, left=mark.start, height=mark.thickness, **how)
                else:
                    axes.bar(mark.at, mark.length, bottom=mark.start, width=mark.thickness, **how)
            case Guide():
                axes.axvline(mark.at, color=mark.colour, linestyle="--", linewidth=1.3, zorder=2)
                axes.text(
                    mark.at,
                    1.012,
                    mark.text,
                    color=mark.colour,
                    ha="center",
                    transform=axes.get_xaxis_transform(),
                )
            case Label():
                axes.annotate(
                    mark.text,
                    (mark.x, mark.y),
                    xytext=(mark.dx * POINT, mark.dy * POINT),
                    zorder=order,
                    textcoords="offset points",
                    ha="center",
                    va="center",
                    fontsize=9,
                    color=mark.colour,
                    weight="bold" if mark.strong else "normal",
                    annotation_clip=False,
                    bbox={"pad": 1, "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
                    arrowprops={"arrowstyle": "-", "color": SOFT, "shrinkB": 5, "shrinkA": 0},
                )
    axes.set_title(panel.heading, loc="left", fontsize=10, color=INK)
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)


def _set_axis(axes: Axes, side: str, axis: PlotAxis) -> None:
    values: dict[str, Any] = {f"{side}label": axis.title}
    if axis.range is not None:
        values[f"{side}lim"] = axis.range
    if axis.names:
        values |= {
            f"{side}lim": (len(axis.names) - 0.4, -0.6),
            f"{side}ticks": range(len(axis.names)),
            f"{side}ticklabels": axis.names,
        }
    axes.set(**values)
    if axis.percent:
        (axes.xaxis if side == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1))
    if axis.grid:
        axes.grid(axis=side, color=RULE, linewidth=0.8)  # type: ignore[arg-type]


def _handle(key: Key) -> Line2D | Patch:
    if key.shape == "square":
        return Patch(facecolor=key.colour, edgecolor="white", hatch=key.hatch * 3, label=key.text)
    line = key.shape in LINES
    return Line2D(
        [],
        [],
        label=key.text,
        color=key.colour,
        linestyle=("--" if key.shape == "dashes" else "-") if line else "none",
        marker=MARKERS.get(key.shape, "" if line else "o"),
        markersize=key.size * POINT,
        markeredgecolor=key.colour if line else key.edge,
    )
