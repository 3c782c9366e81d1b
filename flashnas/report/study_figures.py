"""The pictures of studies: trainings short and long, depth and width, published trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from flashnas.evidence.agreement import Pair
from flashnas.evidence.trainings import PublishedRow
from flashnas.report.draw_matplotlib import draw_matplotlib
from flashnas.report.marks import Guide, Key, Line, Mark, Panel, Picture, PlotAxis, Points, Whiskers
from flashnas.report.palette import BUDGET, INK, MUTED, SERIES
from flashnas.report.plot_data import latency_unit
from flashnas.trust.depth_width import Findings, Size, Sizes

PUBLISHED_PICTURE = "published.png"
MODELS = {"short": "loss of a short training", "law": "law of size and shape",
          "evidence": "evidence: law and mix", "full": "evidence and short training"}


def save(picture: Picture, path: Path) -> None:
    draw_matplotlib(picture).savefig(path, format="png")


def trust_points(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each architecture that was trained both short and long.

    Columns: set; short and long, the mean losses in nats per token; short_half and long_half, half the range
    of the losses over seeds.
    """
    trained = table[table["loss"].notna()]
    sets = trained.drop_duplicates("hash").set_index("hash")["set"]
    columns = {"set": sets}
    for variant in ("short", "long"):
        losses = trained[trained["variant"] == variant].groupby("hash")["loss"]
        columns |= {variant: losses.mean(), f"{variant}_half": (losses.max() - losses.min()) / 2}
    return pd.DataFrame(columns).dropna()


def trust_picture(table: pd.DataFrame, words: str) -> Picture:
    """The picture of a table of trainings; `words` is the line above it, such as the rank correlation."""
    title, points = "Does longer training rank alike?", trust_points(table)
    if points.empty:
        return Picture(title=title, subtitle=words, empty="Nothing is trained both short and long yet.")
    marks: list[Mark] = []
    keys = []
    for name, colour in zip(sorted(points["set"].unique(), key=lambda name: (name != "front", name)),
                            SERIES * 9, strict=False):
        part = points[points["set"] == name]
        x, y = part["short"], part["long"]
        marks += [Whiskers(x=x, y=y, low=part[half], high=part[half], colour=colour, along_x=along_x)
                  for half, along_x in (("short_half", True), ("long_half", False))]
        marks.append(Points(x=x, y=y, fill=colour, size=8))
        keys.append(Key(text=name or "trained", shape="circle", colour=colour, size=8))
    tokens = table.groupby("variant")["tokens"].max()
    x, y = (PlotAxis(title=f"validation loss after {int(tokens[variant]):,} tokens (nats per token)")
            for variant in ("short", "long"))
    return Picture(title=title, subtitle=words, keys=keys, keys_title="bars: range of the seeds", width=880,
                   panels=[Panel(x=x, y=y, marks=marks, height=430)])


def scaling_picture(findings: Findings, sizes: Sizes, words: str, best: Size | None,
                    budget_ms: float | None) -> Picture:
    """Which depth and width: what each costs and reaches, and the law against what was measured.

    words: the line above it. best: the answer within the budget, marked by a star.
    """
    by_depth, depth_keys = _by_depth(sizes, best, budget_ms)
    measured, measured_keys = _against_measured(findings)
    return Picture(title=f"Which depth, which width? Blocks of `{sizes.pattern}`", subtitle=words, width=1290,
                   columns=2, shares=(0.6, 0.4), shared=False, panels=[by_depth, measured],
                   keys=[*depth_keys, *measured_keys],
                   keys_title="left, points: trained widths\ndashes: wider than any")


def _by_depth(sizes: Sizes, best: Size | None, budget_ms: float | None) -> tuple[Panel, list[Key]]:
    """One line for each trained depth, a point for each trained width; dashes where none was as wide."""
    depths, widths, table = sizes.trained["depth"], sizes.trained["width"], sizes.table
    factor, unit = latency_unit(list(table["latency_ms"]))
    marks: list[Mark] = []
    keys = []
    for place, depth in enumerate(depths):
        colour = to_hex(colormaps["viridis"](0.05 + 0.85 * place / max(1, len(depths) - 1)))
        line = table[table["depth"] == depth].sort_values("width")
        inside, beyond, trained = (line[mask] for mask in (
            line["width"] <= widths[-1], line["width"] >= widths[-1], line["width"].isin(widths)))
        marks += [Line(x=part["latency_ms"] * factor, y=part["loss"], colour=colour, dash=part is beyond,
                       width=1.8 if part is inside else 1.2) for part in (inside, beyond)]
        marks.append(Points(x=trained["latency_ms"] * factor, y=trained["loss"], size=7,
                            fill=colour, group=f"{depth} blocks"))
        keys.append(Key(text=f"{depth} blocks", shape="circle", colour=colour, size=7,
                        group=f"{depth} blocks"))
    if budget_ms is not None:
        marks.append(Guide(at=budget_ms * factor, colour=BUDGET,
                          text=f"budget {budget_ms * factor:.4g} {unit}"))
    if best is not None:
        marks.append(Points(x=[best.latency_ms * factor], y=[best.loss], fill=BUDGET, edge=["white"],
                            size=22, shape="star"))
        keys.append(Key(text=f"best: {best.depth} x {best.width}", shape="star", colour=BUDGET, size=16))
    model = sizes.model
    return Panel(
        x=PlotAxis(title=f"latency of one request ({unit}), {model.workload.name} on {model.table.name}",
               log=True),
        y=PlotAxis(title=f"loss by the law at {sizes.tokens:,} tokens (nats per token)"), marks=marks,
        height=400), keys


def _against_measured(findings: Findings) -> tuple[Panel, list[Key]]:
    """Each fitted size, and each held-out one as the smaller ones foretell it; on the line the law is
    right."""
    points, law, held = findings.points, findings.law, findings.held_out
    left_out = {(size.depth, size.width, size.tokens) for size in held}
    part = points[[size not in left_out for size in zip(points["depth"], points["width"], points["tokens"],
                                                       strict=True)]]
    ends = [float(points["loss"].min()), float(points["loss"].max())]
    marks: list[Mark] = [
        Line(x=ends, y=ends, colour=INK, width=1),
        Points(x=part["loss"], y=list(law.loss(part["depth"], part["width"], part["tokens"])), size=6,
               fill=MUTED, group="fitted")]
    keys = [Key(text="right: fitted", shape="circle", colour=MUTED, size=6)]
    if held:
        marks.append(Points(x=[size.loss for size in held], y=[size.predicted for size in held],
                            shape="diamond", fill=BUDGET, size=8, group="held out"))
        keys.append(Key(text="right: held-out larger sizes", shape="diamond", colour=BUDGET, size=8))
    return Panel(x=PlotAxis(title="measured loss (nats per token)"), y=PlotAxis(title="loss by the law"),
                 marks=marks, height=400), keys


def published_picture(rows: Sequence[PublishedRow], models: Mapping[str, Sequence[Pair]],
                      summaries: Mapping[str, Mapping[str, Any]]) -> Picture:
    """One panel for each model. Pairs are turned so that the published difference is above 0; a point below 0
    then has the wrong order. All panels have one scale, which holds the published differences."""
    sources = list(dict.fromkeys(rows[pair.one].source for pairs in models.values() for pair in pairs))
    colours = dict(zip(sources, SERIES * len(sources), strict=False))
    widest = 1.08 * max([abs(pair.published) for pairs in models.values() for pair in pairs], default=0.1)
    return Picture(
        title="What foretells a full training that it has not seen?", columns=2, width=1000,
        subtitle="differences of two networks of one group, nats per token; below 0 the order is wrong; on"
                 " the red line the size is right",
        panels=[_pairs_panel(rows, pairs, summaries[name], MODELS[name], colours, widest)
                for name, pairs in models.items()],
        keys=[Key(text=source, shape="circle", colour=colour, size=6) for source, colour in colours.items()])


def _pairs_panel(rows: Sequence[PublishedRow], pairs: Sequence[Pair], summary: Mapping[str, Any], words: str,
                 colours: Mapping[str, str], widest: float) -> Panel:
    signs = np.sign([pair.published for pair in pairs])
    marks: list[Mark] = [
        Points(x=[abs(pair.published) for pair in pairs],
               y=[sign * pair.predicted for sign, pair in zip(signs, pairs, strict=True)], size=4,
               opacity=0.75, fill=[colours[rows[pair.one].source] for pair in pairs]),
        Line(x=[0, widest], y=[0, widest], colour=BUDGET, width=1),
        Line(x=[0, widest], y=[0, 0], colour=MUTED, width=0.8)]
    hidden = sum(abs(pair.predicted) > widest for pair in pairs)
    heading = f"{words}: no clear pair" if not summary["pairs"] else (
        f"{words}\n{summary['right']:g} of {summary['pairs']} clear pairs ({summary['share']:.0%}),"
        f" RMSE {summary['rmse_nats']:.3f}")
    return Panel(x=PlotAxis(title="published", range=(0, widest)),
                 y=PlotAxis(title="predicted", range=(-0.6 * widest, widest)), marks=marks, height=300,
                 heading=heading,
                 note=f"{hidden} outside the picture" if hidden else "")
