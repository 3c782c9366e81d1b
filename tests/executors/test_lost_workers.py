"""Workers on a database that do not suit, are broken, or vanish; and searches that vanish."""

import json
import signal
import threading
import time
from contextlib import closing
from dataclasses import replace

import fault_driver
import numpy as np
import pytest
import slow_space
import sqlalchemy as sql
from database_workers import (
    EVALUATOR,
    both,
    connected,
    driving,
    kill,
    on_sqlite,
    order,
    start_worker,
    states,
    working,
)
from foreign_space import loss
from notes import Notes
from slow_space import NamedGpt2

from flashnas.base.errors import WorkerError
from flashnas.cli.main import main
from flashnas.executors import Work
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import LocalOptions
from flashnas.executors.payload import payload_of
from flashnas.executors.queue import JOBS, JobQueue, Peer
from flashnas.executors.storage import StorageExecutor, StorageOptions
from flashnas.executors.worker import Worker
from flashnas.space import load_space
from flashnas.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("importable_helpers")


def job(number=2):
    return Job(architecture=NamedGpt2(64, 2, 2, number), evaluator=slow_space.loss_and_latency)


def searching(url, run="r", stale_s=60.0, note=print):
    return StorageExecutor(Work(function=run_job, timeout_s=60, run=run, storage=url, note=note),
                           StorageOptions(stale_s=stale_s))


def losses(executor, jobs, on_wait=None):
    return {key: ended.result["loss"] for key, ended in executor.run(jobs, on_wait)}


@pytest.mark.slow
@on_sqlite
def test_a_worker_says_once_what_does_not_suit_it_and_goes_on(url, capsys):
    with driving(url) as queue:
        queue.put(order(1, version="9.9"))
        queue.put(order(2, evaluator="m:f"))
        queue.put(order(3, gpu=True))
        queue.put(order(4, gpu=True))
        assert main(["worker", "--storage", url, "--workers", "1", "--idle-timeout", "1"]) == 0
        assert {row.state for row in queue.read("r", "1234").values()} == {"waiting"}
    said = [line.partition(" needs ")[2] for line in capsys.readouterr().err.splitlines() if " needs " in line]
    left = "it is left to other workers"
    assert said == [f"a GPU; the worker has none; {left}", f"flashnas 9.9; the worker has 0.1.0; {left}",
                    f"the evaluator m:f; start the worker with --evaluator m:f; {left}"]


@pytest.mark.slow
@both
def test_a_row_that_is_not_a_job_does_not_end_a_worker(url):
    """It says why, once, and goes on, also when the row comes again."""
    bad, notes = ["nope", "[" * 100_000, "null", '{"training": 5}'], Notes()
    with driving(url) as queue:
        for number, payload in enumerate(bad):
            queue.put(order(number))
            queue._write(sql.update(JOBS).where(JOBS.c.digest == str(number)).values(payload=payload))
        queue.put(order("good", payload=payload_of(job(), {}), evaluator=EVALUATOR))
        with working(url, note=notes.note):
            fault_driver.wait_for(lambda: queue.read("r", ["good"])["good"].state == "done", 60)
            queue.put(order(1))
            time.sleep(0.5)
        rows = queue.read("r", map(str, range(len(bad))))
    assert [rows[key].state for key in "0123"] == ["broken", "waiting", "broken", "broken"]
    assert all(json.loads(rows[key].ended)["reason"].startswith("the payload is not that of a job: ") for key in "023")
    assert len(notes.lines) == len(bad)


@on_sqlite
def test_an_outcome_that_cannot_be_read_is_tried_again(url):
    with searching(url) as executor, connected(url, "w") as (worker,):
        def work():
            if claimed := worker.claim(["r"]):
                worker.end(claimed.claim, {"kind": "done", "result": {"loss": 1.0}})
                if len(written := states(worker)) == 1 and not damaged:
                    damaged.append(written)
                    worker._write(sql.update(JOBS).values(ended="[" * 100_000))
        damaged = []
        assert losses(executor, {"a": job()}, work) == {"a": 1.0}


@on_sqlite
def test_a_search_says_why_no_worker_that_is_connected_suits_it(url, monkeypatch):
    notes, now = Notes(), [0.0]
    monkeypatch.setattr("flashnas.executors.storage.time.monotonic", lambda: now[0])
    with connected(url, "w", slots=3, gpu=True, evaluators=""), searching(url, note=notes.note) as executor:
        executor.submit("a", job())
        for now[0] in np.arange(0.0, 20.0):
            executor._look()
            executor._count_workers()
        assert executor._slots == 0
        with connected(url, "v", slots=2):
            executor._count_workers()
        assert executor._slots == 2
    assert notes.lines == [f"no worker that is connected can train for this search: a job needs the evaluator"
                           f" {EVALUATOR}; start the worker with --evaluator {EVALUATOR} (worker w)"]


@both
def test_what_ended_while_the_search_was_away_is_not_evaluated_again(tmp_path, url, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SLOW_S", "0.3")
    jobs = {str(n): job(n) for n in range(3)}
    gone = searching(url)
    with working(url):
        for key, one in jobs.items():
            gone.submit(key, one)
        fault_driver.wait_for(lambda: slow_space.calls(tmp_path / "calls"))
        kill(gone.queue)
        fault_driver.wait_for(lambda: {row.state for row in states(gone.queue)} == {"done"})
    with working(url, idle_timeout_s=0.1):  # another worker leaves them
        pass
    assert len(states(gone.queue)) == 3
    with searching(url) as executor:
        assert losses(executor, jobs) == {key: pytest.approx(loss(one.architecture)) for key, one in jobs.items()}
    assert len(slow_space.calls(tmp_path / "calls")) == 3


@both
def test_what_waits_of_a_search_that_was_killed_is_removed_and_not_trained(tmp_path, url, monkeypatch):
    """Also what a worker had begun that is gone, too. Another search of the database goes on."""
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    gone = searching(url, "gone", stale_s=1.0)
    for n in range(3):
        gone.submit(str(n), job(n))
    with closing(JobQueue(url, print, Peer(name="gone, too", evaluators=EVALUATOR))) as queue:
        for _ in range(2):
            held = queue.claim(["gone"])
        queue.end(held.claim, {"kind": "done"})
        kill(gone.queue)
        with working(url), searching(url) as executor:
            assert len(losses(executor, {"a": job(9)})) == 1
            fault_driver.wait_for(lambda: states(queue) == [("done", "gone")], 30)
        assert len(slow_space.calls(tmp_path / "calls")) == 1


@both
def test_a_search_that_was_only_silent_enqueues_again_what_was_withdrawn(url):
    with searching(url) as executor:
        executor.submit("a", job())
        executor.queue.tidy()
        assert len(states(executor.queue)) == 1
        executor.queue.remove("r", executor._orders["a"].digest)
        executor._look()
        assert [row.state for row in states(executor.queue)] == ["waiting"]


@on_sqlite
def test_an_interrupted_search_withdraws_what_no_worker_has_taken(url):
    def interrupt():
        worker.claim(["r"])
        raise KeyboardInterrupt

    with connected(url, "w") as (worker,):
        with searching(url) as executor, pytest.raises(KeyboardInterrupt):
            list(executor.run({str(n): job(n) for n in range(3)}, interrupt))
        assert [row.state for row in states(worker)] == ["running"]


@pytest.mark.slow
@on_sqlite
def test_a_silent_worker_is_given_up_twice_before_that_is_an_outcome(url):
    with searching(url, stale_s=1.0) as executor, connected(url, "silent0", "silent1") as workers:
        silent = list(workers)

        def claim():
            if silent and silent[0].claim(["r"]):
                kill(silent.pop(0))

        (_, ended), = executor.run({"a": job()}, claim)
    assert (ended.kind, ended.reason) == ("died", "worker silent1 gave no sign for 1 s")
    assert not silent


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize(("broken", "others", "ends"), [
    (["a:1:x"], ["a:2:x"], False),
    (["a:1:x", "a:2:x"], ["b:1:x"], False),
    (["a:1:x"], [], True),                                  # the last one
    (["a:1:x", "b:1:x"], ["c:1:x"], True),                  # two machines
    (["a:1:x", "a:2:x", "a:3:x"], ["b:1:x"], True),
])
def test_a_broken_machine_ends_the_search_only_if_no_other_can_train(url, broken, others, ends):
    """The workers of the names in `broken` take the job one after another, each with a full disk."""
    notes = Notes()
    with (searching(url, note=notes.note) as executor, connected(url, *broken, *others) as queues):
        left = list(queues)

        def work():
            fails = len(left) > len(others)
            if claimed := left[0].claim(["r"]):
                left[0].end(claimed.claim, {"kind": "broken", "reason": "OSError: no space"} if fails else
                            {"kind": "done", "result": {"loss": left[0].me.name}})
                if fails:
                    left.pop(0).__exit__()

        if ends:
            with pytest.raises(WorkerError, match="a worker cannot train: OSError: no space; nothing is recorded"):
                list(executor.run({"a": job()}, work))
        else:
            assert losses(executor, {"a": job()}, work) == {"a": others[0]}
    assert notes.lines == [f"worker {name} cannot train: OSError: no space; its job goes to another worker"
                           for name in (broken[:-1] if ends else broken)]


@pytest.mark.slow
@on_sqlite
def test_a_worker_that_vanished_is_no_reason_to_wait_for_after_the_last_one_was_broken(url, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("flashnas.executors.storage.time.monotonic", lambda: now[0])
    with searching(url, stale_s=1.0) as executor, connected(url, "a:1:x", "a:2:vanished") as (broken, vanished):
        executor.submit("a", job())
        broken.end(broken.claim(["r"]).claim, {"kind": "broken", "reason": "no space"})
        assert executor._look() == []
        broken.__exit__()
        now[0] = 20.0  # the other one is connected
        assert executor._look() == []
        kill(vanished)
        time.sleep(2)
        assert executor._look() == []
        now[0] = 36.0
        (_, ended), = executor._look()
    assert (ended.kind, ended.reason) == ("broken", "no space")


@pytest.mark.slow
@both
def test_workers_that_do_not_have_the_text_end_the_search(url, tmp_path, quick_recipe):
    """As after the text has moved away: each of the two says so before it ends."""
    space = load_space("tiny")
    network = space.architectures(space.sample(np.random.default_rng(0)))[0]
    job = Job(architecture=network, dataset=str(tmp_path / "gone"), recipe=Recipe.load(quick_recipe).to_dict(), seed=1)
    work = Work(function=run_job, timeout_s=60, run="r", storage=url, corpus={"data": "/nowhere", "tokenizer": None})
    said, workers = [], [Worker(url, replace(work, workers=1), LocalOptions()) for _ in range(2)]

    def serve(worker):
        try:
            worker.serve()
        except WorkerError as error:
            said.append(str(error))

    threads, until = [threading.Thread(target=serve, args=(worker,)) for worker in workers], time.monotonic() + 60

    def in_time():
        assert time.monotonic() < until

    with StorageExecutor(work) as executor:
        executor.queue  # noqa: B018  (the search is there before its workers)
        for thread in threads:
            thread.start()
        with pytest.raises(WorkerError, match="a worker cannot train: the corpus '/nowhere' of a job cannot be read"):
            list(executor.run({"a": job}, in_time))
    for thread in threads:
        thread.join()
    assert len(said) == 2
    assert all(line.startswith("this worker cannot train: the corpus '/nowhere'") for line in said)


@on_sqlite
def test_a_worker_ends_a_training_before_it_gives_its_job_back(url, monkeypatch):
    """Else another worker trains from the same checkpoint at the same time."""
    worker, seen = Worker(url, Work(function=run_job, timeout_s=60, workers=1), LocalOptions(),
                          evaluators=[EVALUATOR]), []
    with driving(url) as queue:
        queue.put(order(1, payload=payload_of(job(), {}), evaluator=EVALUATOR))

        def interrupt(wait_s):
            raise KeyboardInterrupt

        monkeypatch.setattr(worker.pool, "finished", interrupt)
        monkeypatch.setattr(worker.pool, "close", lambda: seen.extend(states(queue)))
        with pytest.raises(KeyboardInterrupt):
            worker.serve()
        assert seen == [("running", "r")]
        assert states(queue) == [("waiting", "r")]


@pytest.mark.slow
@on_sqlite
def test_a_terminated_worker_gives_its_job_back_and_an_idle_one_ends(tmp_path, url):
    with driving(url) as queue:
        queue.put(order(1, payload=payload_of(job(), {}), evaluator=EVALUATOR))
        first = start_worker(url, SLOW_S="60", CALLS=str(tmp_path / "calls"))
        fault_driver.wait_for(lambda: slow_space.calls(tmp_path / "calls"), 60)
        assert queue.read("r", "1")["1"].state == "running"
        first.send_signal(signal.SIGTERM)
        _, said = first.communicate(timeout=60)
        assert first.returncode == 130
        assert said.splitlines()[-1] == "flashnas worker: interrupted; its jobs are given back"
        assert queue.read("r", "1")["1"].state == "waiting"
        assert queue.workers() == []
        second = start_worker(url, "--idle-timeout", "0.5", "--json")
        out, said = second.communicate(timeout=60)
        assert (second.returncode, json.loads(out)) == (0, {"jobs": 1}), said
        ended = json.loads(queue.read("r", "1")["1"].ended)
    assert ended["result"]["loss"] == pytest.approx(loss(job().architecture))
