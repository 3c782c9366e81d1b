"""A quality against latency of all networks, with the front, the baselines and the budget."""

from __future__ import annotations

import html

import pandas as pd
import plotly.graph_objects as go

from flashnas.report.palette import (
    BUDGET,
    INK,
    INTERVAL,
    MUTED,
    RULE,
    operator_colour,
    operator_label,
    operator_order,
)
from flashnas.report.plane import Plane, plane_of
from flashnas.report.plot_data import finalist_of, mixer_colours, name_of
from flashnas.report.text import number
from flashnas.report.theme import hover, new_figure, nothing_to_show
from flashnas.report.words import counts_line
from flashnas.runs.run import RecordedRun, rows

MOST_FOLDED = 600  # networks up to which all hover texts have short notations
PLOT_WIDTH, MARGINS = 800.0, 170.0  # about the plotting area in pixels, for the placement of labels
HEIGHT, SMALL_HEIGHT = 600, 380


def pareto_front(run: RecordedRun) -> go.Figure:
    """Figure 1: what ranks, against latency. Fill: most frequent token mixer, ring: second most frequent;
    diamonds: pure-operator baselines; where the full loss ranks, bars: 90 % intervals of the difference."""
    if run.scored.empty:
        return nothing_to_show("Loss against latency", f"No network was trained to the end"
                                                       f" ({counts_line(run)}).")
    return _drawn(plane_of(run), HEIGHT)


def short_loss(run: RecordedRun) -> go.Figure:
    """The loss of the short trainings against latency, smaller, where the full loss ranks."""
    if run.trained.empty:
        return nothing_to_show("Loss of the short trainings", "Nothing was trained.")
    return _drawn(plane_of(run, "loss"), SMALL_HEIGHT)


def _drawn(plane: Plane, height: int) -> go.Figure:
    run, points = plane.run, plane.points
    factor, unit = plane.unit
    figure = new_figure(plane.title, counts_line(run), height=height, hovermode="closest", legend={
        "tracegroupgap": 2, "title_text": "Fill: most frequent mixer<br>Ring: second most frequent"})
    (x0, x1), (y0, y1) = plane.ranges()
    xs, ys = plane.steps(min(x1, run.budget_ms or x1))
    if xs:
        figure.add_scatter(x=[x * factor for x in xs], y=ys, mode="lines", name="Pareto front",
                           hoverinfo="skip",
                           line={"color": INK, "width": 1.6}, legendrank=1)
    _intervals(figure, points, factor)
    mixers = points["notation"].map(mixer_colours)
    main = mixers.str[0]
    for kind in sorted(set(main), key=operator_order):
        for origin, small, symbol, size in (
                ("bench", True, "circle", 5), ("search", True, "circle", 5), ("bench", False, "circle", 8),
                ("search", False, "circle", 11), ("baseline", False, "diamond", 14)):
            chosen = points[(points["origin"] == origin) & (main == kind) & (points["small"] == small)]
            if chosen.empty:
                continue
            edges = [operator_colour(second) for _, second in mixers[chosen.index]]
            figure.add_scatter(
                x=chosen["latency_ms"] * factor, y=chosen["y"], mode="markers", legendgroup=kind,
                showlegend=False, name=html.escape(operator_label(kind)), opacity=0.55 if small else 1.0,
                marker={"symbol": symbol, "size": 11 if plane.run.ranks_full and size == 8 else size,
                        "color": operator_colour(kind),
                        "line": {"color": [INK] * len(chosen) if origin == "baseline" else edges,
                                 "width": 1.2 if origin == "baseline" else 1.4 if small else 2.6}},
                customdata=chosen["number"], hovertemplate="%{text}<extra></extra>",
                text=[hover(name_of(run, row), row, folded=len(points) <= MOST_FOLDED
                            or finalist_of(run, row) is not None) for row in rows(chosen)])
    rings = set(mixers[points["origin"] != "baseline"].str[1])
    for kind in sorted({*main, *rings}, key=operator_order):
        _legend_entry(figure, html.escape(operator_label(kind)), "circle", operator_colour(kind), "white",
                      group=kind)
    if not run.baselines.empty:
        _legend_entry(figure, "pure-operator baseline", "diamond", "white", INK)
    if points["small"].any():
        _legend_entry(figure, "small: not on the front", "circle", RULE, MUTED)
    _mark_failed(figure, run, factor, y1 - 0.025 * (y1 - y0))
    if run.budget_ms:
        figure.add_vline(x=run.budget_ms * factor, line={"color": BUDGET, "dash": "dash", "width": 1.5})
        figure.add_annotation(x=run.budget_ms * factor, y=1, yref="paper", yanchor="bottom", showarrow=False,
                              text=f"budget {number(run.budget_ms * factor, 5, unit)}",
                              font={"color": BUDGET})
    for text, row, (dx, dy) in plane.labels((PLOT_WIDTH, height - MARGINS)):
        figure.add_annotation(
            x=row.latency_ms * factor, y=row.y, ax=dx, ay=-dy, text=html.escape(text), standoff=7,
            arrowhead=0, arrowwidth=0.8, arrowcolor="#98A2B3", bgcolor="rgba(255,255,255,0.75)", borderpad=1,
            name="" if plane.matters(row) else "minor",
            font={"size": 12, "color": INK if (row.final and run.ranks_full) or row.origin != "baseline"
                  else MUTED})
    figure.update_xaxes(title_text=f"{_workload_words(run)} ({unit})", range=[x0 * factor, x1 * factor])
    figure.update_yaxes(title_text=html.escape(plane.axis), range=[y0, y1])
    return figure


def _intervals(figure: go.Figure, points: pd.DataFrame, factor: float) -> None:
    """Bars of the networks that have an interval."""
    having = points[points["reach"].notna()]
    if not having.empty:
        figure.add_scatter(
            x=having["latency_ms"] * factor, y=having["y"], mode="markers", name="intervals",
            hoverinfo="skip",
            showlegend=False, marker={"symbol": "line-ns", "size": 1, "color": INTERVAL},
            error_y={"type": "data", "array": having["reach"], "color": INTERVAL, "thickness": 1.3,
                     "width": 4})
        figure.add_scatter(x=[None], y=[None], mode="lines", name="90 % interval", legendrank=2,
                           line={"color": INTERVAL, "width": 1.3})


def _legend_entry(figure: go.Figure, name: str, symbol: str, fill: str, edge: str,
                  group: str | None = None) -> None:
    figure.add_scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=group,
                       marker={"symbol": symbol, "size": 12, "color": fill, "line": {"color": edge,
                                                                                     "width": 1.2}})


def _mark_failed(figure: go.Figure, run: RecordedRun, factor: float, height: float) -> None:
    failed = run.failed[run.failed["latency_ms"].notna()]
    if failed.empty:
        return
    figure.add_scatter(
        x=failed["latency_ms"] * factor, y=[height] * len(failed), mode="markers", name="failed: no loss",
        marker={"symbol": "x-thin", "size": 9, "line": {"color": MUTED, "width": 2}},
        hovertemplate="%{text}<extra></extra>",
        text=[f"<b>trial {row.number} failed</b><br>{html.escape(row.reason)}" for row in rows(failed)])


def _workload_words(run: RecordedRun) -> str:
    workload = run.entry("workload", "name")
    device = run.entry("table", "device") or run.entry("table", "name")
    words = f"latency of one request, {workload}" if workload else "latency of one request"
    return html.escape(f"{words} on {device}" if device else words)
