"""The lines of progress: what is left at the pace that was measured."""

import io
import time

import pytest
from cases import cases

from flashnas.cli.progress import CountProgress, SearchProgress
from flashnas.study.progress import Snapshot


@pytest.mark.parametrize(("calls", "left"), cases("cli", "time_left"))
def test_the_time_left_is_said_at_the_pace_so_far(calls, left, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = CountProgress(stream := io.StringIO(), "windows scored")
    for done, total, now[0] in calls:
        progress.update(done, total)
    done, total, gone_s = calls[-1]
    last = stream.getvalue().splitlines()[-1]
    assert last == f"[{done}/{total}] windows scored | {gone_s:.0f} s gone, {left}"


def test_a_search_that_trains_nothing_says_what_it_does():
    names = ("done", "failed", "total")
    nothing = Snapshot(
        **dict.fromkeys(names, 0), best_loss=None, best_latency_ms=None, remaining_s=0.0
    )
    assert SearchProgress.line(nothing, 11.0) == ("networks scored, the answer follows | 11 s gone")
