"""Jobs in processes of this machine, one thread or GPU each, or, for a function that only this
process has, here. A candidate that crashes, hangs or exhausts its memory ends alone."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.settings import MAX_THREADS, Settings, option
from flashnas.base.system import die_with_parent, limit_memory, limit_threads, usable_cores
from flashnas.executors.attempt import attempt, classify_error, reason_of
from flashnas.executors.base import Ended, Executor, Work

MAX_STARTS = 3  # of a process that ends before it has taken a job
EXIT_S = 1.0  # a process whose pipe is closed has so long to end
MIN_MEMORY_GB = 0.5  # that a process may have; with less it does not load its libraries
NO_LIMIT_ON_GPUS = (
    "worker_memory_gb limits what a process reserves, which CUDA does far beyond its use;"
    " leave it out where candidates train on GPUs"
)
SESSION_ENDS_S = 0.5  # within which SIGTERM comes to all processes of a session that ends
START_S = 60.0  # of a process, which its first job does not pay

Order = tuple[str, bytes]  # the key of a job on its way to a process, and (function, job), pickled


@dataclass(frozen=True, kw_only=True)
class LocalOptions(Settings, where="executor"):
    worker_memory_gb: float | None = option(
        None,
        "memory of one worker process; a candidate that needs more fails",
        metavar="GB",
        min=MIN_MEMORY_GB,
        max=1_000_000,
    )


class LocalExecutor(Executor):
    """Worker processes on this machine, each with one thread or GPU. A process is reused from job to
    job, so that libraries load once. It is replaced when it dies, exceeds the time limit, lacked
    memory, or keeps a thread of its last job."""

    name = "local"
    runs_here = True
    Options = LocalOptions
    options: LocalOptions

    def __init__(self, work: Work, options: LocalOptions | None = None) -> None:
        super().__init__(work, options or LocalOptions())
        if work.devices and self.options.worker_memory_gb is not None:
            raise ConfigError(NO_LIMIT_ON_GPUS)
        limit_threads(1, keep=True)
        devices = work.devices or (None,)
        count = work.workers or len(work.devices) or usable_cores()
        self._slots = [
            _Slot(devices[number % len(devices)], work.timeout_s, self.options.worker_memory_gb)
            for number in range(min(count, MAX_THREADS))
        ]
        self._queue: deque[Order] = deque()
        self._ended: list[tuple[str, Ended]] = []
        atexit.register(self.close)  # before multiprocessing waits for its processes

    @property
    def workers(self) -> int:
        return len(self._slots)

    def submit(self, key: str, job: Any) -> None:
        try:
            data = pickle.dumps((self.work.function, job))
        except Exception as error:  # pickle raises PicklingError, AttributeError or TypeError
            self._ended.append((key, Ended(kind="error", reason=reason_of(error))))
            return
        self.submit_pickled(key, data)

    def submit_pickled(self, key: str, data: bytes) -> None:
        """Accept a job as the pickle of (function, job)."""
        self._queue.append((key, data))

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        self._fill()
        busy = [slot for slot in self._slots if slot.order]
        if busy and not self._ended:
            until = min([time.monotonic() + wait_s, *(slot.deadline for slot in busy)])
            wait(
                [waitable for slot in busy for waitable in slot.waitables],
                timeout=max(0.0, until - time.monotonic()),
            )
        for slot in busy:
            order = slot.order
            if order and (ended := slot.ended()):
                self._ended.append((order[0], ended))
        self._fill()
        results, self._ended = self._ended, []
        return results

    def _fill(self) -> None:
        for slot in self._slots:
            if self._queue and not slot.order:
                slot.start(self._queue.popleft())

    def drop(self) -> None:
        self._queue.clear()
        self._ended.clear()
        for slot in self._slots:
            if slot.order:
                slot.stop()

    def close(self) -> None:
        self.drop()
        for slot in self._slots:
            slot.stop()
        atexit.unregister(self.close)


class _Slot:
    """A place for one process at a time, with its device."""

    def __init__(self, device: str | None, timeout_s: float, memory_gb: float | None) -> None:
        self.device = device
        self.timeout_s = timeout_s
        self.memory_gb = memory_gb
        self.order: Order | None = None
        self.deadline = 0.0
        self._process: Any = None  # a process and its pipe, or None and None
        self._pipe: Any = None
        self._ready = False
        self._starts = 0

    @property
    def waitables(self) -> list[Any]:
        """What `multiprocessing.connection.wait` watches."""
        return [self._pipe, self._process.sentinel] if self._process else []

    def start(self, order: Order) -> None:
        if self._process is None or not self._process.is_alive():
            self.stop()
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(
                target=_serve,
                name="flashnas worker",
                args=(theirs, os.getpid(), self.device, self.memory_gb),
            )
            self._process.start()
            theirs.close()
        self.order = order
        self._start_clock()
        with contextlib.suppress(OSError):  # it died meanwhile: `ended` finds that
            self._pipe.send_bytes(order[1])

    def ended(self) -> Ended | None:
        order: Any = self.order
        try:
            while self._pipe.poll():
                answer: Ended | None = self._pipe.recv()
                if answer is not None:
                    self.order = None
                    if not answer.reusable:
                        self.stop()
                    return answer
                self._ready = True
                self._starts = 0
                self._start_clock()
        except (EOFError, OSError):
            # it died, or the job closed what it did not open; what was sent before is read
            if not self._exited():
                self.stop()
                return Ended(kind="died", reason="worker closed its connection")
        except Exception as error:  # the result of a user's function cannot be loaded here
            self.stop()
            return classify_error(error, user_code=True)
        if not self._process.is_alive():
            return self._died(order)
        if time.monotonic() >= self.deadline:
            self.stop()
            return Ended(kind="failed", reason=f"time limit of {self.timeout_s:g} s exceeded")
        return None

    def _died(self, order: Order) -> Ended | None:
        code, ready = self._process.exitcode, self._ready
        with contextlib.suppress(OSError):  # what it has started
            os.killpg(self._process.pid, signal.SIGKILL)
        self.stop()
        if code == -signal.SIGTERM:
            # if the search gets it too, it ends here, and the candidate has not failed
            time.sleep(SESSION_ENDS_S)
        name = signal.Signals(-code).name if code and code < 0 else f"exit code {code}"
        if ready:
            killed = code == -signal.SIGKILL
            return Ended(
                kind="killed" if killed else "died",
                reason=f"worker died ({name}{', out of memory?' if killed else ''})",
            )
        self._starts += 1
        if self._starts < MAX_STARTS:
            self.start(order)
            return None
        return Ended(
            kind="broken",
            reason=f"a worker process ends while it starts ({name}); a script that searches"
            " needs `if __name__ == '__main__':`",
        )

    def _exited(self) -> bool:
        """True if the process has ended, or does so soon. `join` with a time limit waits without
        one if a job has closed what multiprocessing watches."""
        until = time.monotonic() + EXIT_S
        while self._process.is_alive() and time.monotonic() < until:
            time.sleep(0.01)
        return not self._process.is_alive()

    def _start_clock(self) -> None:
        """The time limit runs from now on; the start of a process does not count."""
        self.deadline = time.monotonic() + self.timeout_s + (0.0 if self._ready else START_S)

    def stop(self) -> None:
        self.order = None
        process, pipe = self._process, self._pipe
        self._process = None
        self._pipe = None
        self._ready = False
        if process is not None and process.pid is not None:
            if process.is_alive():
                with contextlib.suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
            process.join()
        if pipe is not None:
            pipe.close()


def _serve(pipe: Connection, parent: int, device: str | None, memory_gb: float | None) -> None:
    """The worker process: one job after another from the pipe, until it closes. It dies with its
    parent, because kill -9 of a search must not leave trainings behind. Ctrl-C is the parent's. The
    kernel, when the machine is out of memory, ends a worker before it ends the search."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    if sys.platform == "linux":
        if os.getppid() != parent:
            os._exit(1)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    with contextlib.suppress(OSError, AttributeError):
        os.setsid()  # a group of its own, so that all that a candidate starts ends with it
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    if memory_gb is not None:
        limit_memory(memory_gb)
    with contextlib.suppress(EOFError, ConnectionError):
        # the search closed the pipe, or was killed
        pipe.send(None)  # it is ready
        while True:
            pipe.send(_outcome(pipe.recv_bytes()))


def _outcome(data: bytes) -> Ended:
    """How a pickled job ended, as data that can be pickled."""
    try:
        function, job = pickle.loads(data)
    except BaseException as error:  # its module cannot be imported here
        return classify_error(error)
    ended = attempt(function, job)
    try:
        pickle.dumps(ended)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        return Ended(kind="error", reason=reason_of(error))
    return ended


class InProcess(Executor):
    """Jobs one after another in this process, for functions that a fresh process cannot import; no
    time limit."""

    name = "in-process"

    def __init__(self, work: Work, options: None) -> None:
        super().__init__(work, options)
        self._queue: deque[tuple[str, Any]] = deque()

    @property
    def workers(self) -> int:
        return 1

    def submit(self, key: str, job: Any) -> None:
        self._queue.append((key, job))

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        key, job = self._queue.popleft()
        return [(key, attempt(self.work.function, job))]

    def drop(self) -> None:
        self._queue.clear()
