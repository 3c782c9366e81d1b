"""kill -9 at random moments, a database that goes away, two drivers, a full disk: nothing finished is lost, no process
is left, and the trajectory is the one of a run that nothing happened to.

Kills: 8 of the driver, 8 of a worker process, 9 with a database (3 drivers, 4 workers, 2 servers); tests/study/
test_ray_executor.py has 5 of Ray's processes.
"""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slow_space
from fault_driver import Lines, question, run
from postgres import Postgres, binaries
from slow_space import NamedSpace

from flashnas.base.errors import RunError
from flashnas.study.search import run_search

HELPERS = Path(slow_space.__file__).parent
LIMIT_S = 240


@pytest.fixture(autouse=True)
def importable_in_workers(monkeypatch, tmp_path):
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(HELPERS), root, os.environ.get("PYTHONPATH")))))
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """The trajectory that nothing happened to."""
    monkeypatch.delenv("CALLS")
    run(tmp_path / "whole", 1)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    return trajectory(tmp_path / "whole")


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


def start(out, workers, *more):
    return subprocess.Popen([sys.executable, str(HELPERS / "fault_driver.py"), str(out), str(workers), *more],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def recorded(out):
    """Networks whose outcome the journal holds."""
    journal = out / "study.journal"
    lines = journal.read_text().splitlines() if journal.exists() else []
    return {json.loads(line)["user_attrs"]["hash"] for line in lines if '"outcome"' in line and line.endswith("}")}


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def none_left(path):
    """No process that evaluated a network is there."""
    deadline = time.monotonic() + 10
    while (left := {pid for _, pid in slow_space.calls(path) if alive(pid)}) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left


def wait_for(condition):
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_a_driver_killed_at_random_moments_loses_nothing(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("SLOW_S", "0.15")
    rng, out, calls = random.Random(7), tmp_path / "run", tmp_path / "calls"
    kept, kills = set(), 0
    while kills < 8:
        before = len(slow_space.calls(calls))
        process = start(out, 2)
        wait_for(lambda: process.poll() is not None or len(slow_space.calls(calls)) > before)  # noqa: B023
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
        assert none_left(calls)
        assert kept <= recorded(out)
        again = [notation for notation, _ in slow_space.calls(calls)[before:]]
        assert not {notation for notation in again if notation in {_notation(key) for key in kept}}
        kept = recorded(out)
        kills += 1
        if process.returncode == 0:
            break
    assert kills >= 4  # the search is over after so many at the earliest
    monkeypatch.setenv("SLOW_S", "0")
    run(out, 2)
    pd.testing.assert_frame_equal(trajectory(out), whole)


def _notation(key):
    return slow_space.NamedGpt2(*map(int, key.split("-"))).notation


@pytest.mark.slow
def test_workers_killed_at_random_moments_change_nothing(tmp_path, whole, monkeypatch):
    """Each candidate at most once: a second death is its outcome."""
    monkeypatch.setenv("SLOW_S", "0.3")
    rng, out, path = random.Random(8), tmp_path / "run", tmp_path / "calls"
    process, hit = start(out, 2), {}
    while process.poll() is None:
        for notation, pid in slow_space.calls(path):
            if len(hit) < 8 and notation not in hit and alive(pid) and rng.random() < 0.7:
                time.sleep(rng.uniform(0, 0.1))
                os.kill(pid, signal.SIGKILL)
                hit[notation] = pid
        time.sleep(0.02)
    assert process.returncode == 0, process.communicate()
    process.communicate()
    assert len(hit) == 8
    assert none_left(path)
    pd.testing.assert_frame_equal(trajectory(out), whole)


@pytest.mark.slow
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server")
def test_driver_workers_and_database_killed_change_nothing(tmp_path, whole, monkeypatch):
    monkeypatch.setenv("SLOW_S", "0.3")
    rng, out, path = random.Random(9), tmp_path / "run", tmp_path / "calls"
    server = Postgres()
    logs = []

    def worker():
        logs.append(tmp_path / f"worker{len(logs)}")
        with open(logs[-1], "w") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "flashnas", "worker", "--storage", server.url, "--workers", "1", "--evaluator",
                 "slow_space:loss_and_latency"], stdout=log, stderr=log)

    workers, driver = [worker(), worker()], start(out, 1, server.url)
    kills = dict.fromkeys(("driver", "worker", "db"), 0)
    most = {"driver": 3, "worker": 4, "db": 2}
    try:
        while driver.poll() is None:
            left = [name for name in most if kills[name] < most[name]]
            before = len(slow_space.calls(path))
            wait_for(lambda: driver.poll() is not None or len(slow_space.calls(path)) > before)  # noqa: B023
            if not left or driver.poll() is not None:
                continue
            what = rng.choice(left)
            time.sleep(rng.uniform(0, 0.2))
            kills[what] += 1
            if what == "driver":
                driver.kill()
                driver.communicate()
                driver = start(out, 1, server.url)
            elif what == "worker":
                old = workers.pop(0)
                old.kill()
                old.wait()
                workers.append(worker())
            else:
                server.kill()
                time.sleep(1.0)  # longer in life; the pauses between attempts grow to five seconds
                server.start()
        said, _ = driver.communicate()
        assert driver.returncode == 0, said
        assert sum(kills.values()) >= 6, kills
        for process in workers:
            process.terminate()
            assert process.wait(60) == 130, [log.read_text() for log in logs]
        assert none_left(path)
        pd.testing.assert_frame_equal(trajectory(out), whole)
        assert "does not answer" in "".join(log.read_text() for log in logs) + said or not kills["db"]
    finally:
        for process in [driver, *workers]:
            process.kill()
        server.stop()


def test_two_drivers_on_one_folder_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SLOW_S", "0.3")
    first = start(tmp_path / "run", 1)
    wait_for(lambda: (tmp_path / "run" / "run.yaml").exists())
    with pytest.raises(RunError, match="another process is writing this run"):
        run(tmp_path / "run", 1)
    first.kill()
    first.communicate()


@pytest.mark.parametrize("where", ["journal", "trials"])
def test_a_full_disk_ends_the_search_and_the_same_question_goes_on(tmp_path, monkeypatch, where):
    from flashnas.study.database import Database
    from flashnas.study.folder import RunFolder

    monkeypatch.delenv("CALLS")
    run(tmp_path / "whole", 1, trials=6)
    kind, name = (Database, "remember") if where == "journal" else (RunFolder, "write_trials")
    really, left = getattr(kind, name), [3 if where == "journal" else 1]

    def full(self, *words, **more):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run" / where))
        return really(self, *words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(kind, name, full)
        with pytest.raises(OSError, match="No space left on device"):
            run(tmp_path / "run", 2, trials=6)
    kept = recorded(tmp_path / "run")
    assert len(kept) >= 3
    run(tmp_path / "run", 2, trials=6)
    assert kept <= recorded(tmp_path / "run")
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), trajectory(tmp_path / "whole"))


def test_a_storage_that_is_away_for_a_moment_costs_no_candidate(tmp_path, monkeypatch):
    """The journal of Optuna in a SQLite file that refuses to be written for a while."""
    import optuna
    import sqlalchemy

    monkeypatch.delenv("CALLS")
    monkeypatch.setattr("flashnas.study.outage.FIRST_PAUSE_S", 0.01)
    really, away = optuna.Study.add_trial, [4]

    def refuses(self, trial):
        away[0] -= 1
        if 0 <= away[0] < 3:
            raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("server closed the connection"))
        return really(self, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", refuses)
    notes = []
    monkeypatch.setattr(Lines, "note", lambda self, text: notes.append(text))
    run_search(question(1, trials=6, storage=f"sqlite:///{tmp_path}/a.db"), tmp_path / "run", resume=False,
               progress=Lines(), evaluator=slow_space.loss_and_latency, space=NamedSpace())
    assert any("does not answer (server closed the connection)" in line for line in notes)
    assert any("answers again" in line for line in notes)
    assert (trajectory(tmp_path / "run")["state"] == "complete").sum() == 6
