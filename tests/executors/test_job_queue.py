"""The jobs of a database: who gets which, what stays of them, and who is alive."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pytest
import sqlalchemy as sql
from database_workers import both, connected, driving, kill, on_sqlite, order, states

from flashnas.base.errors import WorkerError
from flashnas.executors.queue import JOBS, NOW, PEERS, JobQueue, Peer
from flashnas.runs import outage


@both
def test_each_job_is_claimed_once_by_many_workers_at_once(url):
    with closing(JobQueue(url, print)) as queue:
        for number in range(40):
            queue.put(order(number))
            queue.put(order(number))  # a continued driver enqueues it again

        def work(name):
            taken = []
            with closing(JobQueue(url, print, Peer(name=name))) as mine:
                while job := mine.claim(["r"]):
                    taken.append(json.loads(job.payload)["number"])
                    mine.end(job.claim, {"kind": "done", "by": name})
            return taken

        with ThreadPoolExecutor(6) as threads:
            taken = list(threads.map(work, [f"w{n}" for n in range(6)]))
        assert sorted(number for numbers in taken for number in numbers) == list(range(40))
        rows = queue.read("r", map(str, range(40)))
        assert {row.state for row in rows.values()} == {"done"}
        assert all(int(digest) in taken[int(json.loads(row.ended)["by"][1])] for digest, row in rows.items())


@both
def test_a_claim_that_was_given_to_another_worker_writes_nothing(url):
    with connected(url, "a", "b") as (a, b):
        a.put(order(1))
        first = a.claim(["r"])
        assert b.claim(["r"]) is None
        a.__exit__()
        second = b.claim(["r"])
        b.end(first.claim, {"kind": "done", "by": "a"})
        assert b.read("r", "1")["1"].state == "running"
        b.end(second.claim, {"kind": "done", "by": "b"})
        assert json.loads(b.read("r", "1")["1"].ended) == {"kind": "done", "by": "b"}


@on_sqlite
def test_a_slow_claim_never_takes_the_next_job_under_the_payload_of_the_last(url):
    """SQLite gives the number of a removed row to the next one, here between the two statements of a claim."""
    with connected(url, "slow", "fast") as (slow, fast):
        fast.put(order(1))

        @sql.event.listens_for(slow._engine, "before_cursor_execute")
        def meanwhile(connection, cursor, statement, *_):
            if statement.startswith("UPDATE flashnas_jobs") and fast.read("r", "1"):
                fast.end(fast.claim(["r"]).claim, {"kind": "done"})
                fast.remove("r", "1")
                fast.put(order(2))

        claimed = slow.claim(["r"])
        assert (claimed.digest, json.loads(claimed.payload)) == ("2", {"number": 2})


@on_sqlite
def test_a_claim_whose_answer_was_lost_is_this_worker_s_claim(url, monkeypatch):
    """The database has committed it, and the connection breaks before the worker hears of it."""
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    with connected(url, "w") as (worker,):
        for number in range(2):
            worker.put(order(number))
        kill(worker)
        really, lost = worker._engine.begin, []

        @contextmanager
        def begin():
            with really() as connection:
                yield connection
            if not lost and claimed():
                lost.append(1)
                raise sql.exc.OperationalError("COMMIT", {}, Exception("server closed the connection"))

        def claimed():
            with really() as connection:
                return connection.execute(sql.select(JOBS.c.claim).where(JOBS.c.state == "running")).all()

        monkeypatch.setattr(worker._engine, "begin", begin)
        first, second = worker.claim(["r"]), worker.claim(["r"])
        assert lost
        assert (first.digest, second.digest, worker.claim(["r"])) == ("0", "1", None)


@on_sqlite
def test_a_job_that_waits_has_the_version_and_the_limits_of_the_search_that_goes_on(url):
    """After kill -9 of a search and an upgrade, no worker would take what it left."""
    with connected(url, "w") as (worker,):
        worker.put(order(1, version="0.1", timeout_s=1.0))
        assert worker.claim(["r"]) is None
        worker.put(order(1, timeout_s=2.0))
        assert worker.claim(["r"]).timeout_s == 2.0


@on_sqlite
@pytest.mark.parametrize(("needs", "lacks", "suits"), [
    ({"gpu": True}, "a GPU; the worker has none", {"gpu": True}),
    ({"evaluator": "m:f"}, "the evaluator m:f; start the worker with --evaluator m:f", {"evaluators": "a:b m:f"}),
    ({"processes": 2}, "2 processes; the worker has 1 for a job; start it with --processes-per-candidate 2",
     {"processes": 4})])
def test_a_worker_takes_only_what_it_can_run(url, needs, lacks, suits):
    with (closing(JobQueue(url, print, Peer(name="a"))) as a,
          closing(JobQueue(url, print, Peer(name="b", **suits))) as b):
        a.put(order(1, **needs))
        assert a.claim(["r"]) is None
        assert (a.unfit(["r"]), a.unfit(["another"]), b.unfit(["r"])) == ([lacks], [], [])
        assert b.claim(["another"]) is b.claim([]) is b.claim(["r"], ["1"]) is None
        assert json.loads(b.claim(["r"]).payload) == {"number": 1}


@both
def test_what_a_worker_could_not_train_waits_again_when_the_search_is_continued(url):
    with closing(JobQueue(url, print, Peer(name="w"))) as queue:
        for kind in ("done", "broken"):
            queue.put(order(kind))
            queue.end(queue.claim(["r"]).claim, {"kind": kind})
            queue.put(order(kind))
        assert {digest: row.state for digest, row in queue.read("r", ["broken", "done"]).items()} == {
            "broken": "waiting", "done": "done"}


def test_only_a_database_that_has_answered_before_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_PAUSE_S", 0.001)
    url, notes = f"sqlite:///{tmp_path}/later/a.db", []
    with pytest.raises(WorkerError, match="cannot be opened"):
        JobQueue(url, notes.append)
    assert notes == []

    def note(line):
        notes.append(line)
        (tmp_path / "later").mkdir(exist_ok=True)

    with closing(JobQueue(url, note, answered=True)) as queue:
        queue.put(order(1))
        assert queue.read("r", "1")["1"].state == "waiting"
    assert "does not answer" in notes[0]
    assert "answers again" in notes[1]


# -- who is alive --------------------------------------------------------------------------------------------


def pretend(queue, name, **columns):
    """As if the peer's row had these values, in seconds before now."""
    with queue._engine.begin() as connection:
        connection.execute(sql.update(PEERS).where(PEERS.c.name == name).values(
            {column: NOW - value for column, value in columns.items()}))


def seen_by(queue):
    return (sorted(row.name for row in queue.workers()), sorted((row.run, bool(row.seen)) for row in queue.drivers()),
            {digest: round(row.silent_s, -1) for digest, row in queue.read("r", "1").items()})


@both
def test_a_peer_is_silent_for_as_long_as_another_has_watched_it(url):
    """What the watcher has missed, since it or the database was stopped, does not count."""
    with (connected(url, "worker") as (worker,), driving(url) as driver,
          JobQueue(url, print, Peer(name="me", run="other")) as me):
        worker.put(order(1))
        worker.claim(["r"])
        for queue in (worker, driver, me):
            kill(queue)
        me.me.stale_s = 60.0
        me.beat()
        pretend(me, "me", since=1000)
        for name in ("worker", "driver"):
            pretend(me, name, heartbeat=0)
        assert seen_by(me) == (["worker"], [("other", True), ("r", True)], {"1": 0})
        pretend(me, "worker", heartbeat=100)
        pretend(me, "driver", heartbeat=0.5)
        assert seen_by(me) == ([], [("other", True), ("r", True)], {"1": 100})
        pretend(me, "driver", heartbeat=100)
        assert seen_by(me)[1] == [("other", True)]
        pretend(me, "me", since=20)                  # it has watched for 20 s
        assert seen_by(me) == (["worker"], [("other", True)], {"1": 20})
        pretend(me, "me", since=0.2, heartbeat=0.1)
        assert seen_by(me) == (["worker"], [("other", True), ("r", False)], {"1": 0})
        pretend(me, "me", since=1000, heartbeat=40)  # it was stopped, or got no answer
        assert seen_by(me)[0] == ["worker"]
        assert seen_by(me)[2] == {"1": 0}
        me.beat()
        assert seen_by(me) == (["worker"], [("other", True), ("r", False)], {"1": 0})


@both
def test_peers_find_each_other_after_the_clock_of_the_database_was_set_back(url):
    with (connected(url, "gone") as (gone,), driving(url) as driver,
          JobQueue(url, print, Peer(name="me", stale_s=2.0)) as me):
        me.put(order(1))
        gone.claim(["r"])
        for queue in (gone, driver, me):
            kill(queue)
        for name in ("me", "driver", "gone"):
            pretend(me, name, since=-900, heartbeat=-600)
        assert seen_by(me) == (["gone", "me"], [("r", True)], {"1": 0})
        for queue in (me, driver):
            queue.beat()
        assert seen_by(me)[1] == [("r", True)]
        pretend(me, "me", since=100)
        assert seen_by(me)[2] == {"1": 100}


@both
def test_jobs_that_nobody_waits_for_are_removed(url):
    with connected(url, "me", "gone") as (me, gone), driving(url) as driver:
        for number in range(3):
            me.put(order(number))
        gone.end(gone.claim(["r"]).claim, {"kind": "done"})
        gone.claim(["r"])
        for queue in (me, gone, driver):
            kill(queue)
        me.me.stale_s = 60.0
        me.beat()
        pretend(me, "me", since=1000)
        pretend(me, "gone", heartbeat=50)
        pretend(me, "driver", heartbeat=0)
        me.tidy()
        assert [row.state for row in states(me)] == ["done", "running", "waiting"]  # the driver lives
        pretend(me, "driver", heartbeat=50)
        pretend(me, "gone", heartbeat=0)
        me.tidy()
        assert [row.state for row in states(me)] == ["done", "running"]
        pretend(me, "gone", heartbeat=50)
        pretend(me, "me", since=1000, heartbeat=40)  # it has missed what happened
        me.tidy()
        assert len(states(me)) == 2
        pretend(me, "me", since=1000, heartbeat=0)
        me.tidy()
        assert [row.state for row in states(me)] == ["done"]
