"""A worker of searches that share a database: `flashnas worker`."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from flashnas.base.errors import WorkerError
from flashnas.executors.attempt import reason_of
from flashnas.executors.base import Ended, Work
from flashnas.executors.local import LocalExecutor, LocalOptions
from flashnas.executors.storage import ASK_S

if TYPE_CHECKING:
    from flashnas.executors.queue import Claimed

MAX_ASK_S = 2.0         # between two looks when nothing was found for a while
UNSURE_S = 5.0          # a search that has given no sign for so long counts as gone until it gives one
MAX_REFUSED = 1000      # rows that are not jobs, of which a worker takes no notice any more


class Worker:
    """Takes jobs from the database and trains them in processes of this machine. evaluators: module:function
    of those that may run here. idle_timeout_s: end after so long without a job; None: never. Raises
    ConfigError for a URL that is none, WorkerError if the database cannot be opened."""

    def __init__(self, url: str, work: Work, options: LocalOptions, *, evaluators: Sequence[str] = (),
                 idle_timeout_s: float | None = None) -> None:
        from flashnas.executors.queue import JobQueue, Peer

        self.work, self.idle_timeout_s = work, idle_timeout_s
        # containers share names and numbers
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:6]}"
        self.pool = LocalExecutor(work, options)
        self.queue = JobQueue(url, work.note, Peer(
            name=self.name, slots=self.pool.workers, evaluators=" ".join(evaluators), gpu=bool(work.devices),
            processes=work.processes))
        self.done = 0
        self._held: dict[str, Claimed] = {}
        self._refused: deque[str] = deque(maxlen=MAX_REFUSED)  # digests
        self._runs: set[str] = set()             # of searches that are alive
        self._unsure = False                     # it is not known yet whether one is
        self._told: set[str] = set()

    def serve(self) -> int:
        """Work until it is interrupted or idle for too long; returns the number of jobs that ended here. What
        it holds then is given back. Raises WorkerError if a job that suits it cannot run on this machine; the
        line says why, and the search hears it."""
        idle_since, pause_s = time.monotonic(), ASK_S
        with self.queue, self.pool:  # what it trains ends before another worker has it
            while True:
                self._take()
                if self._held or self._unsure:
                    idle_since, pause_s = time.monotonic(), ASK_S
                if self._held:
                    for claim, ended in self.pool.finished(ASK_S):
                        self._end(claim, ended)
                    continue
                idle_s = time.monotonic() - idle_since
                if self.idle_timeout_s is not None and idle_s > self.idle_timeout_s:
                    return self.done
                self._tell()
                self.queue.tidy()
                time.sleep(pause_s)
                pause_s = min(1.5 * pause_s, MAX_ASK_S)

    def _take(self) -> None:
        from flashnas.executors.payload import PayloadError, job_of

        while len(self._held) < self.pool.workers:
            self._look()
            if (claimed := self.queue.claim(self._runs, self._refused)) is None:
                return
            self._held[claimed.claim] = claimed
            try:
                job = job_of(claimed.payload, self.queue.me.evaluators.split(), claimed.processes)
            except PayloadError as error:  # not the fault of this machine
                self._refused.append(claimed.digest)
                self.work.note(f"job {claimed.id} of {self.queue.place} is left out: {error}")
                self._write(claimed.claim, Ended(kind="broken", reason=str(error)))
            except Exception as error:  # this machine lacks the text or the user's code, or its disk is full
                reason = str(error) if isinstance(error, WorkerError) else reason_of(error)
                self._end(claimed.claim, Ended(kind="broken", reason=f"{reason} (on {socket.gethostname()})"))
            else:
                self.pool.submit(claimed.claim, job, claimed.timeout_s)

    def _look(self) -> None:
        """Find the searches that are alive, and have given a sign of it while this worker watched."""
        drivers = self.queue.drivers()
        self._runs = {row.run for row in drivers if row.seen}
        self._unsure = any(not row.seen and row.silent_s <= UNSURE_S for row in drivers)
        if drivers:
            self.queue.obey(min(row.stale_s for row in drivers))

    def _tell(self) -> None:
        for why in self.queue.unfit(self._runs):
            if why not in self._told:
                self._told.add(why)
                self.work.note(f"a job of {self.queue.place} needs {why}; it is left to other workers")

    def _write(self, claim: str, ended: Ended) -> None:
        self.queue.end(claim, ended.to_dict())
        del self._held[claim]
        self.done += 1

    def _end(self, claim: str, ended: Ended) -> None:
        self._write(claim, ended)
        if ended.kind == "broken":
            raise WorkerError(f"this worker cannot train: {ended.reason}")
