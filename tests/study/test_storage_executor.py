"""Workers on a shared database: SQLite, and a real PostgreSQL where its server is installed."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

import fault_driver
import numpy as np
import pandas as pd
import pytest
import slow_space
import sqlalchemy as sql
from foreign_space import loss
from postgres import Postgres, binaries
from slow_space import NamedGpt2, NamedSpace

from flashnas.base.errors import RunError, WorkerError
from flashnas.cli.main import main
from flashnas.space import load_space
from flashnas.study.config import SearchConfig
from flashnas.study.executors import Work
from flashnas.study.executors.local import LocalOptions
from flashnas.study.executors.payload import payload_of
from flashnas.study.executors.queue import JOBS, JobQueue, Order
from flashnas.study.executors.storage import StorageExecutor, StorageOptions, Worker
from flashnas.study.folder import RunFolder
from flashnas.study.job import Job, run_job
from flashnas.study.outage import engine_url
from flashnas.study.search import run_search
from flashnas.testing import check_executor
from flashnas.training.recipe import Recipe

HELPERS = str(Path(slow_space.__file__).parent)
EVALUATOR, BY_FIDELITY = "slow_space:loss_and_latency", "slow_space:by_fidelity"
POSTGRES = pytest.param("postgres", marks=pytest.mark.skipif(binaries() is None, reason="no PostgreSQL server"))


@pytest.fixture(autouse=True)
def importable_in_workers(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (HELPERS, os.environ.get("PYTHONPATH", "")))))


@pytest.fixture(scope="module")
def postgres():
    server = Postgres()
    yield server
    server.stop()


@pytest.fixture
def url(request, tmp_path):
    """A database without tables of ours."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/a.db"
    server = request.getfixturevalue("postgres")
    engine = sql.create_engine(engine_url(server.url))
    with engine.begin() as connection:
        connection.execute(sql.text("DROP SCHEMA public CASCADE"))
        connection.execute(sql.text("CREATE SCHEMA public"))
    engine.dispose()
    return server.url


both = pytest.mark.parametrize("url", ["sqlite", POSTGRES], indirect=True)
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)


class Notes:
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)

    def update(self, snapshot):
        pass


def search(out, url=None, *, resume=False, notes=None, **config):
    asked = {"table": None, "trials": 12, "cycle_size": 4, "workers": 1, "seed": 3, **config}
    if url:
        asked |= {"executor": "storage", "storage": url}
    return run_search(SearchConfig(**asked), out, resume=resume, progress=notes or Notes(),
                      evaluator=slow_space.loss_and_latency, space=NamedSpace())


def trajectory(out):
    return pd.read_parquet(out / "trials.parquet").drop(columns=["train_seconds"])


@contextmanager
def working(url, count=1, **more):
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
        worker = Stopped(url, Work(function=run_job, timeout_s=0, workers=1), LocalOptions(),
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


# -- the queue ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@on_sqlite
def test_workers_of_a_database_keep_the_contract(tmp_path, url):
    @contextmanager
    def workers():
        words = ["worker", "--storage", url, "--workers", "2", "--evaluator", "flashnas.testing.executor:solve"]
        process = fault_driver._started(tmp_path / "log", main, words)
        again = True

        def keep():  # a broken environment ends a worker; another one is started, as Slurm does
            nonlocal process
            while again:
                process.join(0.2)
                if process.exitcode is not None and again:
                    process = fault_driver._started(tmp_path / "log", main, words)

        thread = threading.Thread(target=keep)
        thread.start()
        try:
            yield
        finally:
            again = False
            thread.join()
            process.kill()
            process.join()

    check_executor("storage", {"stale_s": 5.0}, work={"storage": url}, beside=workers, ends_jobs=False)


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
    assert queue.unfit(gpu=False, evaluators=[]) == "a GPU; this machine has none"
    assert queue.claim("a", gpu=True, evaluators=[]).payload == {"number": 1}
    queue.put(order(2, evaluator="m:f"))
    assert queue.claim("a", gpu=True, evaluators=[]) is None
    assert queue.unfit(gpu=True, evaluators=[]) == "the evaluator m:f; allow it with --evaluator m:f"
    assert queue.claim("a", gpu=True, evaluators=["m:f"]).payload == {"number": 2}
    assert queue.unfit(gpu=True, evaluators=[]) == ""
    queue.put(order(3, processes=2))
    assert queue.claim("a", gpu=True, evaluators=[]) is None
    assert queue.unfit(gpu=True, evaluators=[]) == ("2 processes, and this worker has 1 for a job; start it with"
                                                    " --processes-per-candidate 2")
    assert queue.unfit(gpu=True, evaluators=[], processes=4) == ""
    assert queue.claim("a", gpu=True, evaluators=[], processes=4).payload == {"number": 3}
    queue.close()


@on_sqlite
def test_a_worker_of_another_version_says_so(url, capsys):
    queue = JobQueue(url, print)
    queue.put(order(1))
    with queue._engine.begin() as connection:
        connection.execute(sql.update(JOBS).values(version="9.9"))
    queue.close()
    assert main(["worker", "--storage", url, "--workers", "1"]) == 2
    error = capsys.readouterr().err.splitlines()
    assert error[-1].startswith("flashnas worker: a job of database sqlite:///")
    assert error[-1].endswith("needs flashnas 9.9; this worker has 0.1.0")
    assert len(error) == 2


# -- a search ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The trajectory with one local worker."""
    out = tmp_path_factory.mktemp("alone") / "run"
    before = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (HELPERS, before)))
    try:
        search(out)
    finally:
        os.environ["PYTHONPATH"] = before
    return trajectory(out)


@pytest.mark.parametrize("workers", [2, 4])
def test_local_workers_give_the_same_trajectory(tmp_path, alone, workers):
    search(tmp_path / "run", workers=workers)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), alone)


@both
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_on_a_database_give_the_same_trajectory(tmp_path, alone, url, workers):
    with working(url, workers):
        search(tmp_path / "run", url)
    pd.testing.assert_frame_equal(trajectory(tmp_path / "run"), alone)
    queue = JobQueue(url, print)
    assert queue.workers() == []
    with queue._engine.begin() as connection:
        assert connection.execute(sql.select(JOBS.c.id)).all() == []
    queue.close()


def params_ms(network):
    return network.params / 1e6


@pytest.mark.slow
@both
def test_a_search_with_rungs_has_the_trajectory_and_tokens_of_a_local_one(tmp_path, url):
    asked = {"table": None, "trials": 8, "cycle_size": 4, "workers": 1, "seed": 3, "sampler": "random",
             "rungs": (2, 4), "rung_chance": 0.3}
    found = []
    for name, more in (("here", {}), ("there", {"executor": "storage", "storage": url})):
        with working(url) if more else nullcontext():
            found.append(run_search(SearchConfig(**asked, **more), tmp_path / name, resume=False, progress=Notes(),
                                    evaluator=slow_space.by_fidelity, space=NamedSpace(), table=params_ms))
    here, there = (trajectory(tmp_path / name) for name in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
    assert {"complete", "stopped"} <= set(here["state"])
    figures = [{name: value for name, value in one.items() if name not in ("run", "seconds", "front")} for one in found]
    assert figures[0] == figures[1]
    assert figures[0]["tokens_seeds"] > 0
    fronts = [[{**entry, "config": ""} for entry in one["front"]] for one in found]
    assert fronts[0] == fronts[1]


@pytest.mark.slow
@on_sqlite
@pytest.mark.parametrize("shared", [True, False], ids=["shared disk", "disk of its own"])
def test_trainings_pause_and_go_on_through_a_database(tmp_path, url, small_corpus, quick_recipe, monkeypatch, shared):
    recipe = tmp_path / "curve.yaml"
    recipe.write_text(quick_recipe.read_text().replace("curve_points: 2", "curve_points: 4"))
    asked = {"space": "tiny", "recipe": str(recipe), "data": str(small_corpus), "trials": 4, "cycle_size": 4,
             "baselines": False, "bench": False, "workers": 1, "seed": 1, "rungs": ("50%", "75%"), "seeds": 1}
    found = []
    for name, more in (("here", {}), ("there", {"executor": "storage", "storage": url})):
        if more and not shared:
            monkeypatch.setattr(RunFolder, "checkpoints_of", lambda self, key: tmp_path / "elsewhere" / key)
        with working(url, 2) if more else nullcontext():
            found.append(run_search(SearchConfig(**asked, **more), tmp_path / name, resume=False, progress=Notes(),
                                    table=params_ms))
    here, there = (trajectory(tmp_path / name).drop(columns=["tokens_per_s"]) for name in ("here", "there"))
    pd.testing.assert_frame_equal(here, there)
    again = found[1]["tokens_repeated"]
    assert (again == 0) == shared
    assert found[1]["tokens"] == found[0]["tokens"] + again


@pytest.mark.slow
@on_sqlite
def test_two_processes_train_each_candidate_of_a_database(tmp_path, url, small_corpus, quick_recipe):
    recipe = tmp_path / "adamw.yaml"
    recipe.write_text(quick_recipe.read_text() + "optimizer: adamw\n")
    asked = {"space": "tiny", "recipe": str(recipe), "data": str(small_corpus), "trials": 2, "cycle_size": 2,
             "baselines": False, "bench": False, "workers": 1, "seed": 1, "processes_per_candidate": 2}
    run_search(SearchConfig(**asked), tmp_path / "here", resume=False, progress=Notes(), table=params_ms)
    worker = start_worker(url, "--processes-per-candidate", "2")
    try:
        run_search(SearchConfig(**asked, executor="storage", storage=url), tmp_path / "there", resume=False,
                   progress=Notes(), table=params_ms)
    finally:
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=60)
    assert "with 2 processes" in said
    here, there = (trajectory(tmp_path / name).drop(columns=["tokens_per_s"]) for name in ("here", "there"))
    assert (here["state"] == "complete").sum() == 2
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.slow
@on_sqlite
def test_trainings_through_a_database_score_as_here(tmp_path, url, small_corpus, quick_recipe):
    asked = {"space": "tiny", "recipe": str(quick_recipe), "data": str(small_corpus), "trials": 2, "cycle_size": 2,
             "baselines": False, "bench": False, "workers": 2, "seed": 1}
    for name, more in (("here", {}), ("there", {"executor": "storage", "storage": url})):
        with working(url, 2) if more else nullcontext():
            run_search(SearchConfig(**asked, **more), tmp_path / name, resume=False, progress=Notes(), table=params_ms)
    here, there = (trajectory(tmp_path / name).drop(columns=["tokens_per_s"]) for name in ("here", "there"))
    assert (here["state"] == "complete").sum() == 2
    pd.testing.assert_frame_equal(here, there)


@pytest.mark.parametrize("wrong", ["sqlite:////nowhere/a.db", "postgresql://me:secret@127.0.0.1:1/x"])
def test_after_a_storage_that_cannot_be_opened_the_corrected_command_works(tmp_path, wrong):
    with pytest.raises(RunError, match="cannot be opened"):
        search(tmp_path / "run", storage=wrong, trials=2)
    search(tmp_path / "run", storage=f"sqlite:///{tmp_path}/a.db", trials=2)
    assert len(trajectory(tmp_path / "run")) == 2


@on_sqlite
def test_what_ended_while_the_search_was_away_is_not_evaluated_again(tmp_path, url, monkeypatch):
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    work = Work(function=run_job, timeout_s=60, run="r", storage=url)
    jobs = {str(n): Job(architecture=NamedGpt2(64, 2, 2, n), evaluator=slow_space.loss_and_latency) for n in range(3)}
    gone = StorageExecutor(work)
    for key, job in jobs.items():
        gone.submit(key, job)  # and then it is killed
    with working(url):
        deadline = time.monotonic() + 60
        while len(slow_space.calls(tmp_path / "calls")) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
    with StorageExecutor(work) as executor:
        found = {key: result["loss"] for key, result, _ in executor.run(jobs)}
    assert found == {key: pytest.approx(loss(job.architecture)) for key, job in jobs.items()}
    assert len(slow_space.calls(tmp_path / "calls")) == 3


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
        assert list(executor.run({"a": job}, claim)) == [("a", None, "worker silent1 gave no sign for 1 s")]
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
        queue.beat(name, 1, [])

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
            assert list(executor.run(jobs, work)) == [("a", {"by": others[0]}, "")]
    assert notes.lines == [f"worker {name} has ended, since it cannot train: OSError: no space; its job goes to another"
                           " worker" for name in (broken[:-1] if ends else broken)]
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


@on_sqlite
def test_a_search_that_was_stopped_for_a_while_gives_no_worker_up(url, monkeypatch):
    """It saw no sign of life, since it did not look: SIGSTOP, or a database that hangs."""
    queue, now = JobQueue(url, print), [0.0]
    monkeypatch.setattr("flashnas.study.executors.storage.time.monotonic", lambda: now[0])
    with StorageExecutor(Work(function=run_job, timeout_s=60, run="r", storage=url)) as executor:
        executor.submit("a", Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency))
        queue.claim("w", gpu=False, evaluators=[EVALUATOR])
        for now[0] in (0.0, 1.0, 100.0, *np.arange(101.0, 159.0)):
            assert executor._look() == []
        for now[0] in (159.0, 160.0, 161.0):
            found = executor._look()
    assert [ended.kind for _, ended in found] == ["died"]
    queue.close()


def start_worker(url, *more, **environment):
    return subprocess.Popen(
        [sys.executable, "-m", "flashnas", "worker", "--storage", url, "--workers", "1", "--evaluator", EVALUATOR,
         *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})


@pytest.mark.slow
@on_sqlite
def test_a_terminated_worker_gives_its_job_back_and_an_idle_one_ends(tmp_path, url):
    queue = JobQueue(url, print)
    job = Job(architecture=NamedGpt2(64, 2, 2, 2), evaluator=slow_space.loss_and_latency)
    payload = payload_of(job, {})
    queue.put(order(1, payload=payload, evaluator=EVALUATOR))
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
    queue.close()


def test_only_a_database_that_has_answered_before_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("flashnas.study.outage.FIRST_PAUSE_S", 0.001)
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
