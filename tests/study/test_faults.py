"""kill -9 at random moments: nothing finished is lost, no process is left, and the trajectory is
the one of a run that nothing happened to.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
import slow_space
from fault_driver import alive, none_left, run, start_driver, wait_for
from foreign_space import Gpt2
from fresh import python_path
from notes import trajectory

MODULES = python_path(Path(slow_space.__file__).parent, Path(__file__).parents[2])


@pytest.fixture(autouse=True)
def importable_in_workers(monkeypatch, tmp_path):
    monkeypatch.setenv("PYTHONPATH", MODULES)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The trajectory that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", MODULES)
        run(out, 1)
    return trajectory(out)


def recorded(out):
    """Networks whose outcome the journal holds, in whole lines."""
    journal = out / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return {
        json.loads(line)["ended"] for line in lines if '"ended"' in line and line.endswith("\n")
    }


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("SLOW_S", "0.2")
    rng, out, calls = random.Random(7), tmp_path / "run", tmp_path / "calls"
    kept, kills = set(), 0
    while kills < 8 and len(kept) < 14:
        before = len(slow_space.calls(calls))
        process = start_driver(tmp_path / "log", out, 2)
        wait_for(lambda: not process.is_alive() or len(slow_space.calls(calls)) > before)  # noqa: B023
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.join()
        kills += 1
        assert none_left(calls)
        assert kept <= recorded(out)
        again = {notation for notation, _ in slow_space.calls(calls)[before:]}
        assert not again & {_notation(key) for key in kept}
        kept = recorded(out)
    assert kills >= 6
    monkeypatch.setenv("SLOW_S", "0")
    run(out, 2)
    pd.testing.assert_frame_equal(trajectory(out), whole)


def _notation(key):
    return Gpt2(*map(int, key.split("-"))).notation


@pytest.mark.slow
def test_workers_killed_at_random_moments_change_nothing(tmp_path, whole, monkeypatch):
    """Each candidate at most once: a second death is its outcome."""
    monkeypatch.setenv("SLOW_S", "0.3")
    rng, out, path = random.Random(8), tmp_path / "run", tmp_path / "calls"
    process, hit = start_driver(tmp_path / "log", out, 2), {}
    while process.is_alive():
        for notation, pid in slow_space.calls(path):
            if len(hit) < 8 and notation not in hit and alive(pid):
                hit[notation] = pid
                time.sleep(rng.uniform(0, 0.1))
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    process.join()
    assert process.exitcode == 0, (tmp_path / "log").read_text()
    assert len(hit) == 8
    assert none_left(path)
    pd.testing.assert_frame_equal(trajectory(out), whole)
