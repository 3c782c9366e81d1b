"""The Plotly figures of the report, as pure functions of a Run; their numbers come from `plot_data`."""

from __future__ import annotations

import html
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flashnas.report.front_figure import pareto_front, short_loss
from flashnas.report.objectives_figure import further_objectives
from flashnas.report.palette import (
    INK,
    KERNEL_COLOURS,
    MUTED,
    SOURCE_PATTERNS,
    operator_colour,
    operator_label,
    operator_order,
)
from flashnas.report.plot_data import (
    HypervolumeSeries,
    breakdown,
    depth_shares,
    finalist_of,
    front,
    hypervolume_series,
    latency_unit,
    mixer_colours,
    name_of,
)
from flashnas.report.text import known, number
from flashnas.report.theme import apply_theme, new_figure, nothing_to_show
from flashnas.runs.run import RecordedRun, rows

CURVE_HEIGHT = 368.0  # pixels of the plotting area of the curves
MOST_CURVES = 500  # grey ones
CURVE_WARMUP = 0.3  # of the tokens: the vertical axis of the curves is fitted to what comes after


def hypervolume(run: RecordedRun) -> go.Figure:
    """Figure 2. Hypervolume of the front so far over the networks trained; higher is better."""
    title = "Hypervolume of the front over the networks trained"
    series = hypervolume_series(run)
    if not series.networks:
        return nothing_to_show(title, "No network was trained to the end.")
    if run.further_objectives or "latency_ms" not in run.objectives:
        return _many_objectives(run, title, series)
    factor, unit = latency_unit([series.reference[0]])
    figure = new_figure(title, f"area between the front and the point"
                               f" ({number(series.reference[0] * factor, 4, unit)},"
                               f" {number(series.reference[1])} nats); higher is better", height=400,
                        showlegend=False)
    values = [value * factor for value in series.hypervolume]
    figure.add_scatter(x=series.networks, y=values, mode="lines+markers", customdata=series.trials,
                       line={"color": INK, "shape": "hv", "width": 2}, marker={"size": 4},
                       hovertemplate="trial %{customdata}<br>hypervolume %{y:.5g}<extra></extra>")
    top = max([*values, (series.baselines or 0.0) * factor])
    if series.baselines is not None:
        figure.add_hline(y=series.baselines * factor, line={"color": MUTED, "dash": "dash", "width": 1.3})
        figure.add_annotation(x=1, xref="paper", xanchor="right", y=series.baselines * factor, yanchor="top",
                              text="pure-operator baselines alone", showarrow=False, font={"color": MUTED})
    figure.update_xaxes(title_text="networks trained, in the order of the search", rangemode="tozero")
    figure.update_yaxes(title_text=f"hypervolume ({unit} · nats)", range=[0, top * 1.08 or 1.0])
    return figure


def _many_objectives(run: RecordedRun, title: str, series: HypervolumeSeries) -> go.Figure:
    figure = new_figure(title, f"volume in {' by '.join(run.objectives)}, as a share of the last; higher is"
                               f" better",
                        height=400, showlegend=False)
    last = series.hypervolume[-1] or 1.0
    figure.add_scatter(x=series.networks, y=[value / last for value in series.hypervolume],
                       mode="lines+markers",
                       customdata=series.trials, line={"color": INK, "shape": "hv", "width": 2},
                       marker={"size": 4},
                       hovertemplate="trial %{customdata}<br>%{y:.1%} of the last<extra></extra>")
    figure.update_xaxes(title_text="networks trained, in the order of the search", rangemode="tozero")
    figure.update_yaxes(title_text="hypervolume (share of the last)", rangemode="tozero", tickformat=".0%")
    return figure


def operator_share(run: RecordedRun) -> go.Figure:
    """Figure 3. Share of each kind of operator along the relative depth, in the front and in all networks."""
    title = "Operators along the depth"
    best, trained = front(run), run.scored
    searched = trained[trained["origin"] == "search"]
    panels = [(f"the front: {len(best)} networks", depth_shares(best["notation"])),
              (f"all that the search {'found' if run.untrained else 'trained'}: {len(searched)} networks",
               depth_shares(searched["notation"]))]
    panels = [(name, shares) for name, shares in panels if not shares.empty]
    if not panels:
        return nothing_to_show(title, "No trained network with a readable notation.")
    figure = make_subplots(rows=1, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.04,
                           subplot_titles=[html.escape(name) for name, _ in panels])
    apply_theme(figure, title, "mean share of each operator in equal slices from the first operator to the"
                               " last",
                height=440, barmode="stack", bargap=0.06, margin_t=120)
    for kind in sorted({k for _, shares in panels for k in shares.columns}, key=operator_order):
        first = True
        for column, (_, shares) in enumerate(panels, start=1):
            if kind not in shares.columns:
                continue
            label = html.escape(operator_label(kind))
            figure.add_bar(x=shares.index * 100, y=shares[kind], name=label, legendgroup=kind,
                           showlegend=first,
                           marker={"color": operator_colour(kind), "line": {"width": 0}}, row=1, col=column,
                           hovertemplate=f"{label}<br>%{{y:.0%}} at %{{x:.0f}} % of the depth<extra></extra>")
            first = False
    figure.update_xaxes(title_text="relative depth (%)", range=[0, 100], dtick=25, showgrid=False)
    figure.update_yaxes(range=[0, 1], tickformat=".0%", showgrid=False)
    figure.update_yaxes(title_text="share of the operators", col=1)
    return figure


def latency_by_operator(run: RecordedRun) -> go.Figure:
    """Figure 4. Latency of each finalist: operators by colour, kernels by segment, sources by hatching."""
    title = "Latency of each finalist by operator"
    parts = breakdown(run)
    if parts.empty:
        return nothing_to_show(title, "No finalist with a latency breakdown.")
    figure, factor, unit = _bars(run, title, "one segment per kernel; hatched: not measured but derived or"
                                             " roofline;"
                                             " whisker: lower to upper bound")
    for operator in sorted(set(parts["operator"]), key=operator_order):
        _add_legend_entry(figure, operator_label(operator), operator_colour(operator), operator)
    segments = _groups(parts, ["operator", "kernel", "label", "source"])
    for (operator, kernel, label, source), part in sorted(segments,
                                                          key=lambda pair: operator_order(pair[0][0])):
        text = f"{operator_label(operator)}<br>{label}" + (f" ({kernel})" if kernel != label else "")
        _add_segments(figure, part, factor, unit, name=operator_label(operator), group=html.escape(operator),
                      text=text,
                      colour=operator_colour(operator), source=source)
    _add_source_legend(figure, set(parts["source"]))
    _add_bounds(figure, run, factor)
    return figure


def latency_by_kernel(run: RecordedRun) -> go.Figure:
    """Figure 4, second view: the same latencies by family of kernels."""
    title = "Latency of each finalist by kernel"
    parts = breakdown(run)
    if parts.empty:
        return nothing_to_show(title, "No finalist with a latency breakdown.")
    figure, factor, unit = _bars(run, title, "the same milliseconds, grouped by what the device executes")
    for family, colour in KERNEL_COLOURS.items():
        grouped = parts[parts["family"] == family].groupby(["finalist", "source"], sort=False, as_index=False)
        sums = grouped[["ms", "share"]].sum()
        if not sums.empty:
            _add_legend_entry(figure, family, colour, family)
        for (source,), part in _groups(sums, ["source"]):
            _add_segments(figure, part, factor, unit, name=family, group=family, text=family, colour=colour,
                          source=source)
    _add_source_legend(figure, set(parts["source"]))
    return figure


def training_curves(run: RecordedRun) -> go.Figure:
    """Figure 5. Validation loss over tokens seen; finalists and baselines in the colour of their main
    mixer."""
    title = "Training curves"
    trials = [row for row in rows(run.trained) if len(row.curve) > 0]
    if not trials:
        return nothing_to_show(title, "No training curve was recorded.")
    best = None if run.answer is None else {run.answer.recommended, *run.answer.tied}
    final = {row.number for row in trials if finalist_of(run, row) and (best is None or row.hash in best)}
    marked = [row for row in trials if row.number in final or row.origin == "baseline"]
    names = {row.number for row in marked}
    others = sorted((row for row in trials if row.number not in names), key=lambda row: row.loss)
    step = -(-len(others) // MOST_CURVES) or 1
    others = others[::step]
    grey = "every other network" if step == 1 else f"every {step}th other network by its loss"
    figure = new_figure(title, f"solid: {'finalists' if best is None else 'recommended and not told apart'};"
                               f" dashed:"
                               f" pure-operator baselines; grey: {grey}",
                        height=520, showlegend=False, margin_r=170, hovermode="closest")
    xs = [x for row in others for x in (*(point[0] for point in row.curve), None)]
    ys = [y for row in others for y in (*(point[1] for point in row.curve), None)]
    figure.add_scatter(x=xs, y=ys, mode="lines", line={"color": "#D0D5DD", "width": 1}, hoverinfo="skip")
    for row in marked:
        name = html.escape(name_of(run, row))
        width, dash = (2.2, "solid") if row.number in final else (1.6, "dash")
        figure.add_scatter(
            x=[point[0] for point in row.curve], y=[point[1] for point in row.curve], mode="lines", name=name,
            line={"color": operator_colour(mixer_colours(row.notation)[0]), "width": width, "dash": dash},
            hovertemplate=f"{name}<br>%{{y:.4f}} nats at %{{x:,.0f}} tokens<extra></extra>")
    last = max(row.curve[-1][0] for row in trials)
    late = [y for row in trials for x, y in row.curve if x >= CURVE_WARMUP * last and known(y)]
    low, high = (min(late), max(late)) if late else (0.0, 1.0)
    low, high = low - 0.06 * ((high - low) or 1), high + 0.04 * ((high - low) or 1)
    offsets = _spread([(row.curve[-1][1] - low) / (high - low) * CURVE_HEIGHT for row in marked],
                      15.0, CURVE_HEIGHT)
    for row, shift in zip(marked, offsets, strict=True):
        figure.add_annotation(
            x=row.curve[-1][0], y=row.curve[-1][1], ax=34, ay=-shift, xanchor="left", showarrow=True,
            arrowhead=0,
            arrowwidth=0.8, arrowcolor="#98A2B3", text=html.escape(name_of(run, row)),
            font={"size": 12, "color": INK if row.number in final else MUTED})
    figure.update_xaxes(title_text="tokens seen", range=[0.9 * CURVE_WARMUP * last, last])
    figure.update_yaxes(title_text="validation loss (nats per token)", range=[low, high])
    return figure


FIGURES: dict[str, Callable[[RecordedRun], go.Figure]] = {
    "front": pareto_front,
    "hypervolume": hypervolume,
    "operators": operator_share,
    "latency-by-operator": latency_by_operator,
    "latency-by-kernel": latency_by_kernel,
    "curves": training_curves,
}
# of some runs: those that rank by the full loss, and those with more than two objectives
FURTHER: dict[str, Callable[[RecordedRun], go.Figure]] = {"short-loss": short_loss,
                                                          "objectives": further_objectives}


# -- parts ---------------------------------------------------------------------------------------------------

def _bars(run: RecordedRun, title: str, subtitle: str) -> tuple[go.Figure, float, str]:
    totals = breakdown(run).groupby("finalist", sort=False)["ms"].sum()
    factor, unit = latency_unit(totals)
    figure = new_figure(title, subtitle, height=max(170 + 44 * len(totals), 400), barmode="stack",
                        bargap=0.35,
                        legend={"tracegroupgap": 2})
    figure.update_xaxes(title_text=f"latency of one request ({unit})", rangemode="tozero")
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=list(totals.index)[::-1],
                        showgrid=False, showline=False, ticks="")
    return figure, factor, unit


def _groups(frame: pd.DataFrame, columns: list[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """Groups of rows in the order of appearance, with their values of `columns`."""
    return [(tuple(part[columns].iloc[0].astype(str)), part)
            for _, part in frame.groupby(columns, sort=False)]


def _add_segments(figure: go.Figure, part: pd.DataFrame, factor: float, unit: str, *, name: str, group: str,
                  text: str,
                  colour: str, source: str) -> None:
    safe = "<br>".join(html.escape(line) for line in text.split("<br>"))
    figure.add_bar(
        y=part["finalist"], x=part["ms"] * factor, orientation="h", name=html.escape(name), legendgroup=group,
        showlegend=False, customdata=np.round(part["share"] * 100, 1),
        marker={"color": colour, "line": {"color": "white", "width": 0.6},
                "pattern": {"shape": SOURCE_PATTERNS.get(source, "."), "fgcolor": "white", "fgopacity": 0.65,
                            "size": 6, "solidity": 0.3, "fillmode": "overlay"}},
        hovertemplate=f"<b>%{{y}}</b> · {safe}<br>%{{x:.4g}} {unit}, %{{customdata}} %<br>source:"
                      f" {html.escape(source)}<extra></extra>")


def _add_legend_entry(figure: go.Figure, name: str, colour: str, group: str) -> None:
    figure.add_bar(y=[None], x=[None], orientation="h", name=html.escape(name),
                   legendgroup=html.escape(group),
                   marker={"color": colour})


def _add_source_legend(figure: go.Figure, sources: set[str]) -> None:
    for source in [*(s for s in SOURCE_PATTERNS if s in sources), *sorted(sources - set(SOURCE_PATTERNS))]:
        figure.add_bar(y=[None], x=[None], orientation="h", name=f"source: {html.escape(source)}",
                       legendgroup="source",
                       marker={"color": "#98A2B3", "pattern": {
                           "shape": SOURCE_PATTERNS.get(source, "."), "fgcolor": "white", "fgopacity": 0.9,
                           "size": 6,
                           "solidity": 0.3, "fillmode": "overlay"}})


def _add_bounds(figure: go.Figure, run: RecordedRun, factor: float) -> None:
    shown = [f for f in run.front if f.breakdown and all(
        known(f.figures.get(name)) for name in ("lower_ms", "latency_ms", "upper_ms"))]
    if not shown:
        return
    value = {name: np.array([f.figures[name] for f in shown], dtype=float) * factor
             for name in ("lower_ms", "latency_ms", "upper_ms")}
    figure.add_scatter(y=[None], x=[None], mode="lines", name="lower to upper bound", line={"color": INK,
                                                                                            "width": 1.3})
    figure.add_scatter(y=[f.name for f in shown], x=value["latency_ms"], mode="markers", showlegend=False,
                       name="bounds", marker={"symbol": "line-ns", "size": 1, "color": INK}, hoverinfo="skip",
                       error_x={"type": "data", "symmetric": False,
                                "array": value["upper_ms"] - value["latency_ms"],
                                "arrayminus": value["latency_ms"] - value["lower_ms"], "color": INK,
                                "thickness": 1.3, "width": 5})


def _spread(heights: list[float], gap: float, limit: float) -> list[float]:
    """Shifts that keep heights at least `gap` apart: what collides moves as a pile around its mean, within
    0..limit."""
    def bottom(pile: list[int]) -> float:
        middle = sum(heights[index] for index in pile) / len(pile)
        extent = (len(pile) - 1) * gap
        return max(min(middle - extent / 2, limit - extent), 0.0)

    piles: list[list[int]] = []
    for index in sorted(range(len(heights)), key=heights.__getitem__):
        piles.append([index])
        while len(piles) > 1 and bottom(piles[-1]) - bottom(piles[-2]) < len(piles[-2]) * gap:
            upper = piles.pop()
            piles[-1].extend(upper)
    shifts = [0.0] * len(heights)
    for pile in piles:
        for place, index in enumerate(pile):
            shifts[index] = bottom(pile) + place * gap - heights[index]
    return shifts
