"""What a figure is: panels of marks in plain numbers and plain text. `draw_plotly` draws it for
pages and notebooks, `draw_matplotlib` as a still picture; neither decides a colour, a label, a
place or a range.

Lengths are in pixels of the page, 96 to an inch. Texts are not escaped; a line break is `\\n`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Numbers = Any  # one after the other: a list, an array, a column
Shape = Literal["circle", "diamond", "square", "triangle", "cross", "line", "dashes", "interval"]
LINES = ("line", "dashes", "interval")  # shapes of keys


@dataclass(frozen=True, kw_only=True)
class PlotAxis:
    """range: None: what holds all marks. percent: values are shares. names: of the places 0, 1, ..;
    the first is on top. grid: its lines are drawn."""

    title: str = ""
    range: tuple[float, float] | None = None
    percent: bool = False
    names: Sequence[str] = ()
    grid: bool = True


@dataclass(frozen=True, kw_only=True)
class Points:
    """Markers of one shape and size. fill: a colour, or one for each, as edge. hover: a text for
    each, its first line is a heading. group: of the legend, which hides it."""

    x: Numbers
    y: Numbers
    fill: str | Sequence[str]
    edge: Sequence[str] = ()
    shape: Shape = "circle"
    size: float = 11
    edge_width: float = 0
    opacity: float = 1.0
    hover: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line through points; None interrupts it."""

    x: Numbers
    y: Numbers
    colour: str
    width: float = 1.6
    dash: bool = False
    hover: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Whiskers:
    """Intervals from `low` below to `high` above each point, along y or along x."""

    x: Numbers
    y: Numbers
    low: Numbers
    high: Numbers
    colour: str
    along_x: bool = False


@dataclass(frozen=True, kw_only=True)
class Bars:
    """Segments of bars: at a place of one axis, from `start` on, along x or y. hatch: as those of
    SOURCES.
    """

    at: Numbers
    start: Numbers
    length: Numbers
    colour: str
    thickness: float = 0.65
    along_x: bool = False
    hatch: str = ""
    hover: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class Guide:
    """A dashed upright line through the panel, its text above it."""

    at: float
    colour: str
    text: str = ""


@dataclass(frozen=True, kw_only=True)
class Label:
    """A text with its middle dx to the right of a point and dy above it, and a line to the point.
    minor: may be left out where there is little room."""

    x: float
    y: float
    text: str
    dx: float
    dy: float
    colour: str
    strong: bool = False
    minor: bool = False


@dataclass(frozen=True, kw_only=True)
class Key:
    """An entry of the legend; edge: of a marker."""

    text: str
    shape: Shape
    colour: str
    edge: str = "white"
    size: float = 12
    hatch: str = ""
    group: str = ""


Mark = Points | Line | Whiskers | Bars | Guide | Label


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Marks between two axes; later ones cover earlier ones. height: of the plotting area."""

    x: PlotAxis
    y: PlotAxis
    marks: Sequence[Mark]
    height: float
    heading: str = ""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure. panels: row by row, of so many `columns`; rows may share the horizontal axis, and
    columns the vertical one. keys: the legend, right of the panels. empty: why there is nothing to
    show."""

    title: str
    subtitle: str = ""
    panels: Sequence[Panel] = ()
    keys: Sequence[Key] = ()
    keys_title: str = ""
    columns: int = 1
    shared: bool = True
    empty: str = ""

    @property
    def heights(self) -> list[float]:
        """Of the plotting areas of each row."""
        return [
            max(panel.height for panel in self.panels[start : start + self.columns])
            for start in range(0, len(self.panels), self.columns)
        ]
