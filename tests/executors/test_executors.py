"""What every executor promises, on the local one; the others have files of their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pool_jobs
import pytest
from cases import cases
from fault_driver import alive, wait_for
from fresh import python_path
from one_line import one_line

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.base.system import terminate_as_interrupt
from flashnas.executors import Work
from flashnas.executors.attempt import attempt
from flashnas.executors.local import LocalExecutor, LocalOptions
from flashnas.executors.ray import check_address
from flashnas.study.config import SearchConfig

HELPERS = str(Path(pool_jobs.__file__).parent)


@pytest.fixture(scope="module", autouse=True)
def importable_in_workers():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", python_path(HELPERS))
        yield


@pytest.fixture(scope="module")
def pool():
    """Two processes that the tests share; what one of them breaks is repaired for the next test."""
    with pool_jobs.pool_of(workers=2, timeout_s=2) as pool:
        yield pool


def outcomes(executor, jobs):
    return {
        key: ended.result if ended.result is not None else ended.reason
        for key, ended in executor.run(jobs)
    }


@pytest.mark.slow
def test_what_ends_a_process_is_an_outcome(pool):
    reasons = {
        "memory": "out of memory",
        "die": "worker died (SIGKILL, out of memory?)",
        "terminate": "worker died (SIGTERM)",
        "exit": "worker died (exit code 0)",
        "abort": "worker died (SIGABRT)",
        "leave": "ended its process (exit code 3)",
        "close": "worker closed its connection",
    }
    jobs = {name: {"do": name} for name in ("unpicklable result", *reasons)}
    jobs["own error"] = pool_jobs.OwnJob("own error")
    found = outcomes(pool, jobs)
    assert "lambda" in found.pop("unpicklable result")
    assert found == {**reasons, "own error": "UnpicklableError: two arguments"}


def test_sigterm_to_a_search_and_its_workers_ends_it_and_is_no_outcome(pool):
    def ended():
        while not (found := pool.finished(1.0)):
            pass
        return found

    pool.submit("a", {"do": "terminate", "search": os.getpid()})
    with terminate_as_interrupt(), pytest.raises(KeyboardInterrupt):
        ended()
    pool.drop()


def test_what_lacked_memory_runs_again_alone_after_all_others(pool, tmp_path):
    log = tmp_path / "log"
    jobs = {
        "large": {
            "do": "memory",
            "once": True,
            "tries": str(tmp_path / "tries"),
            "log": str(log),
            "name": "large",
        },
        **{f"small{n}": {"do": "slow", "log": str(log), "name": f"small{n}"} for n in range(4)},
    }
    outcomes(pool, jobs)
    names = log.read_text().split()
    assert names[-2:] == ["large+", "large-"]
    assert names.count("large+") == 2


BROKEN = {
    "missing module": "ModuleNotFoundError: No module named 'nowhere'",
    "full disk": "OSError: [Errno 28] No space left on device: '/somewhere'",
    "driver": "RuntimeError: CUDA error: device-side assert triggered",
    "kernel": "RuntimeError: Triton Error [CUDA]: an illegal memory access was encountered",
    "no corpus": "CorpusError: /cache/1: not a prepared dataset",
    "typo": "NameError: name 'undefined_name' is not defined",
}


def test_a_broken_environment_stops_the_search_and_is_no_outcome(pool):
    jobs = {
        "good": {"do": "return", "value": 1},
        "broken": {"do": "full disk"},
        "later": {"do": "slow"},
    }
    message = one_line(WorkerError, outcomes, pool, jobs)
    assert BROKEN["full disk"] in message
    assert "nothing is recorded for that candidate" in message
    assert outcomes(pool, {"next": {"do": "return", "value": 2}})["next"]["value"] == 2
    for do, words in BROKEN.items():
        ended = attempt(pool_jobs.act, {"do": do})
        assert (ended.kind, ended.reusable, words in ended.reason) == ("broken", False, True), do


def test_an_evaluator_of_the_user_may_raise_what_it_likes_but_for_a_broken_environment(pool):
    jobs = {"typo": pool_jobs.OwnJob("typo")}
    assert outcomes(pool, jobs) == {"typo": "NameError: name 'undefined_name' is not defined"}
    with pytest.raises(WorkerError):
        outcomes(pool, {"disk": pool_jobs.OwnJob("full disk")})


def test_a_job_leaves_its_process_as_it_was():
    with pool_jobs.pool_of(workers=1, timeout_s=60) as pool:
        before = outcomes(pool, {"state": {"do": "state"}})["state"]
        outcomes(pool, {"poison": {"do": "poison"}})
        after = outcomes(pool, {"state": {"do": "state"}})["state"]
        assert outcomes(pool, {"thread": {"do": "thread"}})["thread"] == {"value": after["pid"]}
        fresh = outcomes(pool, {"state": {"do": "state"}})["state"]
    assert len({state.pop("pid") for state in (before, after, fresh)}) == 3
    assert before == after == fresh


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_candidate_that_eats_memory_ends_with_the_limit_as_its_reason():
    work = Work(function=pool_jobs.act, workers=2, timeout_s=60)
    with LocalExecutor(work, LocalOptions(worker_memory_gb=1.5)) as pool:
        found = outcomes(
            pool, {"eat": {"do": "eat by torch"}, "good": {"do": "return", "value": 1}}
        )
    assert found["eat"] == "out of memory: a worker may use 1.5 GB (worker_memory_gb)"
    assert found["good"]["value"] == 1


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "bare.py"
    script.write_text(
        "import pool_jobs\n"
        "with pool_jobs.pool_of(workers=1, timeout_s=9) as pool:\n"
        "    list(pool.run({'a': {'do': 'return', 'value': 1}}))\n"
    )
    child = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "needs `if __name__ == '__main__':`" in child.stderr.splitlines()[-1]


def test_workers_die_with_a_killed_parent(tmp_path):
    path = tmp_path / "pids"
    script = (
        f"import sys; sys.path.insert(0, {HELPERS!r})\n"
        "import pool_jobs\n"
        "if __name__ == '__main__':\n"
        "    with pool_jobs.pool_of(workers=2, timeout_s=60) as pool:\n"
        f"        list(pool.run({{i: {{'do': 'hang', 'tries': {str(path)!r}}} for i in '01'}}))\n"
    )
    file = tmp_path / "parent.py"
    file.write_text(script)
    parent = subprocess.Popen([sys.executable, str(file)])
    wait_for(lambda: len(pool_jobs.tries(path)) == 2, 30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_for(lambda: not any(map(alive, pool_jobs.tries(path))), 30)


@pytest.mark.parametrize("do", ["start and hang", "start and abort"])
def test_what_a_candidate_starts_ends_with_it(tmp_path, do):
    with pool_jobs.pool_of(workers=1, timeout_s=1 if "hang" in do else 60) as pool:
        found = outcomes(pool, {"a": {"do": do, "path": str(tmp_path / "pid")}})
    assert found["a"] in ("time limit of 1 s exceeded", "worker died (SIGABRT)")
    child = int((tmp_path / "pid").read_text())
    wait_for(lambda: not alive(child), 10)  # the signal is on its way


# -- names and options -----------------------------------------------------------------------------


@pytest.mark.parametrize(("more", "words"), cases("executors", "wrong_executors"))
def test_a_wrong_executor_or_option_is_refused_when_it_is_asked_for(more, words):
    assert words in one_line(ConfigError, SearchConfig, **more)


def test_only_an_address_of_ray_that_names_a_machine_is_connected_to(monkeypatch):
    asked = []

    def connect(place, timeout):
        asked.append((*place, timeout))
        raise TimeoutError

    monkeypatch.setattr("flashnas.executors.ray.socket.create_connection", connect)
    for address in ("auto", "anyscale://mine"):
        check_address(address)
    for address in ("10.0.0.1:6379", "ray://head", "[::1]:5"):
        assert (
            one_line(ConfigError, check_address, address)
            == f"executor ray: address {address} does not answer: within 5 s"
        )
    assert asked == [("10.0.0.1", 6379, 5.0), ("head", 10001, 5.0), ("::1", 5, 5.0)]
