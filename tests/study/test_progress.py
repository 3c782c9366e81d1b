"""The progress of a search: the share that is done, by FLOPs, and the time left at the pace so far."""

import types

import pytest

from flashnas.study import progress
from flashnas.study.progress import Pace
from flashnas.trials.trial import RUN

FLOPS = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 6.0}
HERE = {"source": "training"}


@pytest.fixture
def pace(monkeypatch):
    """Of four networks of which `a` was trained before this process began, 100 s ago."""
    trainings = types.SimpleNamespace(
        of=lambda network: network,
        flops=FLOPS.__getitem__,
        typical_flops=(3.0, 5.0),
    )
    now = iter([0.0, *[100.0] * 9])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(now))
    found = Pace(trainings)
    found.begin({"a"})
    return found


def at(pace, further, **results):
    return pace.of({key: key for key in FLOPS}, {"a": HERE, **results}, further)


def test_no_time_is_said_before_something_is_measured(pace):
    assert at(pace, 0) == (1 / 12, None)


def test_what_is_left_takes_as_long_per_flop_as_what_was_done_here(pace):
    share, left_s = at(pace, 0, b=HERE)
    assert share == pytest.approx((1 + 3) / 12)
    assert left_s == pytest.approx(100 * (2 + 6) / 3)
    _, with_two_more = at(pace, 2, b=HERE)
    assert with_two_more == pytest.approx(100 * (2 + 6 + 2 * 4) / 3)


def test_what_earlier_runs_scored_took_nothing(pace):
    assert at(pace, 0, b={"source": RUN}) == (1 / 9, None)
    assert at(pace, 0, b=HERE, c=HERE, d=HERE) == (1.0, 0.0)
