"""The lines of progress: what is left at the pace that was measured."""

import io
import time

import pytest
from cases import cases

from flashnas.cli import progress as lines
from flashnas.cli.progress import CountProgress, SearchProgress
from flashnas.study.record import Snapshot


@pytest.mark.parametrize(("calls", "left"), cases("cli", "time_left"))
def test_the_time_left_is_said_at_the_pace_so_far(calls, left, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    progress = CountProgress(stream := io.StringIO(), "", "windows scored")
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


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_is_never_silent_and_its_line_is_never_wrapped(monkeypatch):
    monkeypatch.setattr(lines, "TICK_S", 0.01)
    monkeypatch.setenv("COLUMNS", "30")
    stream = Terminal()
    with CountProgress(stream, "compare a table with whole models", "models timed") as progress:
        time.sleep(0.1)
        progress.update(1, 4)
        before = stream.getvalue()
        time.sleep(0.1)
    drawn = [part for part in before.split("\r\x1b[K") if part.strip()]
    assert drawn[0] == "compare a table with whole m…"
    assert stream.getvalue().count("[1/4] models timed") > before.count("[1/4] models timed")
    assert max(map(len, drawn)) < 30
    assert stream.getvalue().endswith("\n")
