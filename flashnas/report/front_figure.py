"""Loss against latency of all trained networks, with the front, the baselines and the budget."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

from flashnas.report.palette import BUDGET, INK, MUTED, operator_colour, operator_label, operator_order
from flashnas.report.plot_data import finalist_of, front, latency_unit, mixer_colours, name_of, place_labels, staircase
from flashnas.report.text import number
from flashnas.report.theme import hover, new_figure, nothing_to_show
from flashnas.study.run import Run, rows
from flashnas.study.trial import KNOWN

TITLE = "Loss against latency: every trained network"
MOST_FOLDED = 600  # networks up to which all hover texts have short notations
PLOT_BOX = (800.0, 430.0)  # about the plotting area in pixels, for the placement of labels


def counts_line(run: Run) -> str:
    """`24 searched + 6 baselines trained · 90 from a bench · 2 failed · 3 outside the budget · 4 repeats`; networks
    from a bench are neither searched nor baselines."""
    counts, from_bench = run.counts(), run.trained["source"].isin(KNOWN)
    baselines = int((~from_bench & (run.trained["origin"] == "baseline")).sum())
    pure = f" + {baselines} baselines" if baselines else ""
    parts = [f"{len(run.trained) - int(from_bench.sum()) - baselines} searched{pure} trained"]
    if from_bench.any():
        sources = {"bench": "from a bench", "run": "from earlier runs"}
        parts += [f"{count} {words}" for name, words in sources.items()
                  if (count := int((run.trained["source"] == name).sum()))]
    for state, text in (("stopped", "stopped at a rung"), ("failed", "failed"), ("infeasible", "outside the budget"),
                        ("reused", "repeats")):
        if counts[state]:
            parts.append(f"{counts[state]} {text}")
    return " · ".join(parts)


def axis_ranges(run: Run) -> tuple[tuple[float, float], tuple[float, float]]:
    """((latency_ms low, high), (loss low, high)) with room for labels and for the marks of failed trials on top."""
    trained = run.trained
    xs = [*trained["latency_ms"], *([run.budget_ms] if run.budget_ms else [])]
    wide = (max(xs) - min(xs)) or max(xs) * 0.1 or 1.0
    low, high = trained["loss"].min(), trained["loss"].max()
    tall = (high - low) or abs(high) * 0.1 or 1.0
    return (max(min(xs) - 0.07 * wide, 0.0), max(xs) + 0.09 * wide), (low - 0.13 * tall, high + 0.13 * tall)


def label_positions(run: Run, box: tuple[float, float], letter: float = 6.6,
                    ) -> list[tuple[str, Any, tuple[float, float]]]:
    """(text, trial, offset in pixels) of the labels: the front's names and the baselines'."""
    (x0, x1), (y0, y1) = axis_ranges(run)

    def pixel(latency_ms: float, loss: float) -> tuple[float, float]:
        return (latency_ms - x0) / (x1 - x0) * box[0], (loss - y0) / (y1 - y0) * box[1]

    best = front(run)
    labelled = [row for row in rows(run.trained) if finalist_of(run, row) or row.origin == "baseline"]
    texts = [name_of(run, row).replace("pure ", "") for row in labelled]  # diamonds mark them
    obstacles = [pixel(row.latency_ms, row.loss) for row in rows(run.trained)]
    xs, ys = staircase(best, x1)
    obstacles += [pixel(xa + (xb - xa) * k / 80, ya + (yb - ya) * k / 80)  # a label is wider than the gaps
                  for xa, ya, xb, yb in zip(xs, ys, xs[1:], ys[1:], strict=False) for k in range(81)]
    if run.budget_ms:
        obstacles += [pixel(run.budget_ms, y0 + (y1 - y0) * k / 40) for k in range(41)]
    offsets = place_labels([pixel(row.latency_ms, row.loss) for row in labelled],
                           [(letter * len(text) + 4, 15.0) for text in texts], obstacles, box)
    return list(zip(texts, labelled, offsets, strict=True))


def pareto_front(run: Run) -> go.Figure:
    """Figure 1. Fill: most frequent token mixer, ring: second most frequent; diamonds: pure-operator baselines."""
    trained = run.trained
    if trained.empty:
        return nothing_to_show(TITLE, f"No network was trained to the end ({counts_line(run)}).")
    factor, unit = latency_unit([*trained["latency_ms"], run.budget_ms or 0.0])
    figure = new_figure(TITLE, counts_line(run), height=600, hovermode="closest", legend={
        "tracegroupgap": 2, "title_text": "Fill: most frequent mixer<br>Ring: second most frequent"})
    (x0, x1), (y0, y1) = axis_ranges(run)
    best = front(run)
    xs, ys = staircase(best, min(x1, run.budget_ms or x1))
    figure.add_scatter(x=[x * factor for x in xs], y=ys, mode="lines", name="Pareto front", hoverinfo="skip",
                       line={"color": INK, "width": 1.6}, legendrank=1)
    mixers = trained["notation"].map(mixer_colours)
    main = mixers.str[0]
    for kind in sorted(set(main), key=operator_order):
        for origin, symbol, size in (("bench", "circle", 8), ("search", "circle", 11), ("baseline", "diamond", 14)):
            points = trained[(trained["origin"] == origin) & (main == kind)]
            if points.empty:
                continue
            edges = [operator_colour(second) for _, second in mixers[points.index]]
            figure.add_scatter(
                x=points["latency_ms"] * factor, y=points["loss"], mode="markers", legendgroup=kind,
                showlegend=False, name=html.escape(operator_label(kind)),
                marker={"symbol": symbol, "size": size, "color": operator_colour(kind),
                        "line": {"color": [INK] * len(points) if origin == "baseline" else edges,
                                 "width": 1.2 if origin == "baseline" else 2.6}},
                customdata=points["number"], hovertemplate="%{text}<extra></extra>",
                text=[hover(name_of(run, row), row, folded=len(trained) <= MOST_FOLDED
                            or finalist_of(run, row) is not None) for row in rows(points)])
    rings = set(mixers[trained["origin"] != "baseline"].str[1])
    for kind in sorted({*main, *rings}, key=operator_order):
        _legend_entry(figure, html.escape(operator_label(kind)), "circle", operator_colour(kind), "white", group=kind)
    if not run.baselines.empty:
        _legend_entry(figure, "pure-operator baseline", "diamond", "white", INK)
    _mark_failed(figure, run, factor, y1 - 0.025 * (y1 - y0))
    if run.budget_ms:
        figure.add_vline(x=run.budget_ms * factor, line={"color": BUDGET, "dash": "dash", "width": 1.5})
        figure.add_annotation(x=run.budget_ms * factor, y=1, yref="paper", yanchor="bottom", showarrow=False,
                              text=f"budget {number(run.budget_ms * factor, 5, unit)}", font={"color": BUDGET})
    for text, row, (dx, dy) in label_positions(run, PLOT_BOX):
        figure.add_annotation(
            x=row.latency_ms * factor, y=row.loss, ax=dx, ay=-dy, text=html.escape(text), standoff=7,
            arrowhead=0, arrowwidth=0.8, arrowcolor="#98A2B3", bgcolor="rgba(255,255,255,0.75)", borderpad=1,
            font={"size": 12, "color": MUTED if row.origin == "baseline" else INK})
    figure.update_xaxes(title_text=f"{_workload_words(run)} ({unit})", range=[x0 * factor, x1 * factor])
    figure.update_yaxes(title_text="validation loss after short training (nats per token)", range=[y0, y1])
    return figure


def _legend_entry(figure: go.Figure, name: str, symbol: str, fill: str, edge: str, group: str | None = None) -> None:
    figure.add_scatter(x=[None], y=[None], mode="markers", name=name, legendgroup=group,
                       marker={"symbol": symbol, "size": 12, "color": fill, "line": {"color": edge, "width": 1.2}})


def _mark_failed(figure: go.Figure, run: Run, factor: float, height: float) -> None:
    failed = run.failed[run.failed["latency_ms"].notna()]
    if failed.empty:
        return
    figure.add_scatter(
        x=failed["latency_ms"] * factor, y=[height] * len(failed), mode="markers", name="failed: no loss",
        marker={"symbol": "x-thin", "size": 9, "line": {"color": MUTED, "width": 2}},
        hovertemplate="%{text}<extra></extra>",
        text=[f"<b>trial {row.number} failed</b><br>{html.escape(row.reason)}" for row in rows(failed)])


def _workload_words(run: Run) -> str:
    workload, device = run.entry("workload", "name"), run.entry("table", "device") or run.entry("table", "name")
    words = f"latency of one request, {workload}" if workload else "latency of one request"
    return html.escape(f"{words} on {device}" if device else words)
