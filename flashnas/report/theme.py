"""The common look of the Plotly figures, and texts for hovers: escaped, wrapped, with units."""

from __future__ import annotations

import html
import textwrap
from typing import Any

import plotly.graph_objects as go

from flashnas.architecture.folding import compressed
from flashnas.report.palette import INK, MUTED, RULE
from flashnas.report.text import known, number, parameters

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
_AXIS = {"gridcolor": RULE, "linecolor": "#98A2B3", "showline": True, "ticks": "outside",
         "tickcolor": "#98A2B3",
         "ticklen": 4, "zeroline": False, "title": {"standoff": 10, "font": {"size": 14}}, "automargin": True}

TEMPLATE = go.layout.Template(layout={
    "font": {"family": FONT, "size": 13, "color": INK},
    "paper_bgcolor": "white", "plot_bgcolor": "white",
    "title": {"x": 0, "xref": "container", "xanchor": "left", "y": 0.985, "yref": "container",
              "yanchor": "top",
              "font": {"size": 17}, "pad": {"l": 8, "t": 6}},
    "margin": {"l": 70, "r": 24, "t": 88, "b": 64},
    "xaxis": _AXIS, "yaxis": _AXIS,
    "legend": {"x": 1.02, "xanchor": "left", "y": 1, "yanchor": "top", "font": {"size": 12},
               "title": {"font": {"size": 12}}, "itemsizing": "constant"},
    "hoverlabel": {"font": {"family": FONT, "size": 12, "color": INK}, "bgcolor": "white",
                   "bordercolor": "#98A2B3",
                   "align": "left"},
})


def new_figure(title: str, subtitle: str, *, height: int, **layout: Any) -> go.Figure:
    """An empty figure with the common look; title and subtitle are escaped."""
    figure = go.Figure()
    apply_theme(figure, title, subtitle, height=height, **layout)
    return figure


def apply_theme(figure: go.Figure, title: str, subtitle: str, *, height: int, **layout: Any) -> None:
    """Set the common look, the titles (escaped here), the height in pixels and further entries of the
    layout."""
    figure.update_layout(
        template=TEMPLATE, height=height, autosize=True,
        title={"text": f"<b>{html.escape(title)}</b>",
               "subtitle": {"text": html.escape(subtitle), "font": {"size": 13, "color": MUTED}}}, **layout)


def nothing_to_show(title: str, why: str) -> go.Figure:
    """An empty figure with the reason why it is empty."""
    figure = new_figure(title, "", height=220)
    figure.add_annotation(text=html.escape(why), x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False,
                          font={"size": 14, "color": MUTED})
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure


def wrapped(text: str, width: int = 64) -> str:
    """Escaped text broken into lines with `<br>`."""
    return "<br>".join(html.escape(line) for line in textwrap.wrap(text, width) or [""])


def hover(name: str, row: Any, *, folded: bool = True) -> str:
    """The hover text of a trial; `folded` shortens the notation by its repeats, which takes milliseconds."""
    bounds = (f" (bounds {number(row.lower_ms)} to {number(row.upper_ms)})"
              if known(row.lower_ms) and known(row.upper_ms) else "")
    lines = [f"<b>{html.escape(name)}</b>",
             *_losses(row),
             f"latency {number(row.latency_ms, 5, 'ms')}{bounds}",
             f"{parameters(row.params)} parameters · {number(row.memory_gb, 3, 'GB')}",
             wrapped(compressed(row.notation) if folded else row.notation)]
    return "<br>".join(lines)


def _losses(row: Any) -> list[str]:
    """What is known of the losses of a trial, a line each."""
    lines = []
    if known(row.full_loss):
        y, reach = getattr(row, "y", None), getattr(row, "reach", None)
        if known(reach):
            lines.append(f"full loss {y:+.3f} nats to the recommended one, 90 % within ± {reach:.3f}")
        lines.append(f"recall {number(row.expected_recall, 2)} ± {number(row.expected_recall_sd, 2)} to a"
                     f" transformer")
    if known(row.loss) or not lines:
        lines.append(f"{'short loss' if lines else 'loss'} {number(row.loss)} nats/token"
                     f" · {number(row.bits_per_byte)} bits/byte")
    return lines
