"""The contract of an executor: every job comes back once, failures are outcomes, and what may be
bad luck is repeated."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flashnas.base.documents import fingerprint
from flashnas.base.errors import CandidateError, WorkerError
from flashnas.executors import EXECUTORS, Executor, Work
from flashnas.executors.job import Job, run_job

TIMEOUT_S = 5.0  # of each job; the one that hangs takes all of it
LONGEST_S = 120.0  # until a job that takes no time must have come back
SLOW_S = 0.3  # of a slow job
MARK = "FLASHNAS_TESTING_MARK"


@dataclass(frozen=True)
class Puzzle:
    """A network that is none: what its evaluation does, and with which file."""

    do: str
    value: float = 0.0
    path: str = ""

    @property
    def notation(self):
        return f"{self.do} {self.value:g}"

    @property
    def hash(self):
        return fingerprint(self.to_dict())

    def to_dict(self):
        return {"do": self.do, "value": self.value, "path": self.path}

    @classmethod
    def from_dict(cls, data):
        return cls(**data)


def solve(puzzle):
    """The evaluator of puzzles, in a worker."""
    if puzzle.path:
        with open(puzzle.path, "a") as file:
            file.write(f"{os.getpid()}\n")
    tries = len(Path(puzzle.path).read_text().split()) if puzzle.path else 0
    found = puzzle.value
    match puzzle.do:
        case "slow":
            time.sleep(SLOW_S)
        case "fail":
            raise CandidateError("loss became NaN at step 3")
        case "bug":
            raise ValueError("boom\nsecond line")
        case "hang":
            time.sleep(60 * TIMEOUT_S)
        case "die" | "die once" if puzzle.do == "die" or tries == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case "end by SIGTERM" | "end by SIGTERM once" if (
            puzzle.do == "end by SIGTERM" or tries == 1
        ):
            os.kill(os.getpid(), signal.SIGTERM)
        case "lack memory" | "lack memory once" if puzzle.do == "lack memory" or tries == 1:
            raise MemoryError
        case "miss a package":
            raise ImportError("No module named 'nowhere'")
        case "leave a mark":
            os.environ[MARK] = "1"
            os.chdir("/")
        case "look for a mark":
            found = float(MARK in os.environ or os.getcwd() == "/")
    return {"loss": found, "pid": float(os.getpid())}


def check_executor(executor, options=None):
    """Check that an executor of the registry keeps its contract, in about half a minute."""
    cls = EXECUTORS[executor]
    chosen = cls.Options.build(**(options or {}))
    with tempfile.TemporaryDirectory(prefix="flashnas-executor-") as folder:
        place = Place(
            cls, chosen, Work(function=run_job, timeout_s=TIMEOUT_S, workers=2), Path(folder)
        )
        with place.started() as started:
            check_nothing(place, started)
            check_results(place, started)
            check_failures(place, started)
            check_second_tries(place, started)
            check_clean_processes(place, started)
            check_broken_environment(place, started)
            check_drop(place, started)
        check_close(place)


@dataclass(frozen=True)
class Place:
    """What is checked, and a folder for the files of jobs."""

    cls: type[Executor]
    options: Any
    work: Work
    folder: Path

    def started(self):
        return self.cls(self.work, self.options)

    def job(self, do, value=0.0, path=""):
        return Job(
            architecture=Puzzle(do, value, str(self.folder / path) if path else ""), evaluator=solve
        )

    def tries(self, path):
        """The processes in which a job with that file was begun."""
        file = self.folder / path
        return [int(word) for word in file.read_text().split()] if file.exists() else []

    def outcomes(self, executor, jobs):
        """Key -> loss, or the reason of the failure, each once."""
        found = {}
        for key, ended in executor.run(jobs):
            assert (ended.result is None) == bool(ended.reason)
            assert "\n" not in ended.reason
            found[key] = ended.reason if ended.result is None else ended.result["loss"]
        assert set(found) == set(jobs), "every job must come back"
        return found


# -- the rules -------------------------------------------------------------------------------------


def check_nothing(place, executor):
    assert executor.workers >= 1
    assert place.outcomes(executor, {}) == {}, "no jobs must have no outcomes"


def check_results(place, executor):
    executor.check(place.job("return"))
    jobs = {f"job {n}": place.job("return", float(n)) for n in range(4)}
    found = place.outcomes(executor, jobs)
    assert found == {f"job {n}": float(n) for n in range(4)}, (
        f"results must be those of the jobs; got {found}"
    )
    assert place.outcomes(executor, dict(reversed(jobs.items()))) == found, (
        "a key may be used again once its job has ended, and results must not depend on the order"
    )


def check_failures(place, executor):
    jobs = {do: place.job(do, path=f"{do} tries") for do in ("fail", "bug", "hang")}
    found = place.outcomes(executor, {**jobs, "good": place.job("slow", 5.0)})
    assert found["good"] == 5.0, "the others go on when a job fails"
    for do, words in (
        ("fail", "loss became NaN at step 3"),
        ("bug", "ValueError: boom"),
        ("hang", f"time limit of {TIMEOUT_S:g} s"),
    ):
        assert words in str(found[do]), (
            f"a job that has to {do} must fail with {words!r}; got {found[do]!r}"
        )
        assert len(place.tries(f"{do} tries")) == 1, (
            f"a job that has to {do} must not be tried again"
        )


def check_second_tries(place, executor):
    """What may be bad luck: a process that dies, and memory that does not suffice."""
    names = [
        f"{do}{once}" for do in ("die", "lack memory", "end by SIGTERM") for once in ("", " once")
    ]
    found = place.outcomes(executor, {do: place.job(do, 2.0, f"{do} tries") for do in names})
    for do in names:
        assert len(place.tries(f"{do} tries")) == 2, f"a job that has to {do} must be tried twice"
        assert (found[do] == 2.0) == do.endswith("once"), f"{do}: the second try is the outcome"


def check_clean_processes(place, executor):
    place.outcomes(executor, {f"mark {n}": place.job("leave a mark", float(n)) for n in range(4)})
    found = place.outcomes(
        executor, {f"look {n}": place.job("look for a mark", float(n)) for n in range(4)}
    )
    assert not any(found.values()), (
        "a job must find environment and folder as they were before other jobs"
    )


def check_broken_environment(place, executor):
    with pytest.raises(WorkerError, match="nowhere"):
        place.outcomes(executor, {"broken": place.job("miss a package")})


def check_drop(place, executor):
    for n in range(4):
        executor.submit(f"dropped {n}", place.job("slow", 10.0 + n))
    executor.drop()
    found = place.outcomes(
        executor, {f"dropped {n}": place.job("return", 20.0 + n) for n in range(3)}
    )
    assert found == {f"dropped {n}": 20.0 + n for n in range(3)}, (
        f"what is dropped must not come back, and its key may be used again; got {found}"
    )


def check_close(place):
    """Leaving the context ends what runs."""
    with place.started() as executor:
        executor.submit("left", place.job("hang", path="left tries"))
        _wait(lambda: _poll(executor) or place.tries("left tries"), LONGEST_S)
        assert place.tries("left tries"), "a job must start"
    _wait(lambda: not _alive(place.tries("left tries")), TIMEOUT_S)
    assert not _alive(place.tries("left tries")), "`close` must end the processes of its jobs"


def _poll(executor):
    """Let it work for a moment; False."""
    executor.finished(0.1)
    return False


def _wait(condition, longest_s):
    until = time.monotonic() + longest_s
    while not condition() and time.monotonic() < until:
        time.sleep(0.05)


def _alive(pids):
    """Those that run; a process that has ended and that nobody has waited for does not."""
    found = []
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            state = Path(f"/proc/{pid}/stat")
            if not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z":
                found.append(pid)
    return found
