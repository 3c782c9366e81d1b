"""Jobs in a shared database, for arrays of a cluster and for a few machines: the side of the search.

A search enqueues, `flashnas worker` on any machine that reaches the database trains (`worker.py`). A job
whose worker gives no heartbeat is another worker's. What ended while the search was away is found when it is
continued; what still waited then is not trained.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import WorkerError
from flashnas.base.fingerprint import fingerprint
from flashnas.base.settings import Settings, option
from flashnas.executors.base import Ended, Executor, Work

if TYPE_CHECKING:
    from flashnas.executors.queue import JobQueue, Order

ASK_S = 0.2             # between two looks at the database while a result is waited for
LONELY_S = 15.0         # without a worker that suits, until the user is told
MAX_FAILED_WORKERS = 3  # of one machine that cannot train a job, until that ends the search


@dataclass(frozen=True, kw_only=True)
class StorageOptions(Settings, where="executor"):
    stale_s: float = option(
        60.0, "a worker that gives no sign of life for so long is given up, and its job is another worker's;"
              " what waits of such a search is withdrawn", metavar="S", min=1, max=86_400)


class StorageExecutor(Executor):
    """Workers on any machine that reaches one database: `flashnas worker --storage URL`."""

    name = "storage"
    Options = StorageOptions
    needs_storage = True
    options: StorageOptions

    def __init__(self, work: Work, options: StorageOptions | None = None) -> None:
        super().__init__(work, options or StorageOptions())
        from flashnas.runs.outage import engine_url

        self._url = str(work.storage)
        engine_url(self._url)  # its errors come before anything is written
        self._queue: JobQueue | None = None
        self._orders: dict[str, Order] = {}  # of the jobs that have not ended, by their key
        # digest -> workers that cannot train it, and why
        self._failed_workers: dict[str, dict[str, str]] = {}
        self._slots, self._suited, self._told = 0, time.monotonic(), False  # since when no worker suits

    @property
    def queue(self) -> JobQueue:
        """The database, opened when the first job comes."""
        if self._queue is None:
            from flashnas.executors.queue import JobQueue, Peer

            me = Peer(name=uuid.uuid4().hex, run=self.work.run, stale_s=self.options.stale_s)
            self._queue = JobQueue(self._url, self.work.note, me, answered=True).__enter__()
            self._suited = time.monotonic()
        return self._queue

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
        from flashnas.executors.queue import Order

        payload = payload_of(job, self.work.corpus)
        self._orders[key] = Order(run=self.work.run, digest=fingerprint(payload), payload=payload,
                                  evaluator=payload.get("evaluator", ""), gpu=self.work.gpu,
                                  processes=self.work.processes, timeout_s=self.work.timeout_s,
                                  stale_s=self.options.stale_s)
        self.queue.put(self._orders[key])

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        until = time.monotonic() + wait_s
        while not (ended := self._look()) and time.monotonic() < until:
            time.sleep(ASK_S)
        if not ended and self._orders:
            self._count_workers()
        return ended

    def _look(self) -> list[tuple[str, Ended]]:
        orders = {order.digest: order for order in self._orders.values()}
        rows = self.queue.read(self.work.run, orders)
        ended: dict[str, Ended] = {}
        for digest, order in orders.items():
            row, failed = rows.get(digest), self._failed_workers.get(digest)
            # another search with the same question has removed it, or a worker while this was silent
            if row is None:
                self.queue.put(order)
            elif row.state == "done":
                ended[digest] = _outcome(row.ended)
            elif row.state == "broken":
                if self._retry_elsewhere(digest, row.worker, reason := _outcome(row.ended).reason):
                    self.queue.put(order)
                else:
                    ended[digest] = Ended(kind="broken", reason=reason)
            elif row.state == "waiting" and failed and self._lonely_s() > LONELY_S:
                ended[digest] = Ended(kind="broken", reason=list(failed.values())[-1])
            elif row.state == "running" and row.silent_s > self.options.stale_s:
                ended[digest] = Ended(kind="died", reason=f"worker {row.worker} gave no sign for"
                                                          f" {self.options.stale_s:g} s")
        return [(key, ended[order.digest]) for key, order in self._orders.items() if order.digest in ended]

    def _retry_elsewhere(self, digest: str, worker: str, reason: str) -> bool:
        """True if another worker is to try a job that one could not train: one broken machine does not end
        the search. Two do, and so does the last worker."""
        failed = self._failed_workers.setdefault(digest, {})
        failed[worker] = reason
        if len(failed) == MAX_FAILED_WORKERS or len({name.rsplit(":", 2)[0] for name in failed}) > 1:
            return False
        everywhere = {name for workers in self._failed_workers.values() for name in workers}
        if not any(row.name not in everywhere and not lacks for row, lacks in self._connected()):
            return False
        self.work.note(f"worker {worker} cannot train: {reason}; its job goes to another worker")
        return True

    def _connected(self) -> list[tuple[Any, str]]:
        """The workers that are connected, each with what the jobs of this search need and it lacks."""
        from flashnas.executors.queue import lacking

        order = next(iter(self._orders.values()))
        return [(row, lacking(order, row)) for row in self.queue.workers()]

    def _lonely_s(self) -> float:
        """For how long no worker that suits has been connected; they are counted now."""
        connected = self._connected()
        self._slots = sum(row.slots for row, lacks in connected if not lacks)
        if self._slots:
            self._suited, self._told = time.monotonic(), False
        return time.monotonic() - self._suited

    def _count_workers(self) -> None:
        if self._lonely_s() > LONELY_S and not self._told:
            self._told, connected = True, self._connected()
            self.work.note(
                f"no worker that is connected can train for this search: a job needs {connected[0][1]}"
                f" (worker {connected[0][0].name})" if connected else
                "no worker is connected; start one with: flashnas worker --storage"
                f" {self.queue.place.removeprefix('database ')}")

    def forget(self, key: str) -> None:
        order = self._orders.pop(key)
        self._failed_workers.pop(order.digest, None)
        self.queue.remove(self.work.run, order.digest)

    def drop(self) -> None:
        """Withdraw what no worker has taken. What a worker trains is found when the run is continued."""
        if self._queue is not None:
            with contextlib.suppress(WorkerError):
                for order in self._orders.values():
                    self._queue.withdraw(self.work.run, order.digest)
        self._orders.clear()

    def close(self) -> None:
        self.drop()
        if self._queue is not None:
            self._queue.__exit__()
            self._queue = None


def _outcome(text: str) -> Ended:
    """As a worker wrote it; a row that nobody can read is that of a worker that died."""
    try:
        return Ended.from_dict(json.loads(text))
    except (ValueError, TypeError, RecursionError):
        return Ended(kind="died", reason="its row in the database is damaged")
