"""proxy_trust.png: losses after short and long training of the same architectures, one point each, bars for seeds."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from flashnas.report.palette import INK, MUTED, RULE

SIZE_INCHES, DPI = (7.0, 6.0), 150
COLOURS = ("#D55E00", "#2B2D5B", "#009E73", "#CC79A7", "#56B4E9")  # by set, the front first


def trust_points(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each architecture that was trained both short and long.

    Columns: set; short and long, the mean losses in nats per token; short_half and long_half, half the range of the
    losses over seeds.
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
    figure = Figure(figsize=SIZE_INCHES, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    with matplotlib.rc_context({"font.family": "sans-serif", "font.size": 10}):
        axes = figure.add_axes((0.13, 0.11, 0.83, 0.75))
        figure.text(0.03, 0.95, "Does longer training rank alike?", fontsize=14, weight="bold", color=INK)
        figure.text(0.03, 0.905, words, color=MUTED)
        names = sorted(points["set"].unique(), key=lambda name: (name != "front", name))
        for number, name in enumerate(names):
            part = points[points["set"] == name]
            axes.errorbar(part["short"], part["long"], xerr=part["short_half"], yerr=part["long_half"], fmt="o",
                          markersize=6, linewidth=1, color=COLOURS[number % len(COLOURS)], label=name or "trained")
        for side, tokens in (("x", _tokens(table, "short")), ("y", _tokens(table, "long"))):
            axes.set(**{f"{side}label": f"validation loss after {tokens} tokens (nats per token)"})
        axes.grid(color=RULE, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        if len(points):
            axes.legend(frameon=False, title="bars: range of the seeds", loc="upper left")
        else:
            axes.text(0.5, 0.5, "nothing is trained both short and long yet", transform=axes.transAxes, ha="center",
                      color=MUTED)
    return figure


def write_trust_figure(table: pd.DataFrame, words: str, path: Path) -> None:
    """Draw and write a PNG."""
    draw_trust(table, words).savefig(path, format="png")


def _tokens(table: pd.DataFrame, variant: str) -> str:
    tokens = table.loc[table["variant"] == variant, "tokens"]
    return f"{int(tokens.max()):,}" if len(tokens) else "no"
