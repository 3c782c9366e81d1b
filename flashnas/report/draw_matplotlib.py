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

from flashnas.base.hints import printable
from flashnas.report.marks import (
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
TOP, BOTTOM, GAP = 88, 64, 84
LEFT, APART = 86, 84  # pixels left of a panel, between columns
LEGEND, LETTER = 70, 7.0  # pixels: of a legend without its texts, of a letter
POINT = 72 / PIXELS  # of a pixel
MARKERS = {
    "circle": "o",
    "diamond": "D",
    "square": "s",
    "triangle": "^",
    "cross": "x",
    "interval": "|",
}
SCALE = {"diamond": 0.85}  # matplotlib measures the side of a diamond, Plotly about its diagonal


def draw_matplotlib(picture: Picture) -> Figure:
    """The figure; `savefig` writes it."""
    columns, heights = picture.columns, picture.heights or [430]
    room = max(
        (18 * len(panel.heading.splitlines()) for panel in picture.panels), default=0
    )  # of headings
    tall = TOP + room + sum(heights) + GAP * (len(heights) - 1) + BOTTOM
    figure = Figure((WIDTH / PIXELS, tall / PIXELS), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context(
        {"font.family": "sans-serif", "font.size": 13 * POINT, "text.parse_math": False}
    ):
        figure.text(22 / WIDTH, 1 - 32 / tall, picture.title, fontsize=14, weight="bold", color=INK)
        figure.text(22 / WIDTH, 1 - 58 / tall, picture.subtitle, color=MUTED)
        if not picture.panels:
            figure.text(0.5, 0.5, picture.empty, ha="center", color=MUTED)
        right = WIDTH - (
            LEGEND
            + LETTER
            * max(
                len(line)
                for key in picture.keys
                for line in (key.text, *picture.keys_title.split("\n"))
            )
            if picture.keys
            else picture.right
        )
        wide = (right - LEFT - APART * (columns - 1)) / columns
        first: Axes | None = None
        for place, panel in enumerate(picture.panels):
            row, column = divmod(place, columns)
            top = TOP + room + sum(heights[:row]) + GAP * row
            axes = figure.add_axes(
                (
                    (LEFT + (wide + APART) * column) / WIDTH,
                    1 - (top + panel.height) / tall,
                    wide / WIDTH,
                    panel.height / tall,
                ),
                sharex=first if picture.shared and columns == 1 else None,
            )
            first = first or axes
            _draw_panel(axes, panel)
        if picture.keys:
            _legend(figure, picture, (right + 14) / WIDTH, 1 - (TOP - 14) / tall)
        for text in figure.findobj(Text):
            text.set_text("\n".join(map(printable, text.get_text().split("\n"))))
        _keep_inside(figure)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(SOFT)
    axes.tick_params(colors=INK, color=SOFT)
    for order, mark in enumerate(panel.marks, start=3):
        match mark:
            case Points():
                edges = mark.edge or mark.fill
                colours: dict[str, Any] = (
                    {"color": edges}
                    if mark.shape == "cross"
                    else {"facecolors": mark.fill, "edgecolors": edges}
                )
                axes.scatter(
                    mark.x,
                    mark.y,
                    s=(mark.size * SCALE.get(mark.shape, 1) * POINT) ** 2,
                    zorder=order,
                    marker=MARKERS[mark.shape],
                    alpha=mark.opacity,
                    linewidths=mark.edge_width * POINT,
                    **colours,
                )
            case Line():
                axes.plot(
                    _numbers(mark.x),
                    _numbers(mark.y),
                    color=mark.colour,
                    linewidth=mark.width,
                    zorder=order,
                    linestyle=(0, (4, 3)) if mark.dash else "-",
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
                    va="bottom",
                    transform=axes.get_xaxis_transform(),
                )
            case Label():
                axes.annotate(
                    mark.text,
                    (mark.x, mark.y),
                    xytext=(mark.dx * POINT, mark.dy * POINT),
                    zorder=order,
                    textcoords="offset points",
                    ha="left" if mark.left else "center",
                    va="center",
                    fontsize=9,
                    color=mark.colour,
                    weight="bold" if mark.strong else "normal",
                    annotation_clip=False,
                    bbox={
                        "boxstyle": "square,pad=0.1",
                        "facecolor": "white",
                        "edgecolor": "none",
                        "alpha": 0.75,
                    },
                    arrowprops={
                        "arrowstyle": "-",
                        "color": SOFT,
                        "linewidth": 0.7,
                        "shrinkB": 5,
                        "shrinkA": 0,
                    },
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


def _legend(figure: Figure, picture: Picture, left: float, top: float) -> None:
    legend = figure.legend(
        handles=[_handle(key) for key in picture.keys],
        loc="upper left",
        frameon=False,
        fontsize=9.5,
        bbox_to_anchor=(left, top),
        borderaxespad=0.0,
        title=picture.keys_title,
        title_fontsize=9.5,
    )
    legend.get_title().set_color(MUTED)
    legend._legend_box.align = "left"  # type: ignore[attr-defined]


def _handle(key: Key) -> Line2D | Patch:
    if key.shape == "square":
        return Patch(facecolor=key.colour, edgecolor="white", hatch=key.hatch * 3, label=key.text)
    if key.shape in ("line", "dashes", "interval"):
        return Line2D(
            [],
            [],
            color=key.colour,
            linewidth=1.5,
            label=key.text,
            markersize=5,
            marker=MARKERS.get(key.shape, ""),
            linestyle="--" if key.shape == "dashes" else "-",
        )
    return Line2D(
        [],
        [],
        marker=MARKERS[key.shape],
        markersize=key.size * SCALE.get(key.shape, 1) * POINT,
        linestyle="none",
        markerfacecolor=key.colour,
        label=key.text,
        markeredgecolor=key.colour if key.shape == "cross" else key.edge,
    )


def _keep_inside(figure: Figure) -> None:
    """Move the left edge of panels to the right until no label of an axis is cut."""
    boxes = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    over = max((-box.x0 for box in boxes), default=0) / figure.bbox.width
    left = min((axes.get_position().x0 for axes in figure.axes), default=0)
    for axes in figure.axes:
        box = axes.get_position()
        if over > 0 and box.x0 == left:
            axes.set_position((box.x0 + over, box.y0, box.width - over, box.height))


def _numbers(values: Any) -> np.ndarray:
    return np.array(values, dtype=float)  # None is NaN, which interrupts a line
