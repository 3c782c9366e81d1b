"""What the figures hold, mark by mark, and that both back ends draw it."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from answered_runs import write_answered_run
from run_builder import THIN_RUNS, only_failed

from flashnas.report import RecordedRun
from flashnas.report.draw_matplotlib import draw_matplotlib
from flashnas.report.draw_plotly import draw_plotly
from flashnas.report.figures import (
    FIGURES,
    latency_by_operator,
    operator_share,
    training_curves,
)
from flashnas.report.marks import Bars, Guide, Label, Line, Points, Whiskers
from flashnas.report.palette import OPERATOR_COLOURS, operator_colour
from flashnas.report.plane_pictures import front_picture, objectives_picture
from flashnas.report.planes import BOX_WIDTH, LETTER, LINE
from flashnas.report.plot_data import front, staircase


def marks(picture, kind, place=0):
    return [mark for mark in picture.panels[place].marks if isinstance(mark, kind)]


def networks(picture):
    return marks(picture, Points)


@pytest.fixture(scope="module")
def pictures(run, tmp_path_factory):
    """The figures of a plain run, of one with further objectives, and of one that ranks by the full
    loss.
    """
    more = dataclasses.replace(
        run, config={**run.config, "objectives": ["loss", "latency_ms", "memory_gb"]}
    )
    full = RecordedRun.load(write_answered_run(tmp_path_factory.mktemp("answered") / "demo"))
    return {
        **{name: draw(run) for name, draw in FIGURES.items()},
        "objectives": objectives_picture(more),
        "front full": front_picture(full),
    }


def cut_texts(still):
    box = still.get_tightbbox(still.canvas.get_renderer())
    return (
        min(box.x0, box.y0) < 0 or box.x1 > still.get_figwidth() or box.y1 > still.get_figheight()
    )


@pytest.mark.slow
def test_both_back_ends_draw_every_mark_where_it_is_and_cut_no_text(pictures):
    for name, picture in pictures.items():
        page, still = draw_plotly(picture), draw_matplotlib(picture)
        assert not cut_texts(still), name
        xs = {
            "page": [
                trace.x for trace in page.data if trace.x is not None and list(trace.x) != [None]
            ],
            "still": [
                *(line.get_xdata() for axes in still.axes for line in axes.lines),
                *(
                    np.ma.getdata(points.get_offsets())[:, 0]
                    for axes in still.axes
                    for points in axes.collections
                    if len(points.get_offsets())
                ),
            ],
        }
        for panel in picture.panels:
            for mark in panel.marks:
                if isinstance(mark, Points | Line):
                    for where, drawn in xs.items():
                        assert any(
                            len(x) == len(mark.x)
                            and np.array_equal(
                                np.array(x, float), np.array(mark.x, float), equal_nan=True
                            )
                            for x in drawn
                        ), (name, where)
        texts = {annotation.text for annotation in page.layout.annotations}
        written = {text.get_text() for axes in still.axes for text in axes.texts}
        labels = {
            mark.text
            for panel in picture.panels
            for mark in panel.marks
            if isinstance(mark, Label | Guide)
        }
        assert labels - {""} <= texts
        assert labels <= written | {""}
        guides = sum(isinstance(mark, Guide) for panel in picture.panels for mark in panel.marks)
        assert len(page.layout.shapes) == guides, name
        bars = [mark for panel in picture.panels for mark in panel.marks if isinstance(mark, Bars)]
        assert sum(len(axes.patches) for axes in still.axes) == sum(len(mark.at) for mark in bars)
        assert sum(
            len(trace.base) for trace in page.data if trace.type == "bar" and trace.base
        ) == sum(len(mark.at) for mark in bars)
        named = {trace.name for trace in page.data if trace.showlegend is not False and trace.name}
        assert (
            named
            == {key.text for key in picture.keys} - {""}
            == {text.get_text() for legend in still.legends for text in legend.get_texts()} | set()
        )


@pytest.mark.parametrize("case", THIN_RUNS)
def test_labels_of_networks_lie_within_the_axes(build_run, case):
    for panel in front_picture(RecordedRun.load(build_run(**THIN_RUNS[case]))).panels:
        (x0, x1), (y0, y1) = panel.x.range, panel.y.range
        for mark in panel.marks:
            if isinstance(mark, Label):
                x = (mark.x - x0) / (x1 - x0) * BOX_WIDTH + mark.dx
                y = (mark.y - y0) / (y1 - y0) * panel.height + mark.dy
                half = (LETTER * len(mark.text) + 4) / 2
                assert half <= x + 1e-6 <= BOX_WIDTH - half + 1e-3, mark.text
                assert LINE / 2 <= y + 1e-6 <= panel.height - LINE / 2 + 1e-3, mark.text


def test_the_front_shows_each_network_once_and_the_staircase(run):
    picture = front_picture(run)
    drawn = {
        (round(x, 6), y) for mark in networks(picture) for x, y in zip(mark.x, mark.y, strict=True)
    }
    assert drawn == {
        (round(ms / 1000, 6), loss)
        for ms, loss in zip(run.trained["latency_ms"], run.trained["loss"], strict=True)
    }
    diamonds = [x for mark in networks(picture) if mark.shape == "diamond" for x in mark.x]
    assert sorted(diamonds) == pytest.approx(sorted(run.baselines["latency_ms"] / 1000))
    (line,) = marks(picture, Line)
    xs, ys = staircase(front(run), 14000.0)
    assert line.x == pytest.approx([x / 1000 for x in xs])
    assert line.y == ys
    (budget,) = marks(picture, Guide)
    assert (budget.at, budget.text) == (14.0, "budget 14 s")
    assert {"d", "m2", *(f.name for f in run.front)} <= {
        mark.text for mark in marks(picture, Label)
    }
    assert (
        picture.subtitle
        == "31 searched + 4 baselines trained · 2 failed · 1 outside the budget · 2 repeats"
    )


def test_marker_colours_follow_the_mixers(run):
    notations = {f"{row.latency_ms / 1000:.9f}": row.notation for row in run.trained.itertuples()}
    for mark in networks(front_picture(run)):
        for x in mark.x:
            words = notations[f"{x:.9f}"].partition(": ")[2].split()
            counts = {kind: words.count(kind) for kind in ("d", "a", "m2")}
            assert counts[next(k for k, c in OPERATOR_COLOURS.items() if c == mark.fill)] == max(
                counts.values()
            )


def test_the_legend_explains_every_fill_and_ring(run):
    mixed = next(
        row.number
        for row in run.trained.itertuples()
        if "a" in row.notation and "m2" in row.notation
    )
    picture = front_picture(
        dataclasses.replace(run, trials=run.trials[run.trials["number"] == mixed], front=())
    )
    (point,) = networks(picture)
    assert point.edge != [point.fill]
    assert {key.colour for key in picture.keys if key.shape == "circle"} == {
        point.fill,
        *point.edge,
    }


def test_the_panels_of_further_objectives_name_the_front_apart(run):
    more = dataclasses.replace(
        run, config={**run.config, "objectives": ["loss", "latency_ms", "memory_gb", "params"]}
    )
    picture = objectives_picture(more)
    assert [panel.y.title for panel in picture.panels] == [
        "memory (GB)\nlower is better",
        "params\nlower is better",
    ]
    for place in range(2):
        assert [mark.text for mark in marks(picture, Label, place)] == [
            f.name for f in run.front
        ] or {mark.text for mark in marks(picture, Label, place)} == {f.name for f in run.front}


def test_operator_shares_fill_the_bars(run):
    picture = operator_share(run)
    for place in range(2):
        bars = marks(picture, Bars, place)
        assert np.sum([bar.length for bar in bars], axis=0) == pytest.approx(np.ones(12))
        for below, above in itertools.pairwise(bars):
            assert below.start + below.length.to_numpy() == pytest.approx(above.start)
        assert all(bar.colour == operator_colour(bar.group) for bar in bars)


def test_latency_bars_add_up_and_show_their_source(run):
    picture = latency_by_operator(run)
    bars = marks(picture, Bars)
    for finalist in run.front:
        place = picture.panels[0].y.names.index(finalist.name)
        segments = sorted(
            (start, length)
            for bar in bars
            for at, start, length in zip(bar.at, bar.start, bar.length, strict=True)
            if at == place
        )
        ends = np.cumsum([length for _, length in segments])
        assert ends[-1] == pytest.approx(finalist.figures["latency_ms"] / 1000)
        assert [start for start, _ in segments[1:]] == pytest.approx(ends[:-1])
    assert {text.partition("source: ")[2]: bar.hatch for bar in bars for text in bar.hover} == {
        "imported": "",
        "derived": "/",
        "roofline": "x",
    }
    assert {bar.colour for bar in bars} <= {
        *OPERATOR_COLOURS.values(),
        operator_colour("head"),
        operator_colour("embedding"),
    }
    names = [key.text for key in picture.keys]
    assert len(names) == len(set(names))


def test_bounds_are_whiskers_where_they_are_known(run):
    (whiskers,) = marks(latency_by_operator(run), Whiskers)
    first = run.front[0].figures
    assert whiskers.x[0] + whiskers.high[0] == pytest.approx(first["upper_ms"] / 1000)
    assert whiskers.x[0] - whiskers.low[0] == pytest.approx(first["lower_ms"] / 1000)
    bare = tuple(dataclasses.replace(f, lower_ms=None) for f in run.front)
    assert not marks(latency_by_operator(dataclasses.replace(run, front=bare)), Whiskers)


def test_curves_are_whole_have_their_own_colours_and_their_names_in_order(run):
    picture = training_curves(run)
    grey, *curves = marks(picture, Line)
    keys = picture.keys
    assert {key.text for key in keys} == {f.name for f in run.front} | set(run.baselines["label"])
    assert len({curve.colour for curve in curves}) == len(curves)
    assert [key.colour for key in keys] == [curve.colour for curve in curves]
    assert all(above.y[-1] >= below.y[-1] for above, below in itertools.pairwise(curves))
    by_name = dict(zip((key.text for key in keys), curves, strict=True))
    assert by_name["pure a"].dash
    assert not by_name["P1"].dash
    assert by_name["P1"].y[-1] == pytest.approx(run.front[0].figures["loss"])
    assert sum(y is None for y in grey.y) == len(run.trained) - len(keys)
    whole, late = picture.panels
    assert whole.x.range[0] == 0
    assert all(whole.y.range[0] <= y <= whole.y.range[1] for curve in curves for y in curve.y)
    assert late.x.range[0] > 0.5 * late.x.range[1]


def test_a_figure_without_data_says_why(build_run):
    run = RecordedRun.load(build_run(trials=only_failed()))
    assert "No network was trained" in front_picture(run).empty
    assert "3 failed" in front_picture(run).empty
    assert "No finalist" in latency_by_operator(run).empty
    assert draw_plotly(front_picture(run)).layout.annotations[0].text == front_picture(run).empty


def test_headings_of_panels_do_not_cover_the_subtitle(run):
    still = draw_matplotlib(training_curves(run))
    renderer = still.canvas.get_renderer()
    lowest = min(text.get_window_extent(renderer).y0 for text in still.texts)
    for axes in still.axes:
        assert axes._left_title.get_window_extent(renderer).y1 < lowest
