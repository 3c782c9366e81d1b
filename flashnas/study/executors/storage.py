"""Jobs in a shared database, and the worker that runs them: for arrays of a cluster, and for a few machines.

A search enqueues, `flashnas worker` on any machine that reaches the database trains. Workers come and go; a job whose
worker gives no sign is another worker's. What ended while the search was away is found when it is continued.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.base.fingerprint import fingerprint
from flashnas.base.settings import Settings, option
from flashnas.study.executors.attempt import reason_of
from flashnas.study.executors.base import Ended, Executor, Work
from flashnas.study.executors.local import LocalExecutor, LocalOptions

if TYPE_CHECKING:
    from flashnas.study.executors.queue import Claimed, JobQueue

ASK_S = 0.2             # between two looks at the database while a result or a job is waited for
LONELY_S = 15.0         # without a worker, until the user is told
LEAVE_S = 5.0           # an ending process waits no longer for a database that is away
BEATS = 4               # signs of life within `stale_s`
IDLE_BEAT_S = 2.0       # between those of a worker without a job
LONGEST_ASK_S = 2.0     # between two looks of a worker that has found nothing for a while
MOST_WITNESSES = 3      # workers of one machine that cannot train a job, until that ends the search


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Settings, where="executor"):
    """The options of `--executor storage`."""

    stale_s: float = option(60.0, "a worker that gives no sign of life for so long is given up, and its job is another"
                            " worker's", metavar="S", least=1, most=86_400)


class StorageExecutor(Executor):
    """Workers on any machine that reaches one database: `flashnas worker --storage URL`."""

    name = "storage"
    Options = StorageOptions
    options: StorageOptions

    def __init__(self, work: Work, options: StorageOptions | None = None) -> None:
        super().__init__(work, options or StorageOptions())
        if work.storage is None:
            raise ConfigError("executor storage needs --storage URL")
        from flashnas.study.outage import engine_url

        engine_url(work.storage)  # its errors come before anything is written
        self._queue: JobQueue | None = None
        self._jobs: dict[str, tuple[str, dict[str, Any], str]] = {}  # key -> digest, payload, evaluator
        self._seen: dict[str, tuple[Any, float]] = {}  # claim or worker -> its beats, and since when
        self._outages, self._last_worker, self._told = 0, time.monotonic(), False
        self._looked = time.monotonic()
        self._broken: dict[str, set[str]] = {}  # digest -> workers that said that they cannot train
        self._slots = 0

    @property
    def queue(self) -> JobQueue:
        if self._queue is None:
            from flashnas.study.executors.queue import JobQueue

            assert self.work.storage is not None
            self._queue = JobQueue(self.work.storage, self.work.note, answered=True)  # the study is in it
            self._last_worker = time.monotonic()
        return self._queue

    @property
    def workers(self) -> int:
        return self.work.workers or self._slots or 1

    def check(self, job: Any) -> None:
        from flashnas.study.executors.payload import payload_of

        payload_of(job, self.work.corpus)

    def submit(self, key: str, job: Any) -> None:
        from flashnas.study.executors.payload import payload_of

        payload = payload_of(job, self.work.corpus)
        self._jobs[key] = fingerprint(payload), payload, payload.get("evaluator", "")
        self._put(key)

    def _put(self, key: str) -> None:
        from flashnas.study.executors.queue import Order

        digest, payload, evaluator = self._jobs[key]
        self.queue.put(Order(run=self.work.run, digest=digest, payload=payload, evaluator=evaluator, gpu=self.work.gpu,
                             processes=self.work.processes, timeout_s=self.work.timeout_s,
                             stale_s=self.options.stale_s))

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        until = time.monotonic() + wait_s
        while not (found := self._look()) and time.monotonic() < until:
            time.sleep(ASK_S)
        if not found:
            self._count_workers()
        return found

    def _look(self) -> list[tuple[str, Ended]]:
        keys: dict[str, list[str]] = {}
        for key, (digest, _, _) in self._jobs.items():
            keys.setdefault(digest, []).append(key)
        rows = {row.digest: row for row in self.queue.read(self.work.run, keys)}
        now = time.monotonic()
        frozen = now - self._looked > max(self.options.stale_s / 2, LONGEST_ASK_S)
        if frozen or self.queue.patience.outages != self._outages:  # nobody could give a sign, or none was seen
            self._outages = self.queue.patience.outages
            self._seen.clear()
        self._looked = now
        found: list[tuple[str, Ended]] = []
        for digest, same in keys.items():
            row = rows.get(digest)
            ended = None
            if row is None:  # another search with the same question has removed it
                self._put(same[0])
            elif row.state == "done":
                ended = Ended(**json.loads(row.ended))
            elif row.state == "broken":
                ended = Ended(**json.loads(row.ended))
                if self._elsewhere(row, ended.reason):
                    self._put(same[0])
                    continue
            elif row.state == "running" and self._silent_s(row.claim, row.beats) > self.options.stale_s:
                ended = Ended(kind="died", reason=f"worker {row.worker} gave no sign for {self.options.stale_s:g} s")
            if ended:
                found += [(key, ended) for key in same]
        return found

    def _elsewhere(self, row: Any, reason: str) -> bool:
        """True if another worker is to try a job on which a worker has ended as broken: one machine that is broken does
        not end the search. Two machines that say so do, and so does the last worker."""
        witnesses = self._broken.setdefault(row.digest, set())
        witnesses.add(row.worker)
        if len(witnesses) == MOST_WITNESSES or len({name.rsplit(":", 2)[0] for name in witnesses}) > 1:
            return False
        ended = set.union(*self._broken.values())
        if not any(one.name not in ended and self._silent_s(one.name, one.beats) <= self.options.stale_s
                   for one in self.queue.workers()):
            return False
        self.work.note(f"worker {row.worker} has ended, since it cannot train: {reason}; its job goes to another"
                       " worker")
        return True

    def _silent_s(self, name: str, beats: int) -> float:
        """Seconds since the count changed, by this machine's clock."""
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != beats:
            self._seen[name] = beats, now
            return 0.0
        return now - since

    def _count_workers(self) -> None:
        rows = self.queue.workers()
        alive = [row for row in rows if self._silent_s(row.name, row.beats) <= self.options.stale_s]
        for row in rows:
            if row not in alive:
                self.queue.leave(row.name)
        self._slots = sum(row.slots for row in alive)
        now = time.monotonic()
        if alive:
            self._last_worker, self._told = now, False
        elif now - self._last_worker > LONELY_S and not self._told:
            self._told = True
            self.work.note(f"no worker is connected; start one with: flashnas worker --storage"
                           f" {self.queue.place.removeprefix('database ')}")

    def forget(self, key: str) -> None:
        """Remove a job whose outcome is recorded, or that is to be tried again."""
        digest, _, _ = self._jobs.pop(key)
        self._broken.pop(digest, None)
        self.queue.remove(self.work.run, digest)

    def drop(self) -> None:
        """Withdraw what no worker has taken. What a worker trains is found when the run is continued."""
        if self._queue is not None:
            with contextlib.suppress(WorkerError):
                for digest, _, _ in self._jobs.values():
                    self._queue.remove(self.work.run, digest, only=("waiting",), longest_s=LEAVE_S)
        self._jobs.clear()

    def close(self) -> None:
        self.drop()
        if self._queue is not None:
            self._queue.close()
            self._queue = None


class Worker:
    """Takes jobs from the database and trains them in processes of this machine.

    Args:
        url: of the database.
        work: function, processes, GPUs and `note` of this machine.
        options: of its processes.
        evaluators: module:function of evaluators that may run here.
        idle_timeout_s: end after so long without a job; None: never.

    Raises:
        ConfigError: for a URL that is none.
        WorkerError: the database cannot be opened.
    """

    def __init__(self, url: str, work: Work, options: LocalOptions, *, evaluators: Sequence[str] = (),
                 idle_timeout_s: float | None = None) -> None:
        from flashnas.study.executors.queue import JobQueue

        self.queue = JobQueue(url, work.note)
        self.work, self.evaluators, self.idle_timeout_s = work, tuple(evaluators), idle_timeout_s
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"  # containers share names and numbers
        self.pool = LocalExecutor(work, options)
        self.able: dict[str, Any] = {"gpu": bool(work.devices), "evaluators": self.evaluators,
                                     "processes": work.processes}
        self.held: dict[str, Claimed] = {}
        self.done = 0
        self._ends = threading.Event()

    def serve(self) -> int:
        """Work until it is interrupted or idle for too long; returns the number of jobs that ended here.

        What it holds at its end is given back.

        Raises:
            WorkerError: this machine cannot run a job; the line says why.
        """
        idle_since, pause_s = time.monotonic(), ASK_S
        alive = threading.Thread(target=self._beat, daemon=True)  # also while a text is prepared, which takes minutes
        alive.start()
        try:
            while True:
                self._take()
                if self.held:
                    for key, ended in self.pool.finished(ASK_S):
                        self._end(key, ended)
                    idle_since, pause_s = time.monotonic(), ASK_S
                    continue
                if self.idle_timeout_s is not None and time.monotonic() - idle_since > self.idle_timeout_s:
                    return self.done
                if why := self.queue.unfit(**self.able):
                    raise WorkerError(f"a job of {self.queue.place} needs {why}")
                time.sleep(pause_s)
                pause_s = min(1.5 * pause_s, LONGEST_ASK_S)
        finally:
            self._ends.set()
            alive.join(LEAVE_S)
            with contextlib.suppress(WorkerError):
                self.queue.give_back(self.name, LEAVE_S)
                self.queue.leave(self.name, LEAVE_S)
            self.pool.close()
            self.queue.close()

    def _take(self) -> None:
        from flashnas.study.executors.payload import job_of

        while len(self.held) < self.pool.workers:
            claimed = self.queue.claim(self.name, **self.able)
            if claimed is None:
                return
            self.held[claimed.claim] = claimed
            try:
                job = job_of(claimed.payload, self.evaluators)
            except Exception as error:  # this machine lacks the text or the user's code, or its disk is full
                reason = str(error) if isinstance(error, WorkerError) else reason_of(error)
                self._end(claimed.claim, Ended(kind="broken", reason=f"{reason} (on {socket.gethostname()})"))
            else:
                self.pool.submit(claimed.claim, job, claimed.timeout_s)

    def _beat(self) -> None:
        """Give signs of life until the end."""
        while not self._ends.is_set():
            held = list(self.held.values())
            with contextlib.suppress(WorkerError):  # the database was away for long: the main thread ends, too
                self.queue.beat(self.name, self.pool.workers, held)
            self._ends.wait(min([IDLE_BEAT_S, *(job.stale_s / BEATS for job in held)]))

    def _end(self, key: str, ended: Ended) -> None:
        job = self.held[key]
        self.queue.end(job, ended.to_dict())
        del self.held[key]
        self.done += 1
        if ended.kind == "broken":
            raise WorkerError(f"this worker cannot train: {ended.reason}")

