"""Isolated worker processes, one thread each: a candidate that crashes, hangs or eats its memory takes nobody along."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Any

from pebble import ProcessExpired, ProcessPool

from flashnas.base.process import limit_threads

Job = dict[str, Any]


def _start_worker(parent: int) -> None:
    """Die with the parent (kill -9 of a search must not leave trainings behind); leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)


class WorkerPool:
    """Runs jobs through `function(job) -> dict`; yields (key, result or None, reason) as they finish.

    `function` must be importable from a fresh process. A worker is reused from job to job, so that libraries load
    once, and replaced when it dies or exceeds `timeout_s`.
    """

    def __init__(self, function: Callable[[Job], dict[str, Any]], *, workers: int, timeout_s: float) -> None:
        self.function, self.workers, self.timeout_s = function, workers, timeout_s
        limit_threads(1, keep=True)
        self._pool: ProcessPool | None = None

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()

    def run(self, jobs: dict[str, Job], on_wait: Callable[[], None] | None = None,
            ) -> Iterator[tuple[str, dict[str, Any] | None, str]]:
        """Yield each job's outcome as it finishes; `on_wait` is called about once a second meanwhile."""
        if not jobs:
            return
        if self._pool is None:  # started on first use: a finished run costs no process when it is continued
            self._pool = ProcessPool(max_workers=self.workers, context=multiprocessing.get_context("spawn"),
                                     initializer=_start_worker, initargs=[os.getpid()])
        futures: dict[Future[dict[str, Any]], str] = {
            self._pool.schedule(self.function, args=(job,), timeout=self.timeout_s): key for key, job in jobs.items()}
        pending = set(futures)
        while pending:
            done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=lambda f: list(futures).index(f)):
                yield (futures[future], *self._outcome(future))
            if on_wait:
                on_wait()

    def _outcome(self, future: Future[dict[str, Any]]) -> tuple[dict[str, Any] | None, str]:
        try:
            return future.result(), ""
        except TimeoutError:
            return None, f"time limit of {self.timeout_s:g} s exceeded"
        except ProcessExpired as error:
            code = error.exitcode
            name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
            return None, f"worker died ({name}{', out of memory?' if code == -signal.SIGKILL else ''})"
        except MemoryError:
            return None, "out of memory"
        except Exception as error:  # a candidate's failure is a result: recorded with its reason, the search goes on
            text = str(error).strip().splitlines()
            named = type(error).__name__ if type(error).__name__ != "CandidateError" else ""
            return None, ": ".join(filter(None, (named, text[0] if text else "")))
