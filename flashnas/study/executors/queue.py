"""The jobs of searches in a database that all machines reach: two tables, and the few statements on them.

A driver enqueues, a worker claims one job at a time and counts `beats` up while it works. Nobody compares clocks of two
machines: who waits for a worker watches whether its count changes. A claim is one compare-and-swap, for which
PostgreSQL skips rows that another worker holds; SQLite has one writer at a time.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
import sqlalchemy.orm  # at once: two threads that import it on first use can meet it half imported
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

import flashnas
from flashnas.base.errors import WorkerError
from flashnas.base.process import uninterrupted
from flashnas.study.outage import Patience, engine_url, shown_url

CREATE_TRIES = 5    # where several processes make the tables at once
_TABLES = sql.MetaData()
JOBS = sql.Table(
    "flashnas_jobs_2", _TABLES,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=True),
    sql.Column("run", sql.String(64), nullable=False),
    sql.Column("digest", sql.String(64), nullable=False),       # of the payload
    sql.Column("version", sql.String(32), nullable=False),      # of flashnas
    sql.Column("evaluator", sql.String(255), nullable=False),   # module:function, or empty for a training
    sql.Column("gpu", sql.Boolean, nullable=False),
    sql.Column("processes", sql.Integer, nullable=False),       # that run it together
    sql.Column("payload", sql.Text, nullable=False),            # JSON
    sql.Column("timeout_s", sql.Float, nullable=False),
    sql.Column("stale_s", sql.Float, nullable=False),           # a claim without a beat for so long is void
    sql.Column("state", sql.String(8), nullable=False),         # waiting, running, done, broken
    sql.Column("claim", sql.String(32), nullable=False),        # of the worker that runs it; changes with each claim
    sql.Column("worker", sql.String(255), nullable=False),
    sql.Column("beats", sql.Integer, nullable=False),
    sql.Column("ended", sql.Text, nullable=False),              # JSON, of a done one
    sql.UniqueConstraint("run", "digest", name="flashnas_jobs_2_once"),
    sql.Index("flashnas_jobs_2_state", "state", "id"))
WORKERS = sql.Table(
    "flashnas_workers_1", _TABLES,
    sql.Column("name", sql.String(255), primary_key=True),
    sql.Column("slots", sql.Integer, nullable=False),
    sql.Column("beats", sql.Integer, nullable=False))


@dataclass(frozen=True, kw_only=True)
class Order:
    """A job as a driver enqueues it."""

    run: str
    digest: str
    payload: Mapping[str, Any]
    evaluator: str
    gpu: bool
    processes: int
    timeout_s: float
    stale_s: float


@dataclass(frozen=True)
class Claimed:
    """A job that this worker holds."""

    id: int
    claim: str
    payload: dict[str, Any]
    timeout_s: float
    stale_s: float


class JobQueue:
    """The two tables. Every method waits while the database is away.

    Args:
        url: of the database.
        note: receives lines for the user.
        answered: the database has answered this process before, so that it is waited for here, too.

    Raises:
        ConfigError: for a URL that is none, or a driver that is missing.
        WorkerError: the database cannot be opened.
    """

    def __init__(self, url: str, note: Callable[[str], None], *, answered: bool = False) -> None:
        self.place = f"database {shown_url(url)}"
        full = engine_url(url)
        more = {"connect_args": {"timeout": 60}} if full.startswith("sqlite") else {}
        self._engine = sql.create_engine(full, pool_pre_ping=True, **more)
        self.patience = Patience(self.place, note)
        try:
            if answered:
                self.patience(self._create)
            else:
                self._create()
        except SQLAlchemyError as error:
            own = getattr(error, "orig", None) or error
            line = (str(own).strip().splitlines() or [""])[0]
            raise WorkerError(f"{self.place} cannot be opened: {line}") from None

    def _create(self) -> None:
        for left in reversed(range(CREATE_TRIES)):
            try:
                _TABLES.create_all(self._engine)
                return
            except DBAPIError as error:  # another process creates them at the same time
                if not left or ("exist" not in str(error) and "locked" not in str(error)):
                    raise
                time.sleep(0.2)

    def close(self) -> None:
        self._engine.dispose()

    def _do(self, action: Callable[[sql.Connection], Any], longest_s: float | None = None) -> Any:
        def once() -> Any:
            with uninterrupted(), self._engine.begin() as connection:
                return action(connection)
        return self.patience(once, longest_s)

    # -- the driver's --------------------------------------------------------------------------------------------

    def put(self, order: Order) -> None:
        """Enqueue a job, unless the run has it already. That a worker could not train it counts no longer."""
        row = {"run": order.run, "digest": order.digest, "version": flashnas.__version__, "evaluator": order.evaluator,
               "gpu": order.gpu, "processes": order.processes, "payload": json.dumps(order.payload),
               "timeout_s": order.timeout_s, "stale_s": order.stale_s, "state": "waiting", "claim": "", "worker": "",
               "beats": 0, "ended": ""}

        def insert(connection: sql.Connection) -> None:
            connection.execute(sql.delete(JOBS).where(JOBS.c.run == order.run, JOBS.c.digest == order.digest,
                                                      JOBS.c.state == "broken"))
            connection.execute(sql.insert(JOBS).values(row))
        with contextlib.suppress(IntegrityError):  # it is there, of a driver that was interrupted
            self._do(insert)

    def read(self, run: str, digests: Iterable[str]) -> list[Any]:
        """The rows of these jobs: digest, state, claim, worker, beats, ended."""
        wanted = set(digests)
        columns = (JOBS.c.digest, JOBS.c.state, JOBS.c.claim, JOBS.c.worker, JOBS.c.beats, JOBS.c.ended)
        rows = self._do(lambda connection: connection.execute(
            sql.select(*columns).where(JOBS.c.run == run).order_by(JOBS.c.id)).all())
        return [row for row in rows if row.digest in wanted]

    def remove(self, run: str, digest: str, *, only: Sequence[str] = (), longest_s: float | None = None) -> None:
        """Delete a job, in whatever state it is, or in one of `only`."""
        where = [JOBS.c.run == run, JOBS.c.digest == digest, *([JOBS.c.state.in_(only)] if only else [])]
        self._do(lambda connection: connection.execute(sql.delete(JOBS).where(*where)), longest_s)

    def workers(self) -> list[Any]:
        """name, slots, beats of all that have not taken their leave."""
        found: list[Any] = self._do(lambda connection: connection.execute(
            sql.select(WORKERS.c.name, WORKERS.c.slots, WORKERS.c.beats)).all())
        return found

    # -- the worker's --------------------------------------------------------------------------------------------

    def claim(self, worker: str, *, gpu: bool, evaluators: Sequence[str], processes: int = 1) -> Claimed | None:
        """The oldest job that waits and that this worker can run; it is then this worker's."""
        fits = [JOBS.c.state == "waiting", JOBS.c.version == flashnas.__version__, JOBS.c.processes <= processes,
                JOBS.c.evaluator.in_(["", *evaluators]), *([] if gpu else [JOBS.c.gpu == sql.false()])]
        oldest = (sql.select(JOBS.c.id, JOBS.c.payload, JOBS.c.timeout_s, JOBS.c.stale_s).where(*fits)
                  .order_by(JOBS.c.id).limit(1).with_for_update(skip_locked=True))

        def take(connection: sql.Connection) -> Claimed | bool:
            row = connection.execute(oldest).first()
            if row is None:
                return False
            claim = uuid.uuid4().hex
            taken = connection.execute(sql.update(JOBS).where(JOBS.c.id == row.id, JOBS.c.state == "waiting").values(
                state="running", claim=claim, worker=worker, beats=0))
            return taken.rowcount != 1 or Claimed(row.id, claim, json.loads(row.payload), row.timeout_s, row.stale_s)

        while (found := self._do(take)) is True:  # SQLite: another worker was faster
            pass
        return found or None

    def unfit(self, *, gpu: bool, evaluators: Sequence[str], processes: int = 1) -> str:
        """Why this worker cannot run a job that waits, in words; empty if none waits that it cannot run."""
        columns = (JOBS.c.version, JOBS.c.evaluator, JOBS.c.gpu, JOBS.c.processes)
        for row in self._do(lambda connection: connection.execute(
                sql.select(*columns).where(JOBS.c.state == "waiting").distinct()).all()):
            if row.version != flashnas.__version__:
                return f"flashnas {row.version}; this worker has {flashnas.__version__}"
            if row.evaluator and row.evaluator not in evaluators:
                return f"the evaluator {row.evaluator}; allow it with --evaluator {row.evaluator}"
            if row.gpu and not gpu:
                return "a GPU; this machine has none"
            if row.processes > processes:
                return (f"{row.processes} processes, and this worker has {processes} for a job; start it with"
                        f" --processes-per-candidate {row.processes}")
        return ""

    def beat(self, worker: str, slots: int, held: Iterable[Claimed]) -> None:
        """Show that the worker is alive, and its jobs with it."""
        claims = [job.claim for job in held]

        def count(connection: sql.Connection) -> None:
            if not connection.execute(sql.update(WORKERS).where(WORKERS.c.name == worker).values(
                    beats=WORKERS.c.beats + 1)).rowcount:
                connection.execute(sql.insert(WORKERS).values(name=worker, slots=slots, beats=1))
            if claims:
                connection.execute(sql.update(JOBS).where(JOBS.c.claim.in_(claims)).values(beats=JOBS.c.beats + 1))
        self._do(count)

    def end(self, job: Claimed, ended: Mapping[str, Any]) -> None:
        """Write how a job ended; nothing happens if it is no longer this worker's."""
        self._do(lambda connection: connection.execute(
            sql.update(JOBS).where(JOBS.c.id == job.id, JOBS.c.claim == job.claim)
            .values(state="broken" if ended["kind"] == "broken" else "done", ended=json.dumps(ended))))

    def give_back(self, worker: str, longest_s: float | None = None) -> None:
        """Let other workers have what this one runs."""
        self._do(lambda connection: connection.execute(
            sql.update(JOBS).where(JOBS.c.worker == worker, JOBS.c.state == "running")
            .values(state="waiting", claim="", worker="")), longest_s)

    def leave(self, worker: str, longest_s: float | None = None) -> None:
        """Forget a worker."""
        self._do(lambda connection: connection.execute(sql.delete(WORKERS).where(WORKERS.c.name == worker)), longest_s)
