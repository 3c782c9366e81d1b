"""Workers on a database that do not suit, are broken, or vanish; and searches that vanish."""

import json
import signal
import threading
import time
from dataclasses import replace

import fault_driver
import numpy as np
import pytest
import slow_space
import sqlalchemy as sql
from database_workers import (
    EVALUATOR,
    Notes,
    both,
    driving,
    kill,
    on_sqlite,
    order,
    start_worker,
    states,
    working,
)
from foreign_space import loss
from slow_space import NamedGpt2

from flashnas.base.errors import WorkerError
from flashnas.cli.main import main
from flashnas.executors import Work
from flashnas.executors.job import Job, run_job
from flashnas.executors.local import LocalOptions
from flashnas.executors.payload import payload_of
from flashnas.executors.queue import JOBS, JobQueue
from flashnas.executors.storage import StorageExecutor, StorageOptions
from flashnas.executors.worker import Worker
from flashnas.space import load_space
from flashnas.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("importable_helpers")


@on_sqlite
def test_a_worker_says_once_what_does_not_suit_it_and_goes_on(url, capsys):
    with driving(url) as queue:
        queue.put(order(1, version="9.9"))
        queue.put(order(2, evaluator="m:f"))
        queue.put(order(3, gpu=True))
        queue.put(order(4, gpu=True))
        assert main(["worker", "--storage", url, "--workers", "1", "--idle-timeout", "2"]) == 0
        assert {row.state for row in queue.read("r", "1234")} == {"waiting"}
    said = [line.partition(" needs ")[2] for line in capsys.readouterr().err.splitlines() if " needs " in line]
    left = "it is left to other workers"
    assert said == [f"a GPU; the worker has none; {left}", f"flashnas 9.9; the worker has 0.1.0; {left}",
                    f"the evaluator m:f; start the worker with --evaluator m:f; {left}"]


@both
def test_a_worker_trains_what_suits_it_beside_jobs_that_do_not(url):
    """A job for GPUs of another search waits."""
    jobs = {str(n): Job(architecture=NamedGpt2(64, 2, 2, n), evaluator=slow_space.loss_and_latency) for n in range(2)}
    with driving(url, "gpus") as queue:
        queue.put(order(1, run="gpus", gpu=True))
        with working(url), StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
            found = {key: ended.result["loss"] for key, ended in executor.run(jobs)}
        assert queue.read("gpus", ["1"])[0].state == "waiting"
    assert found == {key: pytest.approx(loss(job.architecture)) for key, job in jobs.items()}


@on_sqlite
def test_a_search_says_why_no_worker_that_is_connected_suits_it(url, monkeypatch):
    notes, queue, now = Notes(), JobQueue(url, print), [0.0]
    monkeypatch.setattr("flashnas.executors.storage.time.monotonic", lambda: now[0])
    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url, note=notes.note)) as executor:
        executor.submit("a", Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency))
        for now[0] in np.arange(0.0, 20.0):
            queue.beat("w", 3, [], gpu=True, evaluators=[], processes=1)
            executor._look()
            executor._count_workers()
        assert executor._slots == 0
        queue.beat("v", 2, [], gpu=True, evaluators=[EVALUATOR], processes=1)
        executor._count_workers()
        assert executor._slots == 2
    assert notes.lines == [f"no worker that is connected can train for this search: a job needs the evaluator"
                           f" {EVALUATOR}; start the worker with --evaluator {EVALUATOR} (worker w)"]
    queue.close()


@both
def test_what_ended_while_the_search_was_away_is_not_evaluated_again(tmp_path, url, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("SLOW_S", "0.3")
    work = Work(function=run_job, timeout_s=60, run="r", storage=url)
    jobs = {str(n): Job(architecture=NamedGpt2(64, 2, 2, n), evaluator=slow_space.loss_and_latency) for n in range(3)}
    gone = StorageExecutor(work)
    with working(url):
        for key, job in jobs.items():
            gone.submit(key, job)
        fault_driver.wait_for(lambda: slow_space.calls(tmp_path / "calls"))
        kill(gone)
        queue = JobQueue(url, print)
        fault_driver.wait_for(lambda: {row.state for row in states(queue)} == {"done"})
    with working(url, idle_timeout_s=0.1):  # another worker leaves them
        pass
    assert len(states(queue)) == 3
    with StorageExecutor(work) as executor:
        found = {key: ended.result["loss"] for key, ended in executor.run(jobs)}
    assert found == {key: pytest.approx(loss(job.architecture)) for key, job in jobs.items()}
    assert len(slow_space.calls(tmp_path / "calls")) == 3
    queue.close()


@both
def test_what_waits_of_a_search_that_was_killed_is_removed_and_not_trained(tmp_path, url, monkeypatch):
    """Also what a worker had begun that is gone, too. Another search of the database goes on."""
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    gone = StorageExecutor(Work(function=run_job, timeout_s=60, run="gone", storage=url), StorageOptions(stale_s=1.0))
    for n in range(3):
        gone.submit(str(n), Job(architecture=NamedGpt2(64, 2, 2, n), evaluator=slow_space.loss_and_latency))
    queue = JobQueue(url, print)
    for _ in range(2):
        held = queue.claim("gone, too", gpu=False, evaluators=[EVALUATOR])
    queue.end(held, {"kind": "done"})
    kill(gone)
    jobs = {"a": Job(architecture=NamedGpt2(64, 2, 2, 9), evaluator=slow_space.loss_and_latency)}
    with working(url), StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
        assert [ended.kind for _, ended in executor.run(jobs)] == ["done"]
        fault_driver.wait_for(lambda: states(queue) == [("done", "gone")], 30)
        assert len(queue.drivers()) == 1
    assert len(slow_space.calls(tmp_path / "calls")) == 1
    assert queue.drivers() == []
    queue.close()


@both
def test_a_search_that_was_only_silent_enqueues_again_what_was_withdrawn(url):
    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
        executor.submit("a", Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency))
        queue = executor.queue
        assert queue.nobodys() == []
        driver, = queue.drivers()
        with queue._engine.begin() as connection:
            job, = connection.execute(sql.select(JOBS)).all()
        queue.discard(job)
        assert len(states(queue)) == 1
        queue.end_driver(driver.name, driver.beats - 1)
        assert len(queue.drivers()) == 1
        queue.end_driver(driver.name)
        queue.discard(job)
        assert states(queue) == []
        fault_driver.wait_for(queue.drivers)
        executor._look()
        assert [row.state for row in states(queue)] == ["waiting"]


@on_sqlite
def test_an_interrupted_search_withdraws_what_no_worker_has_taken(url):
    work = Work(function=run_job, timeout_s=60, run="r", storage=url)
    jobs = {str(n): Job(architecture=NamedGpt2(64, 2, 2, n), evaluator=slow_space.loss_and_latency) for n in range(3)}
    queue = JobQueue(url, print)
    calls = []

    def interrupt():
        calls.append(queue.claim("w", gpu=False, evaluators=[EVALUATOR]))
        raise KeyboardInterrupt

    with StorageExecutor(work) as executor, pytest.raises(KeyboardInterrupt):
        list(executor.run(jobs, interrupt))
    with queue._engine.begin() as connection:
        assert [row.state for row in connection.execute(sql.select(JOBS.c.state)).all()] == ["running"]
    queue.close()


@on_sqlite
def test_a_silent_worker_is_given_up_twice_before_that_is_an_outcome(url):
    notes = Notes()
    work = Work(function=run_job, timeout_s=60, run="r", storage=url, note=notes.note)
    queue = JobQueue(url, print)
    silent = []

    def claim():
        if job := queue.claim(f"silent{len(silent)}", gpu=False, evaluators=[EVALUATOR]):
            silent.append(job)

    with StorageExecutor(work, StorageOptions(stale_s=1.0)) as executor:
        job = Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency)
        (_, ended), = executor.run({"a": job}, claim)
        assert (ended.kind, ended.reason) == ("died", "worker silent1 gave no sign for 1 s")
    assert len(silent) == 2
    queue.close()


@on_sqlite
@pytest.mark.parametrize(("broken", "others", "ends"), [
    (["a:1:x"], ["b:1:x"], False),
    (["a:1:x"], ["a:2:x"], False),
    (["a:1:x", "a:2:x"], ["b:1:x"], False),
    (["a:1:x"], [], True),                                  # the last one
    (["a:1:x", "b:1:x"], ["c:1:x"], True),                  # two machines
    (["a:1:x", "a:2:x", "a:3:x"], ["b:1:x"], True),
])
def test_a_broken_machine_ends_the_search_only_if_no_other_can_train(url, broken, others, ends):
    """The workers of the names in `broken` take the job one after another, each with a full disk."""
    notes, queue, left = Notes(), JobQueue(url, print), list(broken)
    for name in [*broken, *others]:
        queue.beat(name, 1, [], gpu=False, evaluators=[EVALUATOR])

    def work():
        name = left[0] if left else others[0]
        if job := queue.claim(name, gpu=False, evaluators=[EVALUATOR]):
            queue.end(job, {"kind": "broken", "reason": "OSError: no space"} if left else
                      {"kind": "done", "result": {"by": name}})
            if left:
                queue.leave(left.pop(0))

    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url, note=notes.note)) as executor:
        jobs = {"a": Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency)}
        if ends:
            with pytest.raises(WorkerError, match="a worker cannot train: OSError: no space; nothing is recorded"):
                list(executor.run(jobs, work))
        else:
            assert [(key, ended.result) for key, ended in executor.run(jobs, work)] == [("a", {"by": others[0]})]
    assert notes.lines == [f"worker {name} has ended, since it cannot train: OSError: no space; its job goes to another"
                           " worker" for name in (broken[:-1] if ends else broken)]
    queue.close()


@on_sqlite
def test_a_worker_that_vanished_is_no_reason_to_wait_for_after_the_last_one_was_broken(url, monkeypatch):
    queue, now = JobQueue(url, print), [0.0]
    monkeypatch.setattr("flashnas.executors.storage.time.monotonic", lambda: now[0])
    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
        executor.submit("a", Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency))
        for name in ("a:1:x", "a:2:vanished"):
            queue.beat(name, 1, [], gpu=False, evaluators=[EVALUATOR])
        queue.end(queue.claim("a:1:x", gpu=False, evaluators=[EVALUATOR]), {"kind": "broken", "reason": "no space"})
        assert executor._look() == []
        queue.leave("a:1:x")
        for now[0] in np.arange(1.0, 74.0):
            assert executor._look() == []
            executor._count_workers()
        now[0] = 77.0
        (_, ended), = executor._look()
    assert (ended.kind, ended.reason) == ("broken", "no space")
    queue.close()


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
def test_a_search_that_was_stopped_for_a_while_gives_no_worker_up(url, monkeypatch):
    """It saw no sign of life, since it did not look: SIGSTOP, or a database that hangs."""
    queue, now = JobQueue(url, print), [0.0]
    monkeypatch.setattr("flashnas.executors.storage.time.monotonic", lambda: now[0])
    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
        executor.submit("a", Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency))
        queue.claim("w", gpu=False, evaluators=[EVALUATOR])
        for now[0] in (0.0, 1.0, 100.0, *np.arange(101.0, 159.0)):
            assert executor._look() == []
        for now[0] in (159.0, 160.0, 161.0):
            found = executor._look()
    assert [ended.kind for _, ended in found] == ["died"]
    queue.close()


@pytest.mark.slow
@on_sqlite
def test_a_terminated_worker_gives_its_job_back_and_an_idle_one_ends(tmp_path, url):
    queue = JobQueue(url, print)
    job = Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency)
    payload = payload_of(job, {})
    queue.put(order(1, payload=payload, evaluator=EVALUATOR))
    with driving(url):
        _give_back_and_end(tmp_path, url, queue, job)
    queue.close()


def _give_back_and_end(tmp_path, url, queue, job):
    first = start_worker(url, SLOW_S="60", CALLS=str(tmp_path / "calls"))
    deadline = time.monotonic() + 60
    while not slow_space.calls(tmp_path / "calls") and time.monotonic() < deadline:
        time.sleep(0.05)
    assert queue.read("r", ["1"])[0].state == "running"
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 130
    assert said.splitlines()[-1] == "flashnas worker: interrupted; its jobs are given back"
    assert queue.read("r", ["1"])[0].state == "waiting"
    assert queue.workers() == []
    second = start_worker(url, "--idle-timeout", "0.5", "--json")
    out, said = second.communicate(timeout=60)
    assert (second.returncode, json.loads(out)) == (0, {"jobs": 1}), said
    assert json.loads(queue.read("r", ["1"])[0].ended)["result"]["loss"] == pytest.approx(loss(job.architecture))
