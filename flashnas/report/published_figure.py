"""published.png: differences between published trainings, and what models say of them that have not seen them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flashnas.evidence.agreement import Pair
from flashnas.evidence.trainings import PublishedRow
from flashnas.report.palette import BUDGET, INK, MUTED, RULE

PICTURE = "published.png"
SIZE_INCHES, DPI = (9.0, 9.0), 150
TITLES = {"short": "loss of a short training", "law": "law of size and shape", "evidence": "evidence: law and mix",
          "full": "evidence and short training"}
COLOURS = ("#D55E00", "#2B2D5B", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7B8494", "#0072B2", "#882255", "#117733")


def draw_published(rows: Sequence[PublishedRow], models: Mapping[str, Sequence[Pair]],
                   summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel for each model. Pairs are turned so that the published difference is above 0; a point below 0 then has
    the wrong order. All panels have one scale, which holds the published differences."""
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    sources = list(dict.fromkeys(rows[pair.one].source for pairs in models.values() for pair in pairs))
    colour = {source: COLOURS[number % len(COLOURS)] for number, source in enumerate(sources)}
    most = 1.08 * max([abs(pair.published) for pairs in models.values() for pair in pairs], default=0.1)
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 9}):
        figure.text(0.03, 0.965, "What foretells a full training that it has not seen?", fontsize=14, weight="bold",
                    color=INK)
        figure.text(0.03, 0.943, "differences of two networks of one group, nats per token; below 0 the order is"
                    " wrong; on the red line the size is right", color=MUTED)
        for place, (name, pairs) in enumerate(models.items()):
            axes = figure.add_axes((0.08 + 0.49 * (place % 2), 0.56 - 0.43 * (place // 2), 0.41, 0.32))
            for source in sources:
                some = [pair for pair in pairs if rows[pair.one].source == source]
                sign = np.sign([pair.published for pair in some])
                axes.scatter(np.abs([pair.published for pair in some]),
                             sign * np.array([pair.predicted for pair in some]), s=9, linewidths=0,
                             alpha=0.75, color=colour[source], label=source, clip_on=True)
            axes.plot([0, most], [0, most], color=BUDGET, linewidth=1)
            axes.axhline(0, color=MUTED, linewidth=0.8)
            axes.set(xlim=(0, most), ylim=(-0.6 * most, most), xlabel="published", ylabel="predicted")
            axes.set_title(_title(name, summaries[name]), loc="left", fontsize=10, color=INK)
            axes.grid(color=RULE, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
            hidden = sum(abs(pair.predicted) > most for pair in pairs)
            if hidden:
                axes.text(0.98, 0.03, f"{hidden} outside the picture", transform=axes.transAxes, ha="right",
                          color=MUTED)
        handles = [matplotlib.lines.Line2D([], [], marker="o", linestyle="", markersize=5, color=colour[source])
                   for source in sources]
        figure.legend(handles, sources, loc="lower center", ncols=5, frameon=False, bbox_to_anchor=(0.5, 0.01))
    return figure


def _title(name: str, found: Mapping[str, Any]) -> str:
    if not found["pairs"]:
        return f"{TITLES[name]}: no clear pair"
    return (f"{TITLES[name]}\n{found['right']:g} of {found['pairs']} clear pairs ({found['share']:.0%}),"
            f" RMSE {found['rmse_nats']:.3f}")


def write_published_figure(rows: Sequence[PublishedRow], models: Mapping[str, Sequence[Pair]],
                           summaries: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Draw and write a PNG."""
    draw_published(rows, models, summaries).savefig(path, format="png")
