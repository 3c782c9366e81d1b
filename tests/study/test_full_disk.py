"""A file system that is really full: a small one of its own, which a file fills up but for some
room.
"""

import errno

import pandas as pd
import pytest
from test_cycles import TRIALS, evaluator, search, trajectory
from test_faults import recorded


def test_a_search_ends_when_the_disk_is_full_and_goes_on_when_there_is_room(disk, tmp_path):
    whole: list = []
    search(tmp_path / "whole", evaluator(whole))
    reached = []
    for room_kb in (0, 8, 16, 28, 40):
        out, calls = disk.folder / f"run{room_kb}", []
        disk.leave(room_kb)
        with pytest.raises(
            OSError, match=r"^\[Errno 28\] No space left on device: '.*/run\d+.*'$"
        ) as caught:
            search(out, evaluator(calls))
        assert caught.value.errno == errno.ENOSPC
        reached.append(len(calls))
        disk.free()
        kept = recorded(out)
        before = len(calls)
        assert len(set(calls[:-1]) - kept) == 0  # the last one may be what could not be recorded
        summary, _ = search(out, evaluator(calls), resume=True)
        repeated = set(calls[:before]) & set(calls[before:])
        assert len(repeated) <= 1
        assert sum(summary["trials"][state] for state in ("complete", "failed")) == TRIALS
        pd.testing.assert_frame_equal(trajectory(out), trajectory(tmp_path / "whole"))
    assert reached == sorted(reached)
    assert reached[0] == 0
    assert reached[-1] > 5
