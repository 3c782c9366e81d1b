"""The lines of progress: what is left at the pace that was measured."""

import io
import time

import pytest

from flashnas.cli.progress import CountProgress, SearchProgress
from flashnas.study.progress import Snapshot


@pytest.mark.parametrize(
    ("calls", "left"),
    [
        ([(8, 68, 20.0)], "time left unknown"),
        ([(8, 68, 20.0), (16, 68, 40.0)], "time left unknown"),  # the first also warms up
        ([(0, 68, 20.0), (1, 68, 25.0), (2, 68, 26.0), (3, 68, 27.0)], "1 min 05 s left"),
        ([(0, 68, 20.0), (1, 68, 25.0), (2, 68, 26.0), (3, 68, 46.0)], "time left unknown"),
        ([(0, 4, 20.0), (1, 4, 29.0), (2, 4, 30.0)], "2 s left"),  # a quarter is done
        ([(0, 3, 20.0), (1, 3, 21.0, 90.0)], "1 min 30 s left"),
    ],
)
def test_the_time_left_is_said_when_the_pace_is_sure(calls, left, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = CountProgress(stream := io.StringIO(), "windows scored")
    for done, total, now[0], *remaining_s in calls:
        progress.update(done, total, *remaining_s)
    done, total, gone_s, *_ = calls[-1]
    last = stream.getvalue().splitlines()[-1]
    assert last == f"[{done}/{total}] windows scored | {gone_s:.0f} s gone, {left}"


def test_a_search_that_trains_nothing_says_what_it_does():
    names = ("done", "failed", "reused", "infeasible", "total")
    nothing = Snapshot(
        **dict.fromkeys(names, 0), best_loss=None, best_latency_ms=None, remaining_s=6.0
    )
    assert SearchProgress.line(nothing, 11.0) == (
        "networks scored, the answer follows | 11 s gone, 6 s left"
    )
