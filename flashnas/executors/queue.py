"""The jobs of searches in a database that all machines reach: two tables, and the few statements on them.

A driver enqueues, a worker claims one job at a time. Both are peers, and each keeps its `heartbeat` fresh.
All times are the database's: nobody compares clocks of two machines. A claim is one compare-and-swap, for
which PostgreSQL skips rows that another worker holds; SQLite has one writer at a time. A job without a driver
is removed by any worker; a driver that was only silent enqueues it again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import sqlalchemy as sql
import sqlalchemy.orm  # at once: two threads that import it on first use can meet it half imported
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.compiler import compiles

import flashnas
from flashnas.base.errors import WorkerError
from flashnas.base.hints import first_line
from flashnas.base.process import uninterrupted
from flashnas.runs.outage import Patience, created, engine_url, shown_url

BEAT_S = 2.0            # between heartbeats, or a quarter of `stale_s`
SHORTEST_BEAT_S = 0.1
LEAVE_S = 5.0           # an ending process waits no longer for a database that is away
KEEP_S = 86_400.0       # for which the row of a peer that vanished remains
_TABLES = sql.MetaData()


def _columns(**types: Any) -> list[sql.Column[Any]]:
    return [sql.Column(name, kind, nullable=False) for name, kind in types.items()]


JOBS = sql.Table(
    "flashnas_jobs_3", _TABLES, sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    *_columns(run=sql.String(64), digest=sql.String(64),  # of the payload
              version=sql.String(32),                     # of flashnas
              evaluator=sql.String(255),                  # module:function, or empty for a training
              gpu=sql.Boolean, processes=sql.Integer,     # that it needs
              payload=sql.Text,                           # JSON
              timeout_s=sql.Float, stale_s=sql.Float,     # a worker that is silent for so long is given up
              state=sql.String(8),                        # waiting, running, done, broken
              claim=sql.String(32),                       # changes with each claim
              worker=sql.String(255), ended=sql.Text),    # JSON, of a done or broken one
    sql.UniqueConstraint("run", "digest", name="flashnas_jobs_3_once"),
    sql.Index("flashnas_jobs_3_state", "state", "id"))
PEERS = sql.Table(
    "flashnas_peers_1", _TABLES, sql.Column("name", sql.String(255), primary_key=True),
    *_columns(run=sql.String(64),                         # of a driver; empty for a worker
              slots=sql.Integer,                          # jobs that a worker runs at one time
              version=sql.String(32), evaluators=sql.Text,  # separated by spaces
              gpu=sql.Boolean, processes=sql.Integer,
              stale_s=sql.Float,                          # a driver that is silent for so long is gone
              since=sql.Float,                            # since then its heartbeats have come in time
              heartbeat=sql.Float))


class _Now(sql.sql.functions.FunctionElement[float]):
    """The database's clock in seconds, with fractions."""

    inherit_cache = True
    type = sql.Float()


@compiles(_Now)
def _now_of_postgres(*_: Any, **__: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)"


@compiles(_Now, "sqlite")
def _now_of_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


NOW = _Now()


@dataclass(kw_only=True)
class Peer:
    """A driver, which has a `run`, or a worker, with what it is able to run: the columns of its row."""

    name: str = ""
    run: str = ""
    slots: int = 0
    evaluators: str = ""
    gpu: bool = False
    processes: int = 1
    stale_s: float = 60.0
    version: str = flashnas.__version__


@dataclass(frozen=True, kw_only=True)
class Order:
    run: str
    digest: str
    payload: Mapping[str, Any]
    evaluator: str
    gpu: bool
    processes: int
    timeout_s: float
    stale_s: float
    version: str = flashnas.__version__


@dataclass(frozen=True)
class Claimed:
    """A job that a worker holds. payload: JSON, not read yet."""

    claim: str
    id: int
    digest: str
    payload: str
    processes: int
    timeout_s: float


def lacking(job: Any, worker: Any) -> str:
    """What a job (an Order, or its row) needs that a worker (a Peer, or its row) lacks, in words."""
    if job.version != worker.version:
        return f"flashnas {job.version}; the worker has {worker.version}"
    if job.evaluator and job.evaluator not in worker.evaluators.split():
        return f"the evaluator {job.evaluator}; start the worker with --evaluator {job.evaluator}"
    if job.gpu and not worker.gpu:
        return "a GPU; the worker has none"
    if job.processes > worker.processes:
        return (f"{job.processes} processes; the worker has {worker.processes} for a job; start it with"
                f" --processes-per-candidate {job.processes}")
    return ""


def _since(peer: Any) -> Any:
    """Since when a peer has given its heartbeats in time; now, where it has just missed one, or where the
    clock was set back."""
    return sql.case((sql.func.abs(NOW - peer.c.heartbeat) > peer.c.stale_s / 2, NOW), else_=peer.c.since)


class JobQueue:
    """The tables, seen by one peer, which gives heartbeats from a thread of its own within its context. Every
    method waits while the database is away. answered: the database has answered this process before, so that
    it is waited for here, too. Raises ConfigError for a URL that is none, or a driver that is missing,
    WorkerError if the database cannot be opened."""

    def __init__(self, url: str, note: Callable[[str], None], me: Peer | None = None, *,
                 answered: bool = False) -> None:
        self.place, self.me = f"database {shown_url(url)}", me or Peer()
        full = engine_url(url)
        more = {"connect_args": {"timeout": 60}} if full.startswith("sqlite") else {}
        self._engine = sql.create_engine(full, pool_pre_ping=True, **more)
        self._wait = Patience(self.place, note)
        self._ends, self._woken = False, threading.Event()
        self._thread = threading.Thread(target=self._live, daemon=True)
        try:
            if answered:
                self._wait(self._make_tables)
            else:
                self._make_tables()
        except SQLAlchemyError as error:
            own = getattr(error, "orig", None) or error
            raise WorkerError(f"{self.place} cannot be opened: {first_line(own)}") from None

    def _make_tables(self) -> None:
        created(lambda: _TABLES.create_all(self._engine))

    def close(self) -> None:
        self._engine.dispose()

    def _do(self, action: Callable[[sql.Connection], Any], longest_s: float | None = None) -> Any:
        def once() -> Any:
            with uninterrupted(), self._engine.begin() as connection:
                return action(connection)
        return self._wait(once, longest_s)

    def _rows(self, query: sql.Select[Any]) -> list[Any]:
        rows: list[Any] = self._do(lambda connection: connection.execute(query).all())
        return rows

    def _write(self, statement: Any, longest_s: float | None = None) -> None:
        self._do(lambda connection: connection.execute(statement), longest_s)

    # -- who is alive ----------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._write(sql.delete(PEERS).where(NOW - PEERS.c.heartbeat > KEEP_S))
        self._wait(self.beat)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave, and let other workers have what this one runs."""
        self._ends = True
        self._woken.set()
        self._thread.join(LEAVE_S)
        with contextlib.suppress(WorkerError):
            self._write(sql.update(JOBS).where(JOBS.c.worker == self.me.name, JOBS.c.state == "running")
                        .values(state="waiting", claim="", worker=""), LEAVE_S)
            self._write(sql.delete(PEERS).where(PEERS.c.name == self.me.name), LEAVE_S)
        self.close()

    def _live(self) -> None:
        while not self._ends:
            with contextlib.suppress(SQLAlchemyError):  # the other thread tells the user
                self.beat()
            self._woken.wait(max(SHORTEST_BEAT_S, min(BEAT_S, self.me.stale_s / 4)))
            self._woken.clear()

    def beat(self) -> None:
        """Give a heartbeat. After a pause, in which this process or the database may have been stopped,
        `since` begins anew."""
        row = {**dataclasses.asdict(self.me), "heartbeat": NOW}
        with self._engine.begin() as connection:
            if not connection.execute(sql.update(PEERS).where(PEERS.c.name == self.me.name).values(
                    {**row, "since": _since(PEERS)})).rowcount:
                connection.execute(sql.insert(PEERS).values({**row, "since": NOW}))

    def obey(self, stale_s: float) -> None:
        """Give heartbeats so often that nobody who waits for `stale_s` seconds gives this peer up."""
        if stale_s != self.me.stale_s:
            self.me.stale_s = stale_s
            self._woken.set()

    def _watched_since(self) -> Any:
        mine = PEERS.alias()
        own = sql.select(_since(mine)).where(mine.c.name == self.me.name)
        return sql.func.coalesce(own.scalar_subquery(), NOW)

    def _silent_s(self, peer: Any) -> Any:
        """How long a peer has been silent while this one watched."""
        since, heartbeat = self._watched_since(), sql.func.coalesce(peer.c.heartbeat, 0.0)
        return NOW - sql.case((heartbeat.between(since, NOW), heartbeat), else_=since)

    # -- the driver's ----------------------------------------------------------------------------------------

    def put(self, order: Order) -> None:
        """Enqueue a job, unless a worker has it already or has ended it. One that waits is replaced, since an
        earlier flashnas may have enqueued it, and so is an earlier failure of a worker."""
        row = {**dataclasses.asdict(order), "payload": json.dumps(order.payload), "state": "waiting",
               "claim": "", "worker": "", "ended": ""}

        def insert(connection: sql.Connection) -> None:
            connection.execute(sql.delete(JOBS).where(JOBS.c.run == order.run, JOBS.c.digest == order.digest,
                                                      JOBS.c.state.in_(["broken", "waiting"])))
            connection.execute(sql.insert(JOBS).values(row))
        with contextlib.suppress(IntegrityError):  # it is there, of a driver that was interrupted
            self._do(insert)

    def read(self, run: str, digests: Iterable[str]) -> dict[str, Any]:
        """The rows of these jobs by their digest: state, worker, silent_s of the worker, ended."""
        rows = self._rows(sql.select(
            JOBS.c.digest, JOBS.c.state, JOBS.c.worker, JOBS.c.ended, self._silent_s(PEERS).label("silent_s"),
        ).select_from(JOBS.outerjoin(PEERS, PEERS.c.name == JOBS.c.worker)).where(JOBS.c.run == run))
        by_digest = {row.digest: row for row in rows}
        return {digest: by_digest[digest] for digest in digests if digest in by_digest}

    def remove(self, run: str, digest: str) -> None:
        self._write(sql.delete(JOBS).where(JOBS.c.run == run, JOBS.c.digest == digest))

    def withdraw(self, run: str, digest: str) -> None:
        """Delete a job that no worker has taken."""
        self._write(sql.delete(JOBS).where(JOBS.c.run == run, JOBS.c.digest == digest,
                                           JOBS.c.state == "waiting"), LEAVE_S)

    def workers(self) -> list[Any]:
        return self._rows(sql.select(PEERS).where(PEERS.c.run == "",
                                                  self._silent_s(PEERS) <= self.me.stale_s))

    # -- the worker's ----------------------------------------------------------------------------------------

    def drivers(self) -> list[Any]:
        """run, stale_s and silent_s of all drivers that are alive, and `seen`: a heartbeat came while this
        peer watched."""
        silent_s = self._silent_s(PEERS)
        return self._rows(sql.select(PEERS.c.run, PEERS.c.stale_s, silent_s.label("silent_s"),
                                     (PEERS.c.heartbeat >= self._watched_since()).label("seen"))
                          .where(PEERS.c.run != "", silent_s <= PEERS.c.stale_s))

    def claim(self, runs: Collection[str], refused: Collection[str] = ()) -> Claimed | None:
        """The oldest job of `runs`, not `refused` (digests), that waits and that this worker can run; it is
        then this worker's."""
        if not runs:
            return None
        me, claim = self.me, uuid.uuid4().hex
        # .. or this claim's, where the database made it and the answer was lost
        free = sql.or_(JOBS.c.state == "waiting", JOBS.c.claim == claim)
        oldest = sql.select(JOBS.c.id, JOBS.c.digest, JOBS.c.payload, JOBS.c.processes,
                            JOBS.c.timeout_s).where(
            free, JOBS.c.version == me.version, JOBS.c.processes <= me.processes,
            JOBS.c.evaluator.in_(["", *me.evaluators.split()]),
            *([] if me.gpu else [JOBS.c.gpu == sql.false()]),
            JOBS.c.run.in_(runs), JOBS.c.digest.not_in(refused),
        ).order_by(JOBS.c.claim.desc(), JOBS.c.id).limit(1).with_for_update(skip_locked=True)

        def take(connection: sql.Connection) -> Claimed | bool:
            row = connection.execute(oldest).first()
            if row is None:
                return False
            # SQLite gives the id of a removed job to the next one
            same = JOBS.c.id == row.id, JOBS.c.digest == row.digest, free
            taken = connection.execute(sql.update(JOBS).where(*same).values(
                state="running", claim=claim, worker=me.name))
            return taken.rowcount != 1 or Claimed(claim, *row)

        while (claimed := self._do(take)) is True:  # SQLite: another worker was faster
            pass
        return claimed or None

    def unfit(self, runs: Collection[str]) -> list[str]:
        """What waiting jobs of `runs` need that this worker lacks, in words."""
        rows = self._rows(sql.select(JOBS.c.version, JOBS.c.evaluator, JOBS.c.gpu, JOBS.c.processes).where(
            JOBS.c.state == "waiting", JOBS.c.run.in_(runs)).distinct())
        return sorted(filter(None, (lacking(row, self.me) for row in rows)))

    def end(self, claim: str, ended: Mapping[str, Any]) -> None:
        """Write how a job ended; nothing happens if it is no longer this worker's."""
        self._write(sql.update(JOBS).where(JOBS.c.claim == claim).values(
            state="broken" if ended["kind"] == "broken" else "done", ended=json.dumps(ended)))

    def tidy(self) -> None:
        """Remove jobs without a result that nobody waits for: no driver is alive, and no worker runs them."""
        drivers = sql.select(PEERS.c.run).where(PEERS.c.run != "", self._silent_s(PEERS) <= PEERS.c.stale_s)
        workers = sql.select(PEERS.c.name).where(self._silent_s(PEERS) <= JOBS.c.stale_s)
        self._write(sql.delete(JOBS).where(
            JOBS.c.state != "done", JOBS.c.run.not_in(drivers),
            sql.or_(JOBS.c.state != "running", JOBS.c.worker.not_in(workers))))
