"""The contract of an executor: every job comes back once, failures are outcomes, and what may be
bad luck is repeated."""

import tempfile
from pathlib import Path

import pool_jobs
import pytest
from fault_driver import alive, wait_for

from flashnas.base.errors import WorkerError
from flashnas.executors import EXECUTORS, Work

TIMEOUT_S = 5.0  # of each job; the one that hangs takes all of it
LONGEST_S = 120.0  # until a job that takes no time must have come back


def check_executor(executor, options=None):
    """Check that an executor of the registry keeps its contract, in about half a minute."""
    cls = EXECUTORS[executor]
    chosen = cls.Options.build(**(options or {}))
    work = Work(function=pool_jobs.act, timeout_s=TIMEOUT_S, workers=2)
    with tempfile.TemporaryDirectory(prefix="flashnas-executor-") as name:
        folder = Path(name)
        with cls(work, chosen) as started:
            check_results(started)
            check_failures(started, folder)
            check_second_tries(started, folder)
            check_clean_processes(started)
            check_broken_environment(started)
            check_drop(started)
        check_close(cls(work, chosen), folder / "left")


def outcomes(executor, jobs):
    """Key -> value, or the reason of the failure, each once."""
    found = {}
    for key, ended in executor.run(jobs):
        assert (ended.result is None) == bool(ended.reason)
        assert "\n" not in ended.reason
        found[key] = ended.reason if ended.result is None else ended.result["value"]
    assert set(found) == set(jobs), "every job must come back"
    return found


# -- the rules -------------------------------------------------------------------------------------


def check_results(executor):
    assert executor.workers >= 1
    assert outcomes(executor, {}) == {}, "no jobs must have no outcomes"
    executor.check({"do": "return", "value": 0})
    jobs = {f"job {n}": {"do": "return", "value": n} for n in range(4)}
    found = outcomes(executor, jobs)
    assert found == {f"job {n}": n for n in range(4)}, f"results must be those of the jobs: {found}"
    assert outcomes(executor, dict(reversed(jobs.items()))) == found, (
        "a key may be used again once its job has ended, and results must not depend on the order"
    )


def check_failures(executor, folder):
    reasons = {
        "fail": "loss became NaN at step 3",
        "bug": "ValueError: boom",
        "hang": f"time limit of {TIMEOUT_S:g} s",
    }
    jobs = {do: {"do": do, "tries": str(folder / do)} for do in reasons}
    found = outcomes(executor, {**jobs, "good": {"do": "slow", "value": 5}})
    assert found["good"] == 5, "the others go on when a job fails"
    for do, words in reasons.items():
        assert words in found[do]
        assert len(pool_jobs.tries(folder / do)) == 1, f"{do} must not be tried again"


def check_second_tries(executor, folder):
    """What may be bad luck: a process that dies, and memory that does not suffice."""
    jobs = {
        (do, once): {"do": do, "once": once, "tries": str(folder / f"{do} {once}")}
        for do in ("die", "memory", "terminate")
        for once in (False, True)
    }
    found = outcomes(executor, {str(key): job for key, job in jobs.items()})
    for (do, once), job in jobs.items():
        assert len(pool_jobs.tries(job["tries"])) == 2, (
            f"a job that has to {do} must be tried twice"
        )
        assert (found[str((do, once))] == "second") is once, f"{do}: the second try is the outcome"


def check_clean_processes(executor):
    outcomes(executor, {f"mark {n}": {"do": "leave a mark"} for n in range(4)})
    found = outcomes(executor, {f"look {n}": {"do": "look for a mark"} for n in range(4)})
    assert not any(found.values()), "environment and folder must be as they were before other jobs"


def check_broken_environment(executor):
    with pytest.raises(WorkerError, match="nowhere"):
        outcomes(executor, {"broken": {"do": "missing module"}})


def check_drop(executor):
    for n in range(4):
        executor.submit(f"dropped {n}", {"do": "slow", "value": n})
    executor.drop()
    again = {f"dropped {n}": {"do": "return", "value": 20 + n} for n in range(3)}
    assert outcomes(executor, again) == {key: job["value"] for key, job in again.items()}, (
        "what is dropped must not come back, and its key may be used again"
    )


def check_close(executor, file):
    """Leaving the context ends what runs."""

    def begun():
        executor.finished(0.1)  # lets it work for a moment
        return pool_jobs.tries(file)

    with executor:
        executor.submit("left", {"do": "hang", "tries": str(file)})
        wait_for(begun, LONGEST_S)
        pids = pool_jobs.tries(file)
    wait_for(lambda: not any(map(alive, pids)), TIMEOUT_S)
