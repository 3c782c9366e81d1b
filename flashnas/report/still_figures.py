"""The still pictures of studies: trainings short and long, depth and width, published trainings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from flashnas.evidence.agreement import Pair
from flashnas.evidence.trainings import PublishedRow
from flashnas.report.palette import BUDGET, INK, MUTED, RULE
from flashnas.report.plot_data import latency_unit
from flashnas.trust.depth_width import Findings, Size, Sizes

COLOURS = ("#D55E00", "#2B2D5B", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7B8494", "#0072B2", "#882255",
           "#117733")
DEPTH_COLOURS = colormaps["viridis"]
PUBLISHED_PICTURE = "published.png"
TITLES = {"short": "loss of a short training", "law": "law of size and shape", "evidence": "evidence: law"
                                                                                           " and mix",
          "full": "evidence and short training"}


@contextmanager
def still(size_inches: tuple[float, float], title: str, words: str, *, font: int = 10) -> Iterator[Figure]:
    """A picture with its title and the line below it, 0.28 and 0.55 inches from the top."""
    figure = Figure(figsize=size_inches, dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": font}):
        left, top = 0.24 / size_inches[0], size_inches[1]
        figure.text(left, 1 - 0.32 / top, title, fontsize=14, weight="bold", color=INK)
        figure.text(left, 1 - 0.58 / top, words, color=MUTED)
        yield figure


def framed(figure: Figure, box: tuple[float, float, float, float]) -> Axes:
    """Axes with a grid behind the data, and without a line on top and on the right."""
    axes = figure.add_axes(box)
    axes.grid(color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


# -- short and long training ---------------------------------------------------------------------------------

def trust_points(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each architecture that was trained both short and long.

    Columns: set; short and long, the mean losses in nats per token; short_half and long_half, half the range
    of the losses over seeds.
    """
    trained = table[table["loss"].notna()]
    grouped = trained[trained["variant"].isin(("short", "long"))].groupby(["hash", "variant"])["loss"]
    wide = grouped.agg(mean="mean", half=lambda losses: (losses.max() - losses.min()) / 2).unstack()
    if not {"short", "long"} <= set(trained["variant"]):
        return pd.DataFrame(columns=["set", "short", "long", "short_half", "long_half"])
    points = pd.DataFrame({"short": wide["mean", "short"], "long": wide["mean", "long"],
                           "short_half": wide["half", "short"], "long_half": wide["half", "long"]}).dropna()
    points.insert(0, "set", trained.drop_duplicates("hash").set_index("hash")["set"].reindex(points.index))
    return points


def draw_trust(table: pd.DataFrame, words: str) -> Figure:
    """The picture of a table of trainings; `words` is the line above it, such as the rank correlation."""
    points = trust_points(table)
    with still((7.0, 6.0), "Does longer training rank alike?", words) as figure:
        axes = framed(figure, (0.13, 0.11, 0.83, 0.75))
        names = sorted(points["set"].unique(), key=lambda name: (name != "front", name))
        for number, name in enumerate(names):
            part = points[points["set"] == name]
            axes.errorbar(part["short"], part["long"], xerr=part["short_half"], yerr=part["long_half"],
                          fmt="o",
                          markersize=6, linewidth=1, color=COLOURS[number % len(COLOURS)],
                          label=name or "trained")
        for side, tokens in (("x", _tokens(table, "short")), ("y", _tokens(table, "long"))):
            axes.set(**{f"{side}label": f"validation loss after {tokens} tokens (nats per token)"})
        if len(points):
            axes.legend(frameon=False, title="bars: range of the seeds", loc="upper left")
        else:
            axes.text(0.5, 0.5, "nothing is trained both short and long yet", transform=axes.transAxes,
                      ha="center",
                      color=MUTED)
    return figure


def _tokens(table: pd.DataFrame, variant: str) -> str:
    tokens = table.loc[table["variant"] == variant, "tokens"]
    return f"{int(tokens.max()):,}" if len(tokens) else "no"


# -- depth and width -----------------------------------------------------------------------------------------

def draw_scaling(found: Findings, sizes: Sizes, words: str, best: Size | None,
                 budget_ms: float | None) -> Figure:
    """The picture. words: the line above it. best: the answer within the budget, marked by a star."""
    with still((12.0, 5.6), f"Which depth, which width? Blocks of `{sizes.pattern}`", words) as figure:
        _by_depth(framed(figure, (0.065, 0.115, 0.515, 0.70)), sizes, best, budget_ms)
        _against_measured(framed(figure, (0.665, 0.115, 0.315, 0.70)), found)
    return figure


def _by_depth(axes: Axes, sizes: Sizes, best: Size | None, budget_ms: float | None) -> None:
    """One line for each trained depth, a point for each trained width; dashes where no training was as
    wide."""
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
        axes.plot(beyond["latency_ms"] * factor, beyond["loss"], color=colour, linewidth=1.2,
                  linestyle=(0, (4, 3)))
        axes.plot(trained["latency_ms"] * factor, trained["loss"], "o", color=colour, markersize=5,
                  label=f"{depth} blocks")
    if budget_ms is not None:
        axes.axvline(budget_ms * factor, color=BUDGET, linestyle="--", linewidth=1.3)
        axes.text(budget_ms * factor, 1.012, f"budget {budget_ms * factor:.4g} {unit}", color=BUDGET,
                  ha="center",
                  va="bottom", transform=axes.get_xaxis_transform())
    if best is not None:
        axes.plot(best.latency_ms * factor, best.loss, "*", markersize=17, color=BUDGET,
                  markeredgecolor="white",
                  label=f"best: {best.depth} x {best.width}", linestyle="none")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(f"latency of one request ({unit}), {sizes.model.workload.name} on"
                    f" {sizes.model.table.name}",
                    color=INK)
    axes.set_ylabel(f"loss by the law at {sizes.tokens:,} tokens (nats per token)", color=INK)
    axes.legend(frameon=False, title="points: trained widths\ndashes: wider than any", loc="upper right")


def _against_measured(axes: Axes, found: Findings) -> None:
    """Each fitted size, and each held-out one as the smaller ones foretell it; on the line the law is
    right."""
    points, law = found.points, found.law
    held = found.held_out
    left_out = {(h.depth, h.width, h.tokens) for h in held}
    part = points[[size not in left_out for size in zip(points["depth"], points["width"], points["tokens"],
                                                       strict=True)]]
    axes.plot(part["loss"], law.loss(part["depth"], part["width"], part["tokens"]), "o", color=MUTED,
              markersize=4.5,
              label="fitted")
    if held:
        axes.plot([h.loss for h in held], [h.predicted for h in held], "D", color=BUDGET, markersize=5,
                  label="held out: larger sizes")
    ends = [float(points["loss"].min()), float(points["loss"].max())]
    axes.plot(ends, ends, color=INK, linewidth=1)
    axes.set_xlabel("measured loss (nats per token)", color=INK)
    axes.set_ylabel("loss by the law", color=INK)
    axes.legend(frameon=False, loc="upper left")


# -- published trainings -------------------------------------------------------------------------------------

def draw_published(rows: Sequence[PublishedRow], models: Mapping[str, Sequence[Pair]],
                   summaries: Mapping[str, Mapping[str, Any]]) -> Figure:
    """One panel for each model. Pairs are turned so that the published difference is above 0; a point below 0
    then has the wrong order. All panels have one scale, which holds the published differences."""
    sources = list(dict.fromkeys(rows[pair.one].source for pairs in models.values() for pair in pairs))
    colour = {source: COLOURS[number % len(COLOURS)] for number, source in enumerate(sources)}
    most = 1.08 * max([abs(pair.published) for pairs in models.values() for pair in pairs], default=0.1)
    words = ("differences of two networks of one group, nats per token; below 0 the order is wrong; on the"
             " red line the"
             " size is right")
    with still((9.0, 9.0), "What foretells a full training that it has not seen?", words, font=9) as figure:
        for place, (name, pairs) in enumerate(models.items()):
            axes = framed(figure, (0.08 + 0.49 * (place % 2), 0.56 - 0.43 * (place // 2), 0.41, 0.32))
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
            hidden = sum(abs(pair.predicted) > most for pair in pairs)
            if hidden:
                axes.text(0.98, 0.03, f"{hidden} outside the picture", transform=axes.transAxes, ha="right",
                          color=MUTED)
        handles = [matplotlib.lines.Line2D([], [], marker="o", linestyle="", markersize=5,
                                           color=colour[source])
                   for source in sources]
        figure.legend(handles, sources, loc="lower center", ncols=5, frameon=False,
                      bbox_to_anchor=(0.5, 0.01))
    return figure


def _title(name: str, found: Mapping[str, Any]) -> str:
    if not found["pairs"]:
        return f"{TITLES[name]}: no clear pair"
    return (f"{TITLES[name]}\n{found['right']:g} of {found['pairs']} clear pairs ({found['share']:.0%}),"
            f" RMSE {found['rmse_nats']:.3f}")
