"""The progress of a search: the share that is done, by FLOPs, and the time left at the pace so far."""

import types

import pytest

from flashnas.study import evaluations as module
from flashnas.study.evaluations import Evaluations
from flashnas.trials.trial import RUN

FLOPS = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 6.0}


@pytest.fixture
def running(monkeypatch):
    """Evaluations of four networks of which `a` was trained before this process began, 100 s ago."""
    found = Evaluations.__new__(Evaluations)
    found.networks = dict.fromkeys(FLOPS)
    found._flops, found._begun_s, found._before = dict(FLOPS), 0.0, {"a"}
    found.record = types.SimpleNamespace(results={"a": {"source": "training"}})
    found.trainings = types.SimpleNamespace(time_limit=types.SimpleNamespace(mean_flops=4.0))
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    return found


def test_no_time_is_said_before_something_is_measured(running):
    assert running._pace(3) == (1 / 12, None)
    running._begun_s = None
    assert running._pace(3)[1] is None


def test_what_is_left_takes_as_long_per_flop_as_what_was_done_here(running):
    running.record.results["b"] = {"source": "training"}
    share, left_s = running._pace(2)
    assert share == pytest.approx((1 + 3) / 12)
    assert left_s == pytest.approx(100 * (2 + 6) / 3)
    _, with_two_more = running._pace(4)
    assert with_two_more == pytest.approx(100 * (2 + 6 + 2 * 4) / 3)


def test_what_earlier_runs_scored_took_nothing(running):
    running.record.results["b"] = {"source": RUN}
    assert running._pace(2) == (1 / 9, None)
    assert running._pace(0) == (1.0, 0.0)
