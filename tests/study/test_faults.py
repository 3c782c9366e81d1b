"""kill -9 at random moments, a database that goes away, two drivers, a full disk: nothing finished is lost, no process
is left, and the trajectory is the one of a run that nothing happened to.

docs/evidence.md counts the faults here and in the other tests.
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
import sqlalchemy as sql
from fault_driver import (
    LIMIT_S,
    Lines,
    alive,
    none_left,
    question,
    run,
    start_driver,
    start_worker,
    trajectory,
    wait_for,
)
from postgres import Postgres, binaries
from slow_space import NamedSpace

from flashnas.executors.queue import JOBS
from flashnas.runs import outage
from flashnas.runs.outage import engine_url
from flashnas.study.search import run_search

MODULES = os.pathsep.join(filter(None, (str(Path(slow_space.__file__).parent), str(Path(__file__).parents[2]),
                                        os.environ.get("PYTHONPATH"))))
OUTAGE_S, STALE_S = 7, 3.0     # the outage is longer than what a peer may be silent


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
    journal = out / "study.journal"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return {json.loads(line)["user_attrs"]["hash"] for line in lines if '"outcome"' in line and line.endswith("\n")}


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
    return slow_space.NamedGpt2(*map(int, key.split("-"))).notation


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


@pytest.mark.slow
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server")
def test_driver_workers_and_database_killed_change_nothing(tmp_path, whole, monkeypatch):
    """Workers are killed at most once for each candidate: a second death is its outcome."""
    monkeypatch.setenv("SLOW_S", "0.3")
    rng, out, path, log = random.Random(9), tmp_path / "run", tmp_path / "calls", tmp_path / "log"
    server = Postgres()
    workers, driver = [start_worker(log, server.url) for _ in range(2)], start_driver(log, out, 1, server.url)
    plan, kills = ["driver"] * 3 + ["worker"] * 4 + ["database"] * 2, []
    rng.shuffle(plan)
    hit = set()
    try:
        while driver.is_alive():
            before = len(slow_space.calls(path))
            wait_for(lambda: not driver.is_alive() or len(slow_space.calls(path)) > before)  # noqa: B023
            if len(kills) == len(plan) or not driver.is_alive():
                driver.join()
                break
            time.sleep(rng.uniform(0, 0.2))
            what = plan[len(kills)]
            if what == "worker":
                os.kill(workers[0].pid, signal.SIGSTOP)
                if (holds := held(server.url, workers[0].pid)) & hit:
                    os.kill(workers[0].pid, signal.SIGCONT)
                    workers.append(workers.pop(0))
                    continue
                hit |= holds
            kills.append(what)
            if what == "driver":
                driver.kill()
                driver.join()
                driver = start_driver(log, out, 1, server.url)
            elif what == "worker":
                old = workers.pop(0)
                old.kill()
                old.join()
                workers.append(start_worker(log, server.url))
            else:  # who starts while the database is away ends at once, in one line: all have to be connected
                names = [f"driver {driver.pid} runs", *(f":{one.pid}:" for one in workers)]
                wait_for(lambda: not driver.is_alive() or all(name in log.read_text() for name in names))  # noqa: B023
                server.kill()
                time.sleep(1.0)
                server.start()
        assert driver.exitcode == 0, log.read_text()
        assert len(kills) >= 7, kills
        for process in workers:
            process.terminate()
            process.join(60)
            assert process.exitcode == 130, log.read_text()
        assert none_left(path)
        pd.testing.assert_frame_equal(trajectory(out), whole)
        said = log.read_text()
        assert "Traceback" not in said
        assert ("does not answer" in said and "answers again" in said) or "database" not in kills
        assert "secret" not in said
    finally:
        for process in [driver, *workers]:
            process.kill()
        server.stop()


def held(url, pid):
    """The jobs that a worker runs."""
    engine = sql.create_engine(engine_url(url))
    with engine.begin() as connection:
        rows = connection.execute(sql.select(JOBS.c.digest).where(
            JOBS.c.state == "running", JOBS.c.worker.contains(f":{pid}:"))).all()
    engine.dispose()
    return {row.digest for row in rows}


@pytest.mark.slow
@pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server")
@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_a_database_that_is_away_for_a_while_costs_no_evaluation(tmp_path, whole, monkeypatch, how):
    """Killed, it refuses connections; stopped by SIGSTOP, it does not answer."""
    monkeypatch.setenv("SLOW_S", "0.3")
    out, path, log = tmp_path / "run", tmp_path / "calls", tmp_path / "log"
    server = Postgres()
    workers = [start_worker(log, server.url) for _ in range(2)]
    driver = start_driver(log, out, 1, server.url, STALE_S)
    try:
        wait_for(lambda: len(slow_space.calls(path)) >= 5)
        if how == "killed":
            server.kill()
            time.sleep(OUTAGE_S)
            server.start()
        else:
            with server.stopped():
                time.sleep(OUTAGE_S)
        driver.join(LIMIT_S)
        assert driver.exitcode == 0, log.read_text()
        said, calls = log.read_text(), slow_space.calls(path)
        assert "Traceback" not in said
        assert ("answers again, after" in said) == (how == "killed"), said
        assert len(calls) == len({notation for notation, _ in calls})
        pd.testing.assert_frame_equal(trajectory(out), whole)
    finally:
        for process in [driver, *workers]:
            process.kill()
        server.stop()


def test_a_storage_that_is_away_for_a_moment_costs_no_candidate(tmp_path, monkeypatch):
    """The journal of Optuna in a SQLite file that refuses to be written for a while."""
    import optuna
    import sqlalchemy

    monkeypatch.delenv("CALLS")
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.01)
    really, away = optuna.Study.add_trial, [4]

    def refuses(self, trial):
        away[0] -= 1
        if 0 <= away[0] < 3:
            raise sqlalchemy.exc.OperationalError("INSERT", {}, Exception("server closed the connection"))
        return really(self, trial)

    monkeypatch.setattr(optuna.Study, "add_trial", refuses)
    notes = []
    monkeypatch.setattr(Lines, "note", lambda self, text: notes.append(text))
    config = question(1, trials=6, sampler="random", storage=f"sqlite:///{tmp_path}/a.db")
    run_search(config, tmp_path / "run", resume=False, progress=Lines(), evaluator=slow_space.loss_and_latency,
               space=NamedSpace())
    assert any("does not answer (server closed the connection)" in line for line in notes)
    assert any("answers again" in line for line in notes)
    assert (trajectory(tmp_path / "run")["state"] == "complete").sum() == 6
