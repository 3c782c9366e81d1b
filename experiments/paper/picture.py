"""What the pictures of this folder have in common: a title, a line below it, and axes with a
grid.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flashnas.reporting.plot import INK, MUTED, RULE


@contextmanager
def still(path: Path, size_inches: tuple[float, float], title: str, words: str) -> Iterator[Figure]:
    """A picture that is written to `path` at the end, 0.58 inches of it for both lines."""
    figure = Figure(figsize=size_inches, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    left, top = 0.24 / size_inches[0], size_inches[1]
    figure.text(left, 1 - 0.32 / top, title, fontsize=14, weight="bold", color=INK)
    figure.text(left, 1 - 0.58 / top, words, color=MUTED)
    yield figure
    figure.savefig(path)


def framed(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes with a grid behind the data, and without a line on top and on the right."""
    axes = figure.add_axes(box)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes
