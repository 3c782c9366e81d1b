"""What the Plotly figures hold, trace by trace."""

from __future__ import annotations

import dataclasses

import pytest
from run_builder import only_failed

from flashnas.report import RecordedRun
from flashnas.report.palette import KERNEL_COLOURS, OPERATOR_COLOURS, operator_colour
from flashnas.report.plot_data import front, hypervolume_series, staircase
from flashnas.report.plots import (
    hypervolume,
    latency_by_kernel,
    latency_by_operator,
    operator_share,
    pareto_front,
    training_curves,
)


def points(figure, **where):
    return [trace for trace in figure.data
            if all(trace[key] == value for key, value in where.items()) and trace.customdata is not None]


def test_the_front_shows_each_network_once_and_the_staircase(run):
    figure = pareto_front(run)
    markers = points(figure, mode="markers")
    drawn = {(round(x, 6), y) for trace in markers for x, y in zip(trace.x, trace.y, strict=True)}
    assert drawn == {(round(ms / 1000, 6), loss)
                     for ms, loss in zip(run.trained["latency_ms"], run.trained["loss"], strict=True)}
    diamonds = [n for trace in markers if trace.marker.symbol == "diamond" for n in trace.customdata]
    assert sorted(diamonds) == sorted(run.baselines["number"])
    line = next(trace for trace in figure.data if trace.name == "Pareto front")
    xs, ys = staircase(front(run), 14000.0)
    assert list(line.x) == pytest.approx([x / 1000 for x in xs])
    assert list(line.y) == ys
    assert figure.layout.shapes[0].x0 == 14.0  # the budget
    texts = {annotation.text for annotation in figure.layout.annotations}
    assert {"budget 14 s", "d", "m2", *(f.name for f in run.front)} <= texts
    assert figure.layout.title.subtitle.text == (
        "31 searched + 4 baselines trained · 2 failed · 1 outside the budget · 2 repeats")
    failed = next(trace for trace in figure.data if trace.name == "failed: no loss")
    assert len(failed.x) == 2


def test_marker_colours_follow_the_mixers(run):
    for trace in points(pareto_front(run), mode="markers"):
        for number in trace.customdata:
            words = run.trials.iloc[int(number)]["notation"].partition(": ")[2].split()
            counts = {kind: words.count(kind) for kind in ("d", "a", "m2")}
            assert counts[next(k for k, c in OPERATOR_COLOURS.items() if c == trace.marker.color)] == max(
                counts.values())


def test_the_legend_explains_every_fill_and_ring(run):
    mixed = next(row.number for row in run.trained.itertuples() if "a" in row.notation and "m2" in row.notation)
    alone = dataclasses.replace(run, trials=run.trials[run.trials["number"] == mixed], front=())
    figure = pareto_front(alone)
    (point,) = points(figure, mode="markers", marker_symbol="circle")
    (ring,) = point.marker.line.color
    assert ring != point.marker.color
    assert {trace.marker.color for trace in figure.data if trace.mode == "markers" and trace.customdata is None} == {
        point.marker.color, ring}


def test_hypervolume_is_drawn_in_the_unit_of_the_axis(run):
    figure = hypervolume(run)
    series = hypervolume_series(run)
    assert list(figure.data[0].y) == pytest.approx([value / 1000 for value in series.hypervolume])
    assert figure.layout.yaxis.title.text == "hypervolume (s · nats)"
    assert figure.layout.shapes[0].y0 == pytest.approx(series.baselines / 1000)


def test_operator_shares_fill_the_bars(run):
    figure = operator_share(run)
    for axis in ("x", "x2"):
        heights = [trace.y for trace in figure.data if trace.xaxis == axis]
        assert [sum(column) for column in zip(*heights, strict=True)] == pytest.approx([1.0] * 12)
    for trace in figure.data:
        assert trace.marker.color == operator_colour(trace.legendgroup)


@pytest.mark.parametrize("draw", [latency_by_operator, latency_by_kernel])
def test_latency_bars_add_up_and_show_their_source(run, draw):
    figure = draw(run)
    bars = [trace for trace in figure.data if trace.type == "bar" and trace.x[0] is not None]
    for finalist in run.front:
        total = sum(x for trace in bars for x, y in zip(trace.x, trace.y, strict=True) if y == finalist.name)
        assert total == pytest.approx(finalist.figures["latency_ms"] / 1000)
    patterns = {trace.hovertemplate.partition("source: ")[2].partition("<")[0]: trace.marker.pattern.shape
                for trace in bars}
    assert patterns == {"imported": "", "derived": "/", "roofline": "x"}
    colours = {trace.marker.color for trace in bars}
    assert colours <= {*OPERATOR_COLOURS.values(), *KERNEL_COLOURS.values(), operator_colour("head"),
                       operator_colour("embedding")}
    assert figure.layout.yaxis.type == "category"  # not guessed from the first trace, a legend entry without data
    names = [trace.name for trace in figure.data if trace.type == "bar" and trace.showlegend is not False]
    assert len(names) == len(set(names))


def test_bounds_are_whiskers_where_they_are_known(run):
    figure = latency_by_operator(run)
    whiskers = next(trace for trace in figure.data if trace.name == "bounds")
    first = run.front[0].figures
    assert whiskers.x[0] + whiskers.error_x.array[0] == pytest.approx(first["upper_ms"] / 1000)
    assert whiskers.x[0] - whiskers.error_x.arrayminus[0] == pytest.approx(first["lower_ms"] / 1000)
    bare = tuple(dataclasses.replace(f, figures={**f.figures, "lower_ms": None}) for f in run.front)
    assert "bounds" not in [trace.name for trace in latency_by_operator(dataclasses.replace(run, front=bare)).data]


def test_curves_of_finalists_and_baselines_are_named(run):
    figure = training_curves(run)
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert set(named) == {f.name for f in run.front} | set(run.baselines["label"])
    assert named["pure a"].line.dash == "dash"
    assert named["P1"].line.dash == "solid"
    assert named["P1"].y[-1] == pytest.approx(run.front[0].figures["loss"])
    grey = next(trace for trace in figure.data if not trace.name)
    assert sum(y is None for y in grey.y) == len(run.trained) - len(named)


def test_a_figure_without_data_says_why(build_run):
    run = RecordedRun.load(build_run(trials=only_failed()))
    assert "No network was trained" in pareto_front(run).layout.annotations[0].text
    assert "3 failed" in pareto_front(run).layout.annotations[0].text
    assert "No finalist" in latency_by_operator(run).layout.annotations[0].text
