"""What the plots hold, artist by artist."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.text import Annotation
from run_builder import best_of, make_trials, only_failed, write_run

from flashnas.base.text import INTERVAL_90
from flashnas.reporting.plot import curves_plot, pareto_plot
from flashnas.reporting.words import shown_networks
from flashnas.run_folder.recorded_run import RecordedRun
from flashnas.trials.pareto import thinned

OBJECTIVES = [
    ["loss", "latency_ms"],
    ["loss", "memory_gb"],
    ["loss", "latency_ms", "memory_gb"],
    ["loss", "latency_ms", "throughput_tok_s", "params"],
]


def asked(run, objectives):
    """The run with other objectives."""
    names = ["full_loss" if run.ranks_full and n == "loss" else n for n in objectives]
    return dataclasses.replace(run, config={**run.config, "objectives": names})


def points(panel):
    """(x, y) of every network."""
    for marks in panel.collections:
        if isinstance(marks, PathCollection):
            yield from map(tuple, marks.get_offsets().tolist())


def labels(panel):
    return [text for text in panel.texts if isinstance(text, Annotation)]


def names_shown(run):
    return {entry.name for entry in thinned(run.front, run.objectives)}


def keys(plot):
    (legend,) = plot.legends
    return [text.get_text() for text in legend.get_texts()]


def test_parameters_are_drawn_where_all_networks_are_on_the_front(tmp_path):
    run = RecordedRun.load(write_run(tmp_path, best_of(make_trials())))
    (panel,) = pareto_plot(asked(run, ["loss", "params"])).panels
    assert {entry.params for entry in run.front} <= {x for x, _ in points(panel)}


@pytest.mark.parametrize("name", ["plain", "trained", "untrained"])
@pytest.mark.parametrize("objectives", OBJECTIVES, ids="-".join)
def test_each_cost_has_a_panel_whose_axes_hold_the_whole_front(runs, name, objectives):
    run = asked(runs[name], objectives)
    plot = pareto_plot(run)
    assert len(plot.panels) == len(objectives) - 1
    for panel, cost in zip(plot.panels, objectives[1:], strict=True):
        scale = 1e-3 if cost == "latency_ms" else 1.0
        drawn = {round(x, 6) for x, y in points(panel) if panel.viewLim.contains(x, y)}
        assert {round(getattr(e, cost) * scale, 6) for e in run.front} <= drawn
        assert names_shown(run) <= {text.get_text() for text in labels(panel)}
    better = [panel.get_xlabel().rpartition("; ")[2] for panel in plot.panels]
    assert ("higher is better" in better) == ("throughput_tok_s" in objectives)


def test_a_network_of_the_front_far_above_the_others_stretches_the_axes(runs):
    run = runs["trained"]
    first = dataclasses.replace(run.front[0], full_loss_difference=5.0)
    run = dataclasses.replace(run, front=(first, *run.front[1:]))
    (panel,) = pareto_plot(run).panels
    assert panel.get_ylim()[1] > 5
    assert names_shown(run) <= {text.get_text() for text in labels(panel)}


def test_all_networks_are_drawn_once_and_the_budget_once(run):
    plot = pareto_plot(run)
    (panel,) = plot.panels
    drawn = [(round(x, 6), round(y, 6)) for x, y in points(panel)]
    assert sorted(drawn) == sorted(
        (round(ms / 1000, 6), round(loss, 6))
        for ms, loss in zip(run.trained["latency_ms"], run.trained["loss"], strict=True)
    )
    assert [line.get_xdata()[0] for line in panel.lines if line.get_linestyle() == "--"] == [14.0]
    assert panel.get_title(loc="right") == "dashed: budget of 14 s"
    assert "31 networks + 4 baselines trained · 2 failed" in plot.get_suptitle()
    assert "other network" in keys(plot)
    assert "90 % interval" not in keys(plot)


@pytest.mark.parametrize("name", ["trained", "untrained"])
def test_intervals_and_labels_are_those_of_the_table(runs, name):
    run = runs[name]
    plot = pareto_plot(run)
    (panel,) = plot.panels
    networks = itertools.chain(*shown_networks(run))
    shown = [entry for entry in networks if entry.latency_ms is not None]
    segments = [
        segment
        for lines in panel.collections
        if isinstance(lines, LineCollection)
        for segment in lines.get_segments()
        if len(segment) and np.isfinite(segment).all()
    ]
    assert len(segments) >= len(thinned(run.front, run.objectives)) - 1
    intervals = {
        (round(entry.full_loss_difference, 5), round(entry.full_loss_difference_sd, 5))
        for entry in shown
    }
    across = [segment for segment in segments if segment[0][1] == segment[1][1]]
    ends = [[entry.lower_ms, entry.upper_ms] for entry in shown]
    latencies = np.array([both for both in ends if None not in both]) / 1000
    for (left, _), (right, _) in across:
        assert np.isclose(latencies, [left, right]).all(axis=1).any()
    assert len(across) >= len(thinned(run.front, run.objectives))
    for (_, low), (_, high) in (each for each in segments if each[0][1] != each[1][1]):
        sd = (high - low) / 2 / INTERVAL_90
        assert (round((low + high) / 2, 5), round(sd, 5)) in intervals
    (chosen,) = [text for text in labels(panel) if text.get_weight() == "bold"]
    assert chosen.get_text() == run.finalists[run.answer.recommended].name
    assert {"recommended", "on the front", "best of another family", "90 % interval"} <= {
        *keys(plot)
    }


def test_labels_lie_within_the_axes_and_cover_each_other_nowhere(run):
    plot = pareto_plot(run)
    plot.draw_without_rendering()
    (panel,) = plot.panels
    frame = panel.get_window_extent()
    boxes = [label.get_window_extent() for label in labels(panel)]
    assert len(boxes) == len(thinned(run.front, run.objectives))
    for box in boxes:
        assert frame.x0 <= box.x0 < box.x1 <= frame.x1
        assert frame.y0 <= box.y0 < box.y1 <= frame.y1
    assert not [pair for pair in itertools.combinations(boxes, 2) if pair[0].overlaps(pair[1])]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "trained", "untrained"])
def test_no_text_is_cut(runs, name):
    for plot in (pareto_plot(asked(runs[name], OBJECTIVES[2])), curves_plot(runs[name])):
        if plot is not None:
            plot.draw_without_rendering()
            box = plot.get_tightbbox(plot.canvas.get_renderer())  # in inches
            assert min(box.x0, box.y0) >= 0
            assert box.x1 <= plot.get_figwidth()
            assert box.y1 <= plot.get_figheight()


def test_a_lone_network_and_none_have_a_plot(build_run, runs):
    empty = pareto_plot(RecordedRun.load(build_run(trials=only_failed())))
    assert "no network has a score yet" in [text.get_text() for text in empty.panels[0].texts]
    run = runs["untrained"]
    lone = dataclasses.replace(
        run, config={"objectives": ["full_loss", "latency_ms"]}, front=(), trials=run.trials[:1]
    )
    low, high = pareto_plot(lone).panels[0].get_ylim()
    assert high - low > 0.1, "the axis is not made of rounding"


def test_curves_are_whole_and_those_of_the_front_have_names(run, runs):
    plot = curves_plot(run)
    (panel,) = plot.panels
    assert len(panel.lines) == len(run.trained)
    names = [entry.name for entry in run.front]
    assert keys(plot) == ["baseline", *names[: len(keys(plot)) - 1]]
    ends = {round(line.get_ydata()[-1], 6) for line in panel.lines}
    assert {round(entry.loss, 6) for entry in run.front} <= ends
    assert curves_plot(runs["untrained"]) is None
