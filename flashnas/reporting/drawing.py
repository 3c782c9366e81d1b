"""Figures by matplotlib, without a display: colours, panels of a fixed size beside or below each
other, a legend, and SVG in which a browser shows a text for each mark.

A figure is drawn twice for a page, for wide and for narrow screens. Lengths are in pixels of the
page, 96 to an inch.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from flashnas.base.text import printable, shortened
from flashnas.operators import OPERATORS

# -- colours: hues of Okabe-Ito and Tol, for colour-blind readers ----------------------------------

OTHER_COLOURS = {"head": "#5B6470", "embedding": "#98A2B3"}
OTHER_COLOUR = "#7B8494"  # of other names that are not operators
INK = "#1B1F24"
MUTED = "#667085"
SOFT = "#98A2B3"
FAINT = "#D0D5DD"
RULE = "#E4E7EC"
BUDGET = "#B42318"

# of a latency: colour, hatch, and what it means
SOURCES = {
    "measured": ("#2B2D5B", "", "timed on this device by flashnas profile"),
    "imported": ("#55578F", "", "a public measurement on this device, cited by the table"),
    "derived": ("#ABADD0", "/", "computed from measured rows by a stated rule; wider bounds"),
    "roofline": ("#E69F00", "x", "computed from peak FLOP/s and bandwidth; widest bounds"),
}
# of things that have no colour of their own, such as curves: as many as can be told apart
SERIES = (
    "#D55E00",
    "#2B2D5B",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#7B8494",
    "#0072B2",
    "#882255",
    "#117733",
    "#661100",
    "#999933",
    "#AA4499",
    "#44AA99",
    "#6699CC",
    "#332288",
)


def operator_colour(kind: str) -> str:
    """The colour of an operator's short name, of the embedding or of the head; grey for other
    names.
    """
    return OPERATORS[kind].colour if kind in OPERATORS else OTHER_COLOURS.get(kind, OTHER_COLOUR)


def operator_label(kind: str) -> str:
    """`d · DeltaNet`: short name and label; the bare name of what is not an operator."""
    return f"{kind} · {OPERATORS[kind].label}" if kind in OPERATORS else kind


def operator_order(kind: str) -> tuple[int, str]:
    """Sort key: operators in the order of the registry, then embedding and head."""
    kinds = list(OPERATORS)
    return (kinds.index(kind) if kind in kinds else len(kinds)), kind


def hatch_of(source: str) -> str:
    return 3 * (SOURCES[source][1] if source in SOURCES else ".")


def ordered_sources(names: Iterable[str]) -> list[str]:
    """Those in SOURCES first."""
    order = list(SOURCES)
    return sorted(
        set(names), key=lambda name: (order.index(name) if name in SOURCES else len(order), name)
    )


# -- figures ---------------------------------------------------------------------------------------

POINT = 72 / 96  # of a pixel
WIDE, NARROW = 1091, 362  # pixels of a figure
RIGHT = 243  # of the legend of a wide one
PNG_DPI, NOTEBOOK_DPI = 132, 96
SVG = "{http://www.w3.org/2000/svg}"
LINK = "{http://www.w3.org/1999/xlink}href"
STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "text.parse_math": False,  # a dollar sign is no formula
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "axes.titlelocation": "left",
    "hatch.linewidth": 0.7,
    "legend.frameon": False,
}


class NothingToShow(Exception):
    """A figure for which a run has no data; its message says why."""


class Plot(Figure):
    """A figure of matplotlib with a title, panels and a legend. A notebook shows it by itself.

    panels: the axes, row by row. sizes: width and height of each plotting area.
    """

    def __init__(
        self,
        title: str,
        subtitle: str,
        heights: Sequence[float],
        columns: int = 1,
        keys: Sequence[Line2D | Patch] = (),
        keys_title: str = "",
        narrow: bool = False,
    ) -> None:
        """heights: of the plotting area of each panel. columns: panels beside each other, of equal
        heights; on a narrow figure all are below each other. keys: the entries of the legend, right
        of the panels or, on a narrow figure, below them."""
        self.narrow = narrow
        self.hovers = dict[str, Sequence[str]]()
        self.panels: list[Axes] = []
        self.sizes: list[tuple[float, float]] = []
        self.small = (11 if narrow else 13) * POINT  # size of most texts
        columns, gap = (1, 76) if narrow else (columns, 84)
        rows = list(heights[::columns])
        titles = textwrap.wrap(title, 34 if narrow else 90)
        subtitles = textwrap.wrap(subtitle, 52 if narrow else 130)
        top = 24 * len(titles) + 19 * len(subtitles) + 44.0
        key_lines = len(keys_title.splitlines()) + math.ceil(len(keys) / (1 + narrow))
        legend = (17 if narrow else 20) * key_lines
        height = top + sum(rows) + gap * max(len(rows) - 1, 0) + 68
        height = height + legend + 40 if narrow else max(height, top + legend + 20)
        width = NARROW if narrow else WIDE
        super().__init__((width / 96, height / 96), dpi=PNG_DPI, facecolor="white")
        FigureCanvasAgg(self)
        self._write(titles, 10, size=16 if narrow else 19, color=INK, weight="bold")
        self._write(subtitles, 18 + 24 * len(titles), size=11 if narrow else 13, color=MUTED)
        self._add_panels(heights, columns, top, gap)
        if keys:
            corner = (8, height - legend - 42) if narrow else (WIDE - RIGHT + 8, top - 12)
            self.legend(
                handles=keys,
                title=keys_title or None,
                loc="upper left",
                bbox_to_anchor=(corner[0] / width, 1 - corner[1] / height),
                ncols=2 if narrow else 1,
                fontsize=self.small,
                alignment="left",
                columnspacing=1,
            ).get_title().set(color=MUTED, fontsize=self.small)

    def _write(self, lines: Sequence[str], down: float, size: float, **style: Any) -> None:
        """Lines at the left edge, so many pixels below the upper one."""
        width, height = self.get_size_inches() * 96
        text = "\n".join(map(printable, lines))  # matplotlib warns of glyphs that its font lacks
        self.text(8 / width, 1 - down / height, text, size=size * POINT, va="top", **style)

    def _add_panels(self, heights: Sequence[float], columns: int, top: float, gap: float) -> None:
        width, height = self.get_size_inches() * 96
        left, right, beside = (62, 18, 0) if self.narrow else (88, RIGHT, 46)
        panel_width = (width - left - right - beside * (columns - 1)) / columns
        down = top
        for number, tall in enumerate(heights):
            column = number % columns
            x = left + column * (panel_width + beside)
            corner = (x / width, 1 - (down + tall) / height)
            axes = self.add_axes((*corner, panel_width / width, tall / height))
            axes.tick_params(labelsize=self.small)
            self.panels.append(axes)
            self.sizes.append((panel_width, tall))
            if column == columns - 1:
                down += tall + gap

    def label(self, panel: Axes, x: str = "", y: str = "", heading: str = "") -> None:
        """Name the axes of a panel."""
        lines = x.split("\n")
        if self.narrow:
            lines = [part for line in lines for part in textwrap.wrap(line, 40)]
            y = y.replace("\n", ", ")
        panel.set_xlabel("\n".join(map(printable, lines)), fontsize=self.small)
        panel.set_ylabel(y, fontsize=self.small)
        panel.set_title(heading, fontsize=self.small)

    def hover(self, artist: Artist, texts: Sequence[str]) -> None:
        """The texts of the parts of an artist, which a browser shows under a pointer, and so not on
        narrow screens; control characters are escaped."""
        if self.narrow:
            return
        artist.set_gid(f"hover{len(self.hovers)}")
        self.hovers[artist.get_gid() or ""] = [
            "\n".join(map(printable, text.split("\n"))) for text in texts
        ]

    def png(self, dpi: float = PNG_DPI) -> bytes:
        self.savefig(file := io.BytesIO(), format="png", dpi=dpi)
        return file.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png(NOTEBOOK_DPI)

    def svg(self) -> str:
        """An element for a page, in the page's font; `hover` gives its marks titles."""
        salt = f"{self.narrow} {self.texts[0].get_text()}"  # no two figures share their ids
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
            self.savefig(file := io.BytesIO(), format="svg")
        ElementTree.register_namespace("", SVG.strip("{}"))
        root = ElementTree.fromstring(file.getvalue())
        for metadata in root.findall(f"{SVG}metadata"):
            root.remove(metadata)
        defined = {id(part) for defs in root.iter(f"{SVG}defs") for part in defs.iter()}
        for group in [part for part in root.iter() if id(part) not in defined]:
            if (link := group.attrib.pop(LINK, None)) is not None:
                group.set("href", link)
            if group.tag == f"{SVG}text":
                group.set("style", re.sub(r"font-family: [^;]*;", "", group.get("style", "")))
            texts = self.hovers.get(group.attrib.pop("id", ""), ())
            shapes = (
                part
                for part in group.iter()
                if part.tag in (f"{SVG}use", f"{SVG}path") and id(part) not in defined
            )
            for shape, text in zip(shapes, texts, strict=False):
                ElementTree.SubElement(shape, f"{SVG}title").text = text
        root.attrib.pop("width"), root.attrib.pop("height")
        root.set("role", "img")
        return ElementTree.tostring(root, encoding="unicode")


def key(text: str, colour: str, marker: str = "", **style: Any) -> Line2D:
    """An entry of a legend: a marker, or a line."""
    line = {"linestyle": "none", "markeredgecolor": "white", "markersize": 9, **style}
    return Line2D([], [], color=colour, marker=marker, label=shortened(printable(text), 28), **line)


def patch_key(text: str, colour: str, hatch: str = "") -> Patch:
    return Patch(
        facecolor=colour, edgecolor="white", hatch=hatch, label=shortened(printable(text), 28)
    )


def percent(axis: Any) -> None:
    axis.set_major_formatter(PercentFormatter(1))


# -- labels of points ------------------------------------------------------------------------------

OUTSIDE = 10_000  # cost of a label that the frame would cut; more than all that it can cover


def place_labels(
    anchors: np.ndarray,
    sizes: Sequence[tuple[float, float]],
    obstacles: np.ndarray,
    box: tuple[float, float],
) -> list[tuple[float, float]]:
    """Offsets (right, up) from labelled points to the centres of their labels, clear of obstacles,
    of each other and of the edges; greedily, each the best of 60. Points [N, 2] are in pixels from
    the lower left corner of the box."""
    distances = np.repeat((10.0, 24.0, 42.0, 64.0, 88.0), 12)
    angles = np.tile(np.deg2rad([0, 180, 90, 270, 45, 135, 315, 225, 20, 160, 340, 200]), 5)
    directions = np.column_stack([np.cos(angles), np.sin(angles)])
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    chosen: list[tuple[float, float]] = []
    for anchor, size in zip(anchors, np.array(sizes, dtype=float), strict=True):
        half = size / 2
        offsets = directions * (half + distances[:, None])  # [60, 2]
        lengths, centres = np.hypot(*offsets.T), anchor + offsets
        others = obstacles - anchor
        others = others[
            (np.abs(others) < size + 14 + distances[-1]).all(axis=1) & (np.hypot(*others.T) > 7)
        ]
        covered = (np.abs(others - offsets[:, None]) < half + 3).all(axis=2).sum(axis=1)
        # within 7 pixels of the line from the anchor to the label
        along, across = (
            others @ line.T / lengths for line in (offsets, offsets[:, ::-1] * (-1, 1))
        )
        crossed = ((along > 0) & (along < lengths) & (np.abs(across) < 7)).sum(axis=0)
        closest = np.hypot(*(anchors - centres[:, None]).T).min(axis=0)
        cost = distances / 8 + 30.0 * covered + 15.0 * crossed
        cost += 60 * (closest < lengths - 0.5)  # it would look like the name of another point
        for centre, reach in taken:
            cost += 150 * (np.abs(centres - centre) < half + reach).all(axis=1)
        cost += OUTSIDE * ((centres < half) | (centres + half > box)).any(axis=1)
        best = int(cost.argmin())
        taken.append((centres[best], half))
        chosen.append(tuple(offsets[best].tolist()))
    return chosen
