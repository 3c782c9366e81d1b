"""Workers and searches on a database, in threads and processes, for tests; the fixture `url` makes the database."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager, suppress

import pytest
import sqlalchemy as sql
from postgres import binaries

from flashnas.executors import Work
from flashnas.executors.job import run_job
from flashnas.executors.local import LocalOptions
from flashnas.executors.queue import JOBS, JobQueue, Order, Peer
from flashnas.executors.worker import Worker

EVALUATOR, BY_FIDELITY = "slow_space:loss_and_latency", "slow_space:by_fidelity"
POSTGRES = pytest.param("postgres", marks=[pytest.mark.slow, pytest.mark.skipif(
    binaries() is None, reason="no PostgreSQL server")])
both = pytest.mark.parametrize("url", ["sqlite", POSTGRES], indirect=True)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


@contextmanager
def working(url, count=1, note=print, **more):
    """Workers in threads of this process, until the block ends."""
    stop = threading.Event()

    class Stopped(Worker):
        def _take(self):
            super()._take()
            if stop.is_set():
                raise KeyboardInterrupt

    failed = []

    def serve():
        try:
            serve_or_raise()
        except Exception as error:
            failed.append(error)
            raise

    def serve_or_raise():
        worker = Stopped(url, Work(function=run_job, timeout_s=0, workers=1, note=note), LocalOptions(),
                         evaluators=[EVALUATOR, BY_FIDELITY], **more)
        with suppress(KeyboardInterrupt):
            worker.serve()

    threads = [threading.Thread(target=serve) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failed, failed


def order(number, **more):
    return Order(**{"run": "r", "digest": str(number), "payload": {"number": number}, "evaluator": "", "gpu": False,
                    "processes": 1, "timeout_s": 9.0, "stale_s": 9.0, **more})


@contextmanager
def driving(url, run="r"):
    """A search that gives signs of life, until the block ends."""
    with JobQueue(url, print, Peer(name="driver", run=run, stale_s=5.0)) as queue:
        yield queue


@contextmanager
def connected(url, *names, **more):
    """The queues of workers that are connected and do nothing of themselves, until the block ends."""
    with ExitStack() as stack:
        yield [stack.enter_context(JobQueue(url, print, Peer(
            **{"name": name, "slots": 1, "evaluators": EVALUATOR, "stale_s": 1.0, **more}))) for name in names]


def kill(queue):
    """It gives no heartbeat any more; its rows stay."""
    queue._ends = True
    queue._woken.set()
    queue._thread.join()


def states(queue):
    with queue._engine.begin() as connection:
        return connection.execute(sql.select(JOBS.c.state, JOBS.c.run).order_by(JOBS.c.state)).all()


def start_worker(url, *more, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "flashnas", "worker", "--storage", url, "--workers", "1", "--evaluator", EVALUATOR,
         *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
