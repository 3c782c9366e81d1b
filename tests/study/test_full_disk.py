"""A file system that is really full: a small one of its own, which a file fills up but for some
room.
"""

import errno

import pandas as pd
import pytest
from config_keys import with_keys
from test_cycles import TRIALS, evaluator, search, trajectory
from test_faults import recorded

from flashnas.cli.main import main
from flashnas.run_folder.recorded_run import RecordedRun


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


@pytest.mark.slow
def test_the_command_says_so_in_one_line(disk, small_corpus, quick_recipe, capsys):
    asked = (
        f"search --space tiny --table h100_sxm --workload chat --recipe {quick_recipe} --data"
        f" {small_corpus} --trials 12 --sampler random --workers 1 --evidence none"
        f" --out {disk.folder / 'run'}"
    )
    keys = with_keys(disk.folder.parent, cycle_size=4, baselines=False, measure=False)
    words = [*asked.split(), *keys]
    disk.leave(24)
    assert main(words) == 2
    lines = [
        line for line in capsys.readouterr().err.splitlines() if "No space left on device" in line
    ]
    assert lines[-1].startswith("flashnas search: No space left on device")
    assert f"{disk.folder / 'run'}" in lines[-1]
    assert "; free room; finished work is kept; continue with: flashnas search" in lines[-1]
    assert lines[-1].endswith(" --resume")
    assert sum(line.startswith("flashnas search:") for line in lines) == 1
    kept = recorded(disk.folder / "run")
    assert kept
    disk.free()
    assert main([*words, "--resume"]) == 0
    frame = RecordedRun.load(disk.folder / "run").trials
    assert kept <= set(frame["hash"])
    assert (frame["state"] == "complete").sum() == 12
