"""How a report names the networks of a run, and which of them are the front."""

from __future__ import annotations

import dataclasses

from run_builder import make_trials

from flashnas.reporting.objectives import staircase
from flashnas.reporting.words import front, latency_unit, named
from flashnas.run_folder.recorded_run import RecordedRun


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
    assert list(named(run, found)["finalist"]) == [entry.name for entry in run.front]


def test_the_staircase_turns_at_the_front_and_ends_at_the_right(run):
    found = front(run)
    xs, ys = staircase(found, 14000.0)
    corners = set(zip(xs, ys, strict=True))
    assert corners >= set(zip(found["latency_ms"], found["loss"], strict=True))
    assert (xs[-1], ys[-1]) == (14000.0, found["loss"].min())
    steps = list(zip(zip(xs, ys, strict=True), zip(xs[1:], ys[1:], strict=True), strict=False))
    assert all((xa == xb) != (ya == yb) for (xa, ya), (xb, yb) in steps)


def test_every_network_has_a_name_of_its_own(run):
    names = list(named(run, run.trained)["name"])
    assert names[:2] == ["pure d", "pure a"]
    assert len(set(names)) == len(names)


def test_a_baseline_on_the_front_carries_both_names(build_run):
    run = RecordedRun.load(build_run(trials=make_trials(4)))
    names = {row.label: row.name for row in named(run, run.trained).itertuples()}
    finalists = {entry.label: entry.name for entry in run.front}
    assert finalists
    for label, name in finalists.items():
        assert names[label] == f"{name} · {label}"


def test_all_latencies_of_a_run_have_one_unit(run):
    assert latency_unit(run) == (1e-3, "s")
    fast = dataclasses.replace(
        run,
        trials=run.trials.assign(latency_ms=run.trials["latency_ms"] / 1000),
        config={**run.config, "options": {"budgets": {"latency_ms": 1999.0}}},
    )
    assert latency_unit(fast) == (1.0, "ms")
