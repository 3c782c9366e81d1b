"""The numbers behind the figures, against definitions written out plainly here."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from run_builder import make_trials

from flashnas.report import RecordedRun
from flashnas.report.plot_data import (
    depth_shares,
    front,
    latency_parts,
    latency_unit,
    mixer_colours,
    name_of,
    place_labels,
    staircase,
)


def dominated(point, others) -> bool:
    return any(
        all(o <= p for o, p in zip(other, point, strict=True)) and other != point
        for other in others
    )


def test_the_front_is_the_non_dominated_set(run):
    points = list(zip(run.trained["latency_ms"], run.trained["loss"], strict=True))
    expected = {point for point in points if not dominated(point, points)}
    found = front(run)
    assert set(zip(found["latency_ms"], found["loss"], strict=True)) == expected
    assert 1 < len(expected) < len(points)
    assert found["latency_ms"].is_monotonic_increasing
    assert found["loss"].is_monotonic_decreasing
    assert [name_of(run, row) for row in found.itertuples()] == [f.name for f in run.front]


def test_the_staircase_turns_at_the_front_and_ends_at_the_right(run):
    found = front(run)
    xs, ys = staircase(found, 14000.0)
    corners = set(zip(xs, ys, strict=True))
    assert corners >= set(zip(found["latency_ms"], found["loss"], strict=True))
    assert (xs[-1], ys[-1]) == (14000.0, found["loss"].min())
    steps = list(zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False))
    assert all((xa == xb) != (ya == yb) for (xa, ya), (xb, yb) in steps)


def test_depth_shares_sum_to_one_and_place_operators(run):
    shares = depth_shares(run.trained["notation"])
    assert len(shares) == 12
    assert shares.sum(axis=1).to_numpy() == pytest.approx(1.0)
    halves = depth_shares(["2048: d f a f"], bins=4)
    assert halves["d"].tolist() == pytest.approx([1, 0, 0, 0])
    assert halves["f"].tolist() == pytest.approx([0, 1, 0, 1])
    uneven = depth_shares(
        ["2048: d f f", "2048: d d d"], bins=2
    )  # first half: d covers 2/3 of it, and all of it
    assert uneven["d"].tolist() == pytest.approx([(2 / 3 + 1) / 2, 0.5])
    assert depth_shares(["nonsense"]).empty


@pytest.mark.parametrize(
    ("ms", "expected"), [(3.0, [3.0]), (0.0, []), (-1.0, []), (float("nan"), [])]
)
def test_operators_without_milliseconds_are_left_out(run, ms, expected):
    finalist = dataclasses.replace(run.front[0], operators_ms={"d": {"imported": ms}})
    assert latency_parts(dataclasses.replace(run, front=(finalist,)))["ms"].tolist() == expected


def test_names_and_colours(run):
    names = [name_of(run, row) for row in run.trained.itertuples()]
    assert names[:2] == ["pure d", "pure a"]
    assert len(set(names)) == len(names)
    assert mixer_colours("2048: d f m2 f m2 f") == ("m2", "d")
    assert mixer_colours("2048: d f") == ("d", "d")
    assert mixer_colours("???") == ("?", "?")


def test_a_baseline_on_the_front_carries_both_names(build_run):
    trials = make_trials(4)
    run = RecordedRun.load(build_run(trials=trials))
    rows = {row.label: name_of(run, row) for row in run.trained.itertuples()}
    finalists = {f.label: f.name for f in run.front}
    assert finalists
    for label, name in finalists.items():
        assert rows[label] == f"{name} · {label}"


def test_labels_avoid_each_other_points_and_the_edge():
    anchors = [(200.0, 100.0), (206.0, 104.0), (203.0, 96.0), (5.0, 5.0)]
    sizes = [(60.0, 15.0)] * 4
    offsets = place_labels(np.array(anchors), sizes, np.array(anchors), (400.0, 200.0))
    boxes = [
        (x + dx - 30, y + dy - 7.5, x + dx + 30, y + dy + 7.5)
        for (x, y), (dx, dy) in zip(anchors, offsets, strict=True)
    ]
    for i, (left, low, right, high) in enumerate(boxes):
        assert left >= 0
        assert low >= 0
        assert not any(left < x < right and low < y < high for x, y in anchors)
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or high <= other[1] or other[3] <= low


def test_latency_unit():
    assert latency_unit([1999.0]) == (1.0, "ms")
    assert latency_unit([10.0, 14000.0]) == (1e-3, "s")
    assert latency_unit([]) == (1.0, "ms")
