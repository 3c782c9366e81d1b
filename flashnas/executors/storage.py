"""Jobs in a shared database, for arrays of a cluster and for a few machines: the side of the search.

A search enqueues, `flashnas worker` on any machine that reaches the database trains (`worker.py`). Workers come and go;
a job whose worker gives no sign is another worker's. What ended while the search was away is found when it is
continued; what still waited then is not trained.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError, WorkerError
from flashnas.base.fingerprint import fingerprint
from flashnas.base.settings import Settings, option
from flashnas.executors.base import Ended, Executor, Work
from flashnas.executors.signs import Signs

if TYPE_CHECKING:
    from flashnas.executors.queue import JobQueue, Order

ASK_S = 0.2             # between two looks at the database while a result is waited for
LONELY_S = 15.0         # without a worker that suits, until the user is told
LEAVE_S = 5.0           # an ending process waits no longer for a database that is away
BEATS = 4               # signs of life within `stale_s`
BEAT_S = 1.0            # between those of a search, or less
FROZEN_S = 2.0          # a search that has not looked for so long was itself stopped
MOST_WITNESSES = 3      # workers of one machine that cannot train a job, until that ends the search


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Settings, where="executor"):
    """The options of `--executor storage`."""

    stale_s: float = option(60.0, "a worker that gives no sign of life for so long is given up, and its job is another"
                            " worker's; what waits of such a search is withdrawn", metavar="S", min=1, max=86_400)


class StorageExecutor(Executor):
    """Workers on any machine that reaches one database: `flashnas worker --storage URL`."""

    name = "storage"
    needs_storage = True
    Options = StorageOptions
    options: StorageOptions

    def __init__(self, work: Work, options: StorageOptions | None = None) -> None:
        super().__init__(work, options or StorageOptions())
        if work.storage is None:
            raise ConfigError("executor storage needs --storage URL")
        from flashnas.runs.outage import engine_url

        engine_url(work.storage)  # its errors come before anything is written
        self._queue: JobQueue | None = None
        self._jobs: dict[str, tuple[str, dict[str, Any], str]] = {}  # key -> digest, payload, evaluator
        self._signs = Signs()  # of claims and workers
        self._outages, self._last_worker, self._told = 0, time.monotonic(), False
        self._looked = time.monotonic()
        self._broken: dict[str, dict[str, str]] = {}  # digest -> workers that cannot train it, and why
        self._slots = 0
        self._ends, self._alive = threading.Event(), threading.Thread()

    @property
    def queue(self) -> JobQueue:
        if self._queue is None:
            from flashnas.executors.queue import JobQueue

            assert self.work.storage is not None
            self._queue = JobQueue(self.work.storage, self.work.note, answered=True)  # the study is in it
            self._last_worker = time.monotonic()
            self._ends = threading.Event()
            name = uuid.uuid4().hex
            self._queue.sign(name, self.work.run, self.options.stale_s)
            self._alive = threading.Thread(target=self._beat, args=(self._queue, name, self._ends), daemon=True)
            self._alive.start()
        return self._queue

    def _beat(self, queue: JobQueue, name: str, ends: threading.Event) -> None:
        """Give signs of life until the end, the first ones soon: workers wait for a change."""
        pause_s, longest_s = ASK_S, min(BEAT_S, self.options.stale_s / BEATS)
        while not ends.wait(pause_s):
            queue.sign(name, self.work.run, self.options.stale_s)
            pause_s = min(1.5 * pause_s, longest_s)
        with contextlib.suppress(WorkerError):
            queue.end_driver(name, longest_s=LEAVE_S)

    @property
    def workers(self) -> int:
        return self.work.workers or self._slots or 1

    @property
    def shown_workers(self) -> str:
        return "as many as connect to the database"

    def check(self, job: Any) -> None:
        from flashnas.executors.payload import payload_of

        payload_of(job, self.work.corpus)

    def submit(self, key: str, job: Any) -> None:
        from flashnas.executors.payload import payload_of

        payload = payload_of(job, self.work.corpus)
        self._jobs[key] = fingerprint(payload), payload, payload.get("evaluator", "")
        self._put(key)

    def _put(self, key: str) -> None:
        self.queue.put(self._order(key))

    def _order(self, key: str) -> Order:
        from flashnas.executors.queue import Order

        digest, payload, evaluator = self._jobs[key]
        return Order(run=self.work.run, digest=digest, payload=payload, evaluator=evaluator, gpu=self.work.gpu,
                     processes=self.work.processes, timeout_s=self.work.timeout_s, stale_s=self.options.stale_s)

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        until = time.monotonic() + wait_s
        while not (found := self._look()) and time.monotonic() < until:
            time.sleep(ASK_S)
        if not found and self._jobs:
            self._count_workers()
        return found

    def _look(self) -> list[tuple[str, Ended]]:
        keys: dict[str, list[str]] = {}
        for key, (digest, _, _) in self._jobs.items():
            keys.setdefault(digest, []).append(key)
        rows = {row.digest: row for row in self.queue.read(self.work.run, keys)}
        now = time.monotonic()
        frozen = now - self._looked > max(self.options.stale_s / 2, FROZEN_S)
        if frozen or self.queue.patience.outages != self._outages:  # nobody could give a sign, or none was seen
            self._outages = self.queue.patience.outages
            self._last_worker = now
            self._signs.restart()
        self._looked = now
        found: list[tuple[str, Ended]] = []
        for digest, same in keys.items():
            row = rows.get(digest)
            ended = None
            if row is None:  # another search with the same question has removed it, or a worker while this was silent
                self._put(same[0])
            elif row.state == "done":
                ended = Ended(**json.loads(row.ended))
            elif row.state == "broken":
                ended = Ended(**json.loads(row.ended))
                if self._elsewhere(row, ended.reason):
                    self._put(same[0])
                    continue
            elif row.state == "waiting" and digest in self._broken and now - self._last_worker > LONELY_S:
                ended = Ended(kind="broken", reason=list(self._broken[digest].values())[-1])  # of the last worker
            elif row.state == "running" and self._signs.silent_s(row.claim, row.beats) > self.options.stale_s:
                ended = Ended(kind="died", reason=f"worker {row.worker} gave no sign for {self.options.stale_s:g} s")
            if ended:
                found += [(key, ended) for key in same]
        return found

    def _elsewhere(self, row: Any, reason: str) -> bool:
        """True if another worker is to try a job on which a worker has ended as broken: one machine that is broken does
        not end the search. Two machines that say so do, and so does the last worker."""
        witnesses = self._broken.setdefault(row.digest, {})
        witnesses[row.worker] = reason
        if len(witnesses) == MOST_WITNESSES or len({name.rsplit(":", 2)[0] for name in witnesses}) > 1:
            return False
        ended = {name for names in self._broken.values() for name in names}
        if not any(one.name not in ended and not lacks for one, lacks in self._connected()):
            return False
        self.work.note(f"worker {row.worker} has ended, since it cannot train: {reason}; its job goes to another"
                       " worker")
        return True

    def _connected(self) -> list[tuple[Any, str]]:
        """The workers that are alive, each with what the jobs of this search need and it lacks."""
        from flashnas.executors.queue import lacking

        order = self._order(next(iter(self._jobs)))
        found = []
        for row in self.queue.workers():
            if self._signs.silent_s(row.name, row.beats) <= self.options.stale_s:
                found.append((row, lacking(order, **json.loads(row.able))))
            else:
                self.queue.leave(row.name)
        return found

    def _count_workers(self) -> None:
        connected = self._connected()
        suit = [row for row, lacks in connected if not lacks]
        self._slots = sum(row.slots for row in suit)
        now = time.monotonic()
        if suit:
            self._last_worker, self._told = now, False
        elif now - self._last_worker > LONELY_S and not self._told:
            self._told = True
            self.work.note(
                f"no worker that is connected can train for this search: a job needs {connected[0][1]} (worker"
                f" {connected[0][0].name})" if connected else
                "no worker is connected; start one with: flashnas worker --storage"
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
            self._ends.set()
            self._alive.join(LEAVE_S)
            self._queue.close()
            self._queue = None
