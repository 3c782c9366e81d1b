"""The jobs of a database: who gets which, and what stays of them."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from database_workers import (
    both,
    on_sqlite,
    order,
)

from flashnas.base.errors import WorkerError
from flashnas.executors.queue import JobQueue


@both
def test_each_job_is_claimed_once_by_many_workers_at_once(url):
    queue = JobQueue(url, print)
    for number in range(40):
        queue.put(order(number))
        queue.put(order(number))  # a continued driver enqueues it again

    def work(name):
        mine = JobQueue(url, print)
        taken = []
        while job := mine.claim(name, gpu=False, evaluators=[]):
            taken.append(job.payload["number"])
            mine.end(job, {"kind": "done", "result": {"by": name}, "reason": "", "reusable": True})
        mine.close()
        return taken

    with ThreadPoolExecutor(6) as threads:
        found = list(threads.map(work, [f"w{n}" for n in range(6)]))
    assert sorted(number for taken in found for number in taken) == list(range(40))
    rows = queue.read("r", map(str, range(40)))
    assert {row.state for row in rows} == {"done"}
    assert all(int(row.digest) in found[int(json.loads(row.ended)["result"]["by"][1])] for row in rows)
    queue.close()


@both
def test_a_claim_that_was_given_to_another_worker_writes_nothing(url):
    queue = JobQueue(url, print)
    queue.put(order(1))
    first = queue.claim("a", gpu=False, evaluators=[])
    assert queue.claim("b", gpu=False, evaluators=[]) is None
    queue.give_back("b")
    assert queue.claim("b", gpu=False, evaluators=[]) is None
    queue.give_back("a")
    second = queue.claim("b", gpu=False, evaluators=[])
    queue.end(first, {"kind": "done", "by": "a"})
    assert [row.state for row in queue.read("r", ["1"])] == ["running"]
    queue.end(second, {"kind": "done", "by": "b"})
    assert json.loads(queue.read("r", ["1"])[0].ended) == {"kind": "done", "by": "b"}
    queue.close()


@on_sqlite
def test_a_worker_takes_only_what_it_can_run(url):
    queue = JobQueue(url, print)
    queue.put(order(1, gpu=True))
    assert queue.claim("a", gpu=False, evaluators=[]) is None
    assert queue.unfit(["r"], gpu=False, evaluators=[]) == ["a GPU; the worker has none"]
    assert queue.unfit(["another"], gpu=False, evaluators=[]) == []
    assert queue.claim("a", gpu=True, evaluators=[], runs=["another"]) is None
    assert queue.claim("a", gpu=True, evaluators=[]).payload == {"number": 1}
    queue.put(order(2, evaluator="m:f"))
    assert queue.claim("a", gpu=True, evaluators=[]) is None
    assert queue.unfit(["r"], gpu=True, evaluators=[]) == ["the evaluator m:f; start the worker with --evaluator m:f"]
    assert queue.claim("a", gpu=True, evaluators=["m:f"]).payload == {"number": 2}
    assert queue.unfit(["r"], gpu=True, evaluators=[]) == []
    queue.put(order(3, processes=2))
    assert queue.claim("a", gpu=True, evaluators=[]) is None
    assert queue.unfit(["r"], gpu=True, evaluators=[]) == ["2 processes; the worker has 1 for a job; start it with"
                                                           " --processes-per-candidate 2"]
    assert queue.unfit(["r"], gpu=True, evaluators=[], processes=4) == []
    assert queue.claim("a", gpu=True, evaluators=[], processes=4).payload == {"number": 3}
    queue.close()


@both
def test_what_a_worker_could_not_train_waits_again_when_the_search_is_continued(url):
    queue = JobQueue(url, print)
    for kind in ("done", "broken"):
        queue.put(order(kind))
        queue.end(queue.claim("w", gpu=False, evaluators=[]), {"kind": kind})
        queue.put(order(kind))
    assert {row.digest: row.state for row in queue.read("r", ["broken", "done"])} == {
        "broken": "waiting", "done": "done"}
    queue.close()


def test_only_a_database_that_has_answered_before_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("flashnas.runs.outage.FIRST_PAUSE_S", 0.001)
    url, notes = f"sqlite:///{tmp_path}/later/a.db", []
    with pytest.raises(WorkerError, match="cannot be opened"):
        JobQueue(url, notes.append)
    assert notes == []

    def note(line):
        notes.append(line)
        (tmp_path / "later").mkdir(exist_ok=True)

    queue = JobQueue(url, note, answered=True)
    queue.put(order(1))
    assert [row.state for row in queue.read("r", ["1"])] == ["waiting"]
    assert "does not answer" in notes[0]
    assert "answers again" in notes[1]
    queue.close()
