"""The objectives besides loss and latency, each against latency: one panel each, in Plotly and for the
picture."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flashnas.report.palette import INK, operator_colour
from flashnas.report.plot_data import finalist_of, latency_unit, mixer_colours, name_of, objective_points
from flashnas.report.theme import apply_theme, hover, nothing_to_show
from flashnas.runs.run import RecordedRun, rows
from flashnas.search.objectives import larger_is_better, title_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL = 300              # pixels


def heading(name: str) -> str:
    """`recall, higher is better`."""
    return f"{title_of(name)}, {'higher' if larger_is_better(name) else 'lower'} is better"


def further_objectives(run: RecordedRun) -> go.Figure:
    """One panel for each objective besides loss and latency; the front is named."""
    trained, names = objective_points(run)[0], run.further_objectives
    if trained.empty:
        return nothing_to_show("Further objectives", "No network has all objectives.")
    factor, unit = latency_unit(trained["latency_ms"])
    figure = make_subplots(rows=len(names), cols=1, shared_xaxes=True, vertical_spacing=0.25 / len(names),
                           subplot_titles=[html.escape(heading(name)) for name in names])
    apply_theme(figure, "Further objectives against latency", "named: the front",
                height=150 + PANEL * len(names),
                showlegend=False, hovermode="closest")
    colours = trained["notation"].map(mixer_colours)
    final = [bool(finalist_of(run, row)) for row in rows(trained)]
    labels = [name_of(run, row).partition(" ")[0] if on else "" for row, on in zip(rows(trained), final,
                                                                                   strict=True)]
    for place, name in enumerate(names, start=1):
        figure.add_scatter(
            x=trained["latency_ms"] * factor, y=trained[name], mode="markers+text", row=place, col=1,
            text=[html.escape(label) for label in labels], textposition="top center", textfont={"color": INK},
            marker={"size": 11, "color": [operator_colour(first) for first, _ in colours],
                    "symbol": ["diamond" if origin == "baseline" else "circle"
                               for origin in trained["origin"]],
                    "line": {"color": [operator_colour(second) for _, second in colours], "width": 2.4},
                    "opacity": [1.0 if on else 0.55 for on in final]},
            customdata=[f"{hover(name_of(run, row), row)}<br>{html.escape(title_of(name))} {value:.3g}"
                        for row, value in zip(rows(trained), trained[name], strict=True)],
            hovertemplate="%{customdata}<extra></extra>")
        figure.update_yaxes(title_text=html.escape(title_of(name)), row=place, col=1)
    figure.update_xaxes(title_text=f"latency of one request ({unit})", row=len(names), col=1)
    return figure


def draw_panel(axes: Axes, run: RecordedRun, name: str, factor: float) -> None:
    """The same panel in the still picture."""
    for row, value in _with_values(run, name):
        first, second = mixer_colours(row.notation)
        final, pure = finalist_of(run, row), row.origin == "baseline"
        axes.plot(row.latency_ms * factor, value, marker="D" if pure else "o", markersize=7.5,
                  linestyle="none",
                  markerfacecolor=operator_colour(first), markeredgecolor=INK if pure
                  else operator_colour(second),
                  markeredgewidth=0.9 if pure else 1.8, zorder=3 if final else 2, alpha=1.0 if final else 0.5)
        if final:
            axes.annotate(final.name, (row.latency_ms * factor, value), xytext=(0, 7), textcoords="offset"
                                                                                                  " points",
                          ha="center", fontsize=9, weight="bold", color=INK, zorder=4)
    axes.margins(y=0.18)
    axes.set_ylabel(heading(name).replace(", ", "\n"), color=INK)


def _with_values(run: RecordedRun, name: str) -> list[tuple]:
    trained = objective_points(run)[0]
    return list(zip(rows(trained), trained[name], strict=True))
