"""A worker of searches that share a database: `flashnas worker`."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import WorkerError
from flashnas.executors.attempt import reason_of
from flashnas.executors.base import Ended, Work
from flashnas.executors.local import LocalExecutor, LocalOptions
from flashnas.executors.signs import Signs
from flashnas.executors.storage import ASK_S, BEATS, LEAVE_S

if TYPE_CHECKING:
    from flashnas.executors.queue import Claimed

IDLE_BEAT_S = 2.0       # between signs of life without a job
LONGEST_ASK_S = 2.0     # between two looks when nothing was found for a while
UNSURE_S = 5.0          # a search that has given no sign for so long counts as gone until it gives one


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
        from flashnas.executors.queue import JobQueue

        self.queue = JobQueue(url, work.note)
        self.work, self.evaluators, self.idle_timeout_s = work, tuple(evaluators), idle_timeout_s
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"  # containers share names and numbers
        self.pool = LocalExecutor(work, options)
        self.able: dict[str, Any] = {"gpu": bool(work.devices), "evaluators": self.evaluators,
                                     "processes": work.processes}
        self.held: dict[str, Claimed] = {}
        self._signs, self._outages = Signs(), 0  # of searches, and of jobs that nobody waits for
        self._runs: set[str] = set()             # of searches that are alive
        self._unsure = False                     # it is not known yet whether one is
        self._told: set[str] = set()
        self.done = 0
        self._ends = threading.Event()

    def serve(self) -> int:
        """Work until it is interrupted or idle for too long; returns the number of jobs that ended here.

        What it holds at its end is given back. Jobs that do not suit it are left to others.

        Raises:
            WorkerError: a job that suits it cannot run on this machine; the line says why, and the search hears it.
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
                if self._unsure:
                    idle_since, pause_s = time.monotonic(), ASK_S
                elif self.idle_timeout_s is not None and time.monotonic() - idle_since > self.idle_timeout_s:
                    return self.done
                self._tell()
                self._tidy()
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
        from flashnas.executors.payload import job_of

        while len(self.held) < self.pool.workers:
            self._look()
            claimed = self.queue.claim(self.name, **self.able, runs=self._runs)
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

    def _look(self) -> None:
        """Find the searches that are alive: their counts have changed since this worker looks, and not too long ago."""
        if self.queue.patience.outages != self._outages:
            self._outages = self.queue.patience.outages
            self._signs.restart()
        self._runs, self._unsure = set(), False
        for row in self.queue.drivers():
            silent_s = self._signs.silent_s(row.name, row.beats)
            if silent_s > row.stale_s:
                self.queue.end_driver(row.name, row.beats)
            elif self._signs.moved(row.name):
                self._runs.add(row.run)
            else:
                self._unsure |= silent_s <= UNSURE_S

    def _tell(self) -> None:
        """Say once of each need that this worker does not meet."""
        for why in self.queue.unfit(self._runs, **self.able):
            if why not in self._told:
                self._told.add(why)
                self.work.note(f"a job of {self.queue.place} needs {why}; it is left to other workers")

    def _tidy(self) -> None:
        """Remove jobs that nobody waits for: no search is there, and no worker runs them."""
        for job in self.queue.nobodys():
            if job.state != "running" or self._signs.silent_s(job.claim, job.beats) > job.stale_s:
                self.queue.discard(job)

    def _beat(self) -> None:
        """Give signs of life until the end."""
        while not self._ends.is_set():
            held = list(self.held.values())
            with contextlib.suppress(WorkerError):  # the database was away for long: the main thread ends, too
                self.queue.beat(self.name, self.pool.workers, held, **self.able)
            self._ends.wait(min([IDLE_BEAT_S, *(job.stale_s / BEATS for job in held)]))

    def _end(self, key: str, ended: Ended) -> None:
        job = self.held[key]
        self.queue.end(job, ended.to_dict())
        del self.held[key]
        self.done += 1
        if ended.kind == "broken":
            raise WorkerError(f"this worker cannot train: {ended.reason}")

