"""A Picture as a Plotly figure: with hovers, and a legend that hides what it names. All texts are
escaped.
"""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from flashnas.report.marks import (
    LINES,
    Bars,
    Guide,
    Key,
    Label,
    Line,
    Panel,
    Picture,
    PlotAxis,
    Points,
    Whiskers,
)
from flashnas.report.palette import INK, MUTED, RULE, SOFT

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
TOP, BOTTOM, GAP = 88, 64, 88  # pixels above, below and between panels
EMPTY_HEIGHT = 220
_AXIS = {
    "gridcolor": RULE,
    "linecolor": SOFT,
    "showline": True,
    "ticks": "outside",
    "tickcolor": SOFT,
    "ticklen": 4,
    "zeroline": False,
    "title": {"standoff": 10, "font": {"size": 14}},
    "automargin": True,
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": FONT, "size": 13, "color": INK},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "title": {
            "x": 0,
            "y": 0.985,
            "yanchor": "top",
            "font": {"size": 17},
            "pad": {"l": 8, "t": 6},
        },
        "margin": {"l": 70, "r": 24, "b": BOTTOM},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
        "legend": {"tracegroupgap": 2, "itemsizing": "constant"},
        "hoverlabel": {"bgcolor": "white", "bordercolor": SOFT, "align": "left"},
    }
)
SYMBOLS = {"triangle": "triangle-up", "cross": "x"}  # others have the names of shapes


def draw_plotly(picture: Picture) -> go.Figure:
    """The figure, as wide as its page."""
    columns, heights, rows = picture.columns, picture.heights, len(picture.heights)
    total = sum(heights) + GAP * (rows - 1)
    top = TOP + 32 * any(panel.heading for panel in picture.panels)
    figure = go.Figure()
    if rows:
        figure = make_subplots(
            rows=rows,
            cols=columns,
            row_heights=heights,
            shared_xaxes=picture.shared and rows > 1,
            shared_yaxes=picture.shared and columns > 1,
            vertical_spacing=GAP / total if rows > 1 else 0,
            horizontal_spacing=0.04 if picture.shared else 0.09,
            subplot_titles=[_text(panel.heading) for panel in picture.panels],
        )
        figure.update_annotations(name="heading")
    figure.update_layout(
        template=TEMPLATE,
        autosize=True,
        showlegend=bool(picture.keys),
        legend_title_text=_text(picture.keys_title),
        barmode="overlay",
        hovermode="closest",
        height=total + top + BOTTOM if rows else EMPTY_HEIGHT,
        margin_t=top,
        title={
            "text": f"<b>{_text(picture.title)}</b>",
            "subtitle": {"text": _text(picture.subtitle), "font": {"size": 13, "color": MUTED}},
        },
    )
    if not rows:
        figure.add_annotation(
            text=_text(picture.empty),
            x=0.5,
            y=0.5,
            xref="paper",
            yref="paper",
            showarrow=False,
        )
        figure.update_xaxes(visible=False).update_yaxes(visible=False)
    for place, panel in enumerate(picture.panels):
        at = {"row": place // columns + 1, "col": place % columns + 1}
        _add_panel(figure, panel, at)
        figure.update_xaxes(**_axis(panel.x), **at)
        figure.update_yaxes(**_axis(panel.y), **at)
    for key in picture.keys:
        _add_key(figure, key)
    return figure


def _add_panel(figure: go.Figure, panel: Panel, at: dict[str, int]) -> None:
    for mark in panel.marks:
        points: dict[str, Any] = {}
        if isinstance(mark, Points | Line | Whiskers):
            points = {"x": _list(mark.x), "y": _list(mark.y), **at}
        match mark:
            case Points():
                figure.add_scatter(
                    **points,
                    mode="markers",
                    opacity=mark.opacity,
                    **_group(mark.group),
                    marker=_marker(mark, mark.fill, mark.edge or mark.fill, mark.edge_width),
                    **_hovers(mark.hover),
                )
            case Line():
                figure.add_scatter(
                    **points,
                    mode="lines",
                    line=_line(mark.colour, mark.width, dash=mark.dash),
                    **_hovers(mark.hover),
                    showlegend=False,
                )
            case Whiskers():
                reach = {
                    "type": "data",
                    "symmetric": False,
                    "array": _list(mark.high),
                    "arrayminus": _list(mark.low),
                    "color": mark.colour,
                    "thickness": 1.3,
                    "width": 4,
                }
                figure.add_scatter(
                    **points,
                    mode="markers",
                    **_hovers(()),
                    showlegend=False,
                    marker={"symbol": "line-ns", "size": 1, "color": mark.colour},
                    **{"error_x" if mark.along_x else "error_y": reach},
                )
            case Bars():
                along, across = ("x", "y") if mark.along_x else ("y", "x")
                figure.add_bar(
                    **{along: _list(mark.length), across: _list(mark.at)},
                    base=_list(mark.start),
                    width=mark.thickness,
                    orientation="h" if mark.along_x else "v",
                    **_group(mark.group),
                    **at,
                    marker={
                        "color": mark.colour,
                        "line": {"color": "white", "width": 0.6 * mark.along_x},
                        "pattern": _hatched(mark.hatch),
                    },
                    **_hovers(mark.hover),
                )
            case Guide():
                figure.add_vline(
                    mark.at,
                    line=_line(mark.colour, 1.4, dash=True),
                    exclude_empty_subplots=False,
                    **at,
                )
                figure.add_annotation(
                    x=mark.at,
                    y=1,
                    yref="y domain",
                    yanchor="bottom",
                    text=_text(mark.text),
                    showarrow=False,
                    font={"color": mark.colour},
                    **at,
                )
            case Label():
                figure.add_annotation(
                    x=mark.x,
                    y=mark.y,
                    ax=mark.dx,
                    ay=-mark.dy,
                    text=_text(mark.text),
                    standoff=7,
                    arrowhead=0,
                    arrowwidth=0.8,
                    arrowcolor=SOFT,
                    bgcolor="rgba(255,255,255,0.75)",
                    borderpad=1,
                    name="minor" if mark.minor else "",
                    font={
                        "size": 12,
                        "color": mark.colour,
                        "weight": "bold" if mark.strong else "normal",
                    },
                    **at,
                )


def _axis(axis: PlotAxis) -> dict[str, Any]:
    values: dict[str, Any] = {
        "title_text": _text(axis.title),
        "showgrid": axis.grid,
        "range": axis.range,
    }
    if axis.percent:
        values["tickformat"] = ".0%"
    if axis.names:
        values |= {
            "range": [len(axis.names) - 0.4, -0.6],
            "tickvals": list(range(len(axis.names))),
            "ticktext": [_text(name) for name in axis.names],
        }
    return values


def _add_key(figure: go.Figure, key: Key) -> None:
    add, how = figure.add_scatter, dict[str, Any]()
    if key.shape == "square":
        add, how = figure.add_bar, {"marker": {"color": key.colour, "pattern": _hatched(key.hatch)}}
    elif key.shape in LINES:
        how = {"mode": "lines", "line": _line(key.colour, 1.6, dash=key.shape == "dashes")}
    else:
        how = {"mode": "markers", "marker": _marker(key, key.colour, key.edge, 1.2)}
    add(x=[None], y=[None], name=_text(key.text), legendgroup=html.escape(key.group) or None, **how)


def _line(colour: str, width: float, *, dash: bool) -> dict[str, Any]:
    return {"color": colour, "width": width, "dash": "dash" if dash else "solid"}


def _marker(mark: Points | Key, fill: Any, edge: Any, edge_width: float) -> dict[str, Any]:
    return {
        "symbol": SYMBOLS.get(mark.shape, mark.shape),
        "size": mark.size,
        "color": fill,
        "line": {"color": edge, "width": edge_width},
    }


def _list(numbers: Any) -> list[Any]:
    return np.asarray(numbers).tolist()


def _text(text: str) -> str:
    return html.escape(text).replace("\n", "<br>")


def _hovers(texts: Any) -> dict[str, Any]:
    if not texts:
        return {"hoverinfo": "skip"}
    shown = []
    for text in texts:
        heading, *rest = html.escape(text).split("\n")
        shown.append("<br>".join([f"<b>{heading}</b>", *rest]))
    return {"customdata": shown, "hovertemplate": "%{customdata}<extra></extra>"}


def _group(name: str) -> dict[str, Any]:
    return {"showlegend": False, "legendgroup": html.escape(name) or None}


def _hatched(shape: str) -> dict[str, Any]:
    return {
        "shape": shape,
        "fgcolor": "white",
        "fgopacity": 0.65,
        "size": 6,
        "solidity": 0.3,
        "fillmode": "overlay",
    }
