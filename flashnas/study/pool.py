"""Where jobs run: isolated worker processes of one thread each, or, for a function that only this process has, here.

A candidate that crashes, hangs or exhausts the memory of a worker process ends alone; the others go on.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any, Protocol, Self

from pebble import ProcessExpired, ProcessPool

from flashnas.base.process import limit_threads

Result = dict[str, Any]
Finished = tuple[str, Result | None, str]  # key, result or None, reason


class Workers(Protocol):
    """Runs jobs; `run` yields each one's key with its result, or None and the reason, as it finishes."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *_: object) -> None: ...
    def run(self, jobs: Mapping[str, Any], on_wait: Callable[[], None] | None = None) -> Iterator[Finished]: ...


class WorkerPool:
    """Runs jobs through `function(job) -> dict` in worker processes.

    A worker is reused from job to job, so that libraries load once, and replaced when it dies or exceeds the time
    limit.

    Args:
        function: importable from a fresh process.
        workers: number of processes.
        timeout_s: time limit of one job.
    """

    def __init__(self, function: Callable[[Any], Result], *, workers: int, timeout_s: float) -> None:
        self.function, self.workers, self.timeout_s = function, workers, timeout_s
        limit_threads(1, keep=True)
        self._pool: ProcessPool | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()

    def run(self, jobs: Mapping[str, Any], on_wait: Callable[[], None] | None = None) -> Iterator[Finished]:
        """Yield each job's outcome as it finishes; `on_wait` is called about once a second meanwhile.

        Raises:
            KeyboardInterrupt: if a worker was ended by SIGTERM, which comes to all processes of a session that ends.
        """
        if not jobs:
            return
        if self._pool is None:  # started on first use: a finished run costs no process when it is continued
            self._pool = ProcessPool(max_workers=self.workers, context=multiprocessing.get_context("spawn"),
                                     initializer=_start_worker, initargs=[os.getpid()])
        futures: dict[Future[Result], str] = {
            self._pool.schedule(self.function, args=(job,), timeout=self.timeout_s): key for key, job in jobs.items()}
        order = {future: number for number, future in enumerate(futures)}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=order.__getitem__):
                yield (futures[future], *self._outcome(future))
            if on_wait:
                on_wait()

    def _outcome(self, future: Future[Result]) -> tuple[Result | None, str]:
        try:
            return future.result(), ""
        except TimeoutError:
            return None, f"time limit of {self.timeout_s:g} s exceeded"
        except ProcessExpired as error:
            code = error.exitcode
            if code == -signal.SIGTERM:
                raise KeyboardInterrupt from None
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            return None, f"worker died ({name}{', out of memory?' if code == -signal.SIGKILL else ''})"
        except Exception as error:  # a candidate's failure is a result: recorded with its reason, the search goes on
            return None, reason_of(error)


class InProcess:
    """Runs jobs one after another in this process, for functions that a fresh process cannot import; no time limit."""

    def __init__(self, function: Callable[[Any], Result]) -> None:
        self.function = function

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to end."""

    def run(self, jobs: Mapping[str, Any], on_wait: Callable[[], None] | None = None) -> Iterator[Finished]:
        """As `WorkerPool.run`; `on_wait` is called after each job."""
        for key, job in jobs.items():
            try:
                finished: Finished = (key, self.function(job), "")
            except Exception as error:
                finished = (key, None, reason_of(error))
            yield finished
            if on_wait:
                on_wait()


def reason_of(error: Exception) -> str:
    """One line: the class of the error, unless it is CandidateError, and the first line of its message."""
    if isinstance(error, MemoryError):
        return "out of memory"
    text = str(error).strip().splitlines()
    named = type(error).__name__ if type(error).__name__ != "CandidateError" else ""
    return ": ".join(filter(None, (named, text[0] if text else "")))


def _start_worker(parent: int) -> None:
    """Die with the parent (kill -9 of a search must not leave trainings behind); leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
