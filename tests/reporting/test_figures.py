"""What the figures hold, artist by artist, and their SVG."""

from __future__ import annotations

import dataclasses
import itertools
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from run_builder import only_failed

from flashnas.base.text import INTERVAL_90
from flashnas.operators import OPERATORS
from flashnas.reporting.drawing import NothingToShow, operator_label
from flashnas.reporting.figures import FIGURES, depth_shares, draw
from flashnas.reporting.objectives import staircase
from flashnas.reporting.page import header
from flashnas.reporting.planes import plane_of
from flashnas.reporting.statements import next_commands, statements
from flashnas.reporting.words import front
from flashnas.run_folder.recorded_run import RecordedRun


@pytest.fixture(scope="module")
def several(run):
    """The run with further objectives."""
    objectives = ["loss", "latency_ms", "memory_gb", "params"]
    return dataclasses.replace(run, config={**run.config, "objectives": objectives})


def points(panel):
    """(x, y, fill, edge) of every network."""
    for marks in panel.collections:
        if isinstance(marks, PathCollection):
            edges = np.broadcast_to(marks.get_edgecolors(), (len(marks.get_offsets()), 4))
            for place, fill, edge in zip(
                marks.get_offsets(), marks.get_facecolors(), edges, strict=True
            ):
                yield *place, to_hex(fill), to_hex(edge)


def labels(panel):
    return [text for text in panel.texts if isinstance(text, Annotation)]


def keys(plot):
    (legend,) = plot.legends
    return [text.get_text() for text in legend.get_texts()]


# -- all figures -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("narrow", [False, True])
def test_no_text_is_cut_and_none_covers_another(several, runs, narrow):
    plots = [draw(several, name, narrow) for name in FIGURES]
    for plot in (*plots, draw(runs["trained"], "front", narrow)):
        plot.draw_without_rendering()
        renderer = plot.canvas.get_renderer()
        box = plot.get_tightbbox(renderer)  # in inches
        assert min(box.x0, box.y0) >= 0, plot.texts[0]
        assert box.x1 <= plot.get_figwidth()
        assert box.y1 <= plot.get_figheight()
        (legend,) = (legend.get_window_extent(renderer) for legend in plot.legends)
        panels = [panel.get_tightbbox(renderer) for panel in plot.panels]
        frames = panels if narrow else [panel.get_window_extent() for panel in plot.panels]
        assert not [frame for frame in frames if legend.overlaps(frame)]
        lowest = min(text.get_window_extent(renderer).y0 for text in plot.texts)
        assert all(panel.y1 < lowest for panel in panels)


def test_an_svg_has_a_text_for_each_mark_and_no_ids_that_another_figure_could_have(run):
    plots = [draw(run, "front", narrow) for narrow in (False, True)]
    wide, narrow = (plot.svg() for plot in plots)
    assert wide.count("<title>") == len(run.trained)
    for row in run.trained.itertuples():
        assert f"loss {row.loss:.4g} nats/token" in wide
    assert "<title>" not in narrow
    ids, others = (set(re.findall(r' id="([^"]+)"', svg)) for svg in (wide, narrow))
    assert ids
    assert not ids & others
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', wide))
    assert {first or second for first, second in used} <= ids


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_without_data_says_why(build_run, name):
    run = RecordedRun.load(build_run(trials=only_failed()))
    with pytest.raises(NothingToShow, match=r"No (network|trained|finalist|training).*\."):
        draw(run, name)


# -- planes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [False, True])
def test_labels_of_networks_lie_within_the_axes_and_cover_neither_each_other_nor_points(
    run, narrow
):
    plot = draw(run, "front", narrow)
    plot.draw_without_rendering()
    (panel,) = plot.panels
    frame = panel.get_window_extent()
    boxes = [label.get_window_extent() for label in labels(panel)]
    assert len(boxes) > 10
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]
    places = panel.transData.transform([(x, y) for x, y, *_ in points(panel)])
    assert not [place for place in places for box in boxes if box.contains(*place)]


def test_the_front_shows_each_network_once_and_the_staircase(run):
    plot = draw(run, "front")
    (panel,) = plot.panels
    drawn = {(round(x, 6), y) for x, y, *_ in points(panel)}
    assert drawn == {
        (round(ms / 1000, 6), loss)
        for ms, loss in zip(run.trained["latency_ms"], run.trained["loss"], strict=True)
    }
    line, budget = panel.lines[0], panel.lines[-1]
    xs, ys = staircase(front(run), 14000.0)
    assert line.get_xdata() == pytest.approx([x / 1000 for x in xs])
    assert list(line.get_ydata()) == ys
    assert set(budget.get_xdata()) == {14.0}
    texts = {text.get_text() for text in panel.texts}
    assert {"budget 14 s", "d", "m2", *(entry.name for entry in run.front)} <= texts
    assert plot.texts[1].get_text() == (
        "31 searched + 4 baselines trained · 2 failed · 1 outside the budget · 2 repeats"
        " · the front loads in no program without flashnas"
    )


def test_fills_and_rings_follow_the_mixers_and_the_legend_explains_them(run):
    notations = {f"{row.latency_ms / 1000:.9f}": row.notation for row in run.trained.itertuples()}
    plot = draw(run, "front")
    kinds = {OPERATORS[kind].colour.lower(): kind for kind in OPERATORS}
    for x, _, fill, edge in points(plot.panels[0]):
        words = notations[f"{x:.9f}"].partition(": ")[2].split()
        counts = {kind: words.count(kind) for kind in ("d", "a", "m2")}
        assert counts[kinds[fill]] == max(counts.values())
        for colour in (fill, edge):
            if colour in kinds:
                assert operator_label(kinds[colour]) in keys(plot)


def test_each_further_objective_has_a_panel_that_names_the_front(several):
    panels = draw(several, "objectives").panels
    assert [panel.get_ylabel() for panel in panels] == [
        "memory (GB)\nlower is better",
        "params\nlower is better",
    ]
    for panel in panels:
        assert {label.get_text() for label in labels(panel)} == {e.name for e in several.front}


# -- the front with an answer ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_the_picture_shows_intervals_of_the_front_and_the_baselines(runs, name):
    answered = runs[name]
    points = plane_of(answered).points.dropna(subset="hash").set_index("hash")
    answer = answered.answer
    standings = {standing.hash: (standing.difference, standing.sd) for standing in answer.standings}
    for other in (*answer.families, answer.free_mix):
        standings[other["hash"]] = other["difference"], other["sd"]
    for key, (difference, sd) in standings.items():
        assert points.loc[key, "y"] == pytest.approx(difference, abs=1e-5)
        assert points.loc[key, "reach"] == pytest.approx(INTERVAL_90 * sd)
    others = points[~points.index.isin(list(standings))]
    assert others["reach"].isna().all()
    assert set(others["style"]) == {"small"}
    plot = draw(answered, "front")
    (panel,) = plot.panels
    intervals = panel.collections[0].get_segments()
    # and of published models within the axes
    assert len(intervals) == len(standings) + 2
    names = {label.get_text() for label in labels(panel)}
    assert {entry.name for entry in answered.front} <= names
    assert "90 % interval" in keys(plot)
    assert not [key for key in keys(plot) if "front so far" in key or "Pareto" in key]


def test_the_axes_hold_what_is_compared_and_name_what_lies_beyond(runs):
    answer = runs["trained"].config["answer"]
    first, *others = answer["standings"]
    answer = {**answer, "standings": [{**first, "difference": 5.0}, *others]}
    config = {**runs["trained"].config, "answer": answer}
    (panel,) = draw(dataclasses.replace(runs["trained"], config=config), "front").panels
    names = {label.get_text() for label in labels(panel)}
    assert panel.get_ylim()[1] < 0.5
    assert panel.get_xlabel().endswith("\nbeyond the axes: P1 and Qwen3-1.7B")
    assert {"P15", "transformer (Llama)", "LFM2-1.2B"} <= names
    assert "P1" not in names


def test_the_axis_of_a_lone_network_is_not_made_of_rounding(runs):
    plane = plane_of(runs["trained"])
    lone = plane.points[:1].assign(y=0.0, reach=1e-8)
    low, high = dataclasses.replace(plane, points=lone).ranges[1]
    assert high - low > 0.1


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_a_run_without_an_answer_yet_has_a_picture(runs, name):
    config = {key: value for key, value in runs[name].config.items() if key != "answer"}
    going = dataclasses.replace(runs[name], config=config, front=())
    assert statements(going) == next_commands(going) == []
    assert plane_of(going).points["y"].min() == 0
    assert "answer" not in header(going)


# -- operators, latencies, curves ------------------------------------------------------------------


def test_depth_shares_place_operators():
    halves = depth_shares(["2048: d f a f"], bins=4)
    assert halves["d"].tolist() == pytest.approx([1, 0, 0, 0])
    assert halves["f"].tolist() == pytest.approx([0, 1, 0, 1])
    # first half: d covers 2/3 of it, and all of it
    uneven = depth_shares(["2048: d f f", "2048: d d d"], bins=2)
    assert uneven["d"].tolist() == pytest.approx([(2 / 3 + 1) / 2, 0.5])
    assert depth_shares(["nonsense"]).empty


def test_the_bars_of_operators_are_filled_in_their_colours(run):
    colours = {OPERATORS[kind].colour for kind in OPERATORS}
    for panel in draw(run, "operators").panels:
        tops = {}
        for bar in panel.patches:
            assert bar.get_y() == pytest.approx(tops.get(bar.get_x(), 0.0))
            tops[bar.get_x()] = bar.get_y() + bar.get_height()
            assert to_hex(bar.get_facecolor()).upper() in colours
        assert list(tops.values()) == pytest.approx([1.0] * 12)


def test_latency_bars_add_up_and_show_their_source(run):
    plot = draw(run, "latency-by-operator")
    (panel,) = plot.panels
    names = [tick.get_text() for tick in panel.get_yticklabels()]
    assert names == [entry.name for entry in run.front]
    for place, entry in enumerate(run.front):
        bars = [bar for bar in panel.patches if round(bar.get_y() + bar.get_height() / 2) == place]
        bars.sort(key=lambda bar: bar.get_x())
        ends = np.cumsum([bar.get_width() for bar in bars])
        assert ends[-1] == pytest.approx(entry.figures["latency_ms"] / 1000)
        assert [bar.get_x() for bar in bars[1:]] == pytest.approx(ends[:-1])
    hatches = {
        plot.hovers[bar.get_gid()][0].partition("source: ")[2]: bar.get_hatch()
        for bar in panel.patches
    }
    assert hatches == {"imported": "", "derived": "///", "roofline": "xxx"}
    assert len(set(keys(plot))) == len(keys(plot))


def test_bounds_are_whiskers_where_they_are_known(run):
    (whiskers,) = draw(run, "latency-by-operator").panels[0].collections
    first = run.front[0].figures
    (low, _), (high, _) = whiskers.get_segments()[0]
    assert (low, high) == pytest.approx((first["lower_ms"] / 1000, first["upper_ms"] / 1000))
    bare = tuple(dataclasses.replace(e, lower_ms=None) for e in run.front)
    plot = draw(dataclasses.replace(run, front=bare), "latency-by-operator")
    assert not plot.panels[0].collections


def test_curves_are_whole_have_their_own_colours_and_their_names_in_order(run):
    plot = draw(run, "curves")
    names = keys(plot)
    whole, late = plot.panels
    curves = [line for line in whole.lines if line.get_gid()]
    assert {*names} == {entry.name for entry in run.front} | set(run.baselines["label"])
    assert len({curve.get_color() for curve in curves}) == len(curves) == len(names)
    assert len(whole.lines) == len(run.trained)
    ends = [curve.get_ydata()[-1] for curve in curves]
    assert ends == sorted(ends, reverse=True)
    by_name = dict(zip(names, curves, strict=True))
    assert by_name["pure a"].get_linestyle() == "--"
    assert by_name["P1"].get_linestyle() == "-"
    assert by_name["P1"].get_ydata()[-1] == pytest.approx(run.front[0].figures["loss"])
    assert whole.get_xlim()[0] == 0
    assert late.get_xlim()[0] > 0.5 * late.get_xlim()[1]
    low, high = whole.get_ylim()
    assert all(low <= y <= high for curve in curves for y in curve.get_ydata())
