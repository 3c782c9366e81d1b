"""The jobs of searches in a database that all machines reach: three tables, and the few statements on them.

A driver enqueues, a worker claims one job at a time; both count `beats` up while they work. Nobody compares clocks of
two machines: who waits for another watches whether its count changes. A claim is one compare-and-swap, for which
PostgreSQL skips rows that another worker holds; SQLite has one writer at a time. A job that waits without a driver is
nobody's, and any worker removes it; a driver that was only silent enqueues it again.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sql
import sqlalchemy.orm  # at once: two threads that import it on first use can meet it half imported
from sqlalchemy.exc import DBAPIError, IntegrityError, SQLAlchemyError

import flashnas
from flashnas.base.errors import WorkerError
from flashnas.base.process import uninterrupted
from flashnas.runs.outage import Patience, engine_url, shown_url

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
    "flashnas_workers_2", _TABLES,
    sql.Column("name", sql.String(255), primary_key=True),
    sql.Column("slots", sql.Integer, nullable=False),
    sql.Column("able", sql.Text, nullable=False),               # JSON, for `lacking`
    sql.Column("beats", sql.Integer, nullable=False))
DRIVERS = sql.Table(
    "flashnas_drivers_1", _TABLES,
    sql.Column("name", sql.String(64), primary_key=True),
    sql.Column("run", sql.String(64), nullable=False),          # several may ask the same question
    sql.Column("stale_s", sql.Float, nullable=False),           # one without a beat for so long is gone
    sql.Column("beats", sql.Integer, nullable=False))
NOBODYS = JOBS.c.run.not_in(sql.select(DRIVERS.c.run))


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
    version: str = flashnas.__version__


@dataclass(frozen=True)
class Claimed:
    """A job that this worker holds."""

    id: int
    claim: str
    payload: dict[str, Any]
    timeout_s: float
    stale_s: float


def lacking(job: Any, *, gpu: bool, evaluators: Sequence[str], processes: int = 1, version: str = flashnas.__version__,
            ) -> str:
    """What a job (an Order, or its row) needs that a worker with these abilities lacks, in words; empty if nothing."""
    if job.version != version:
        return f"flashnas {job.version}; the worker has {version}"
    if job.evaluator and job.evaluator not in evaluators:
        return f"the evaluator {job.evaluator}; start the worker with --evaluator {job.evaluator}"
    if job.gpu and not gpu:
        return "a GPU; the worker has none"
    if job.processes > processes:
        return (f"{job.processes} processes; the worker has {processes} for a job; start it with"
                f" --processes-per-candidate {job.processes}")
    return ""


class JobQueue:
    """The tables. Every method waits while the database is away.

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
        row = {"run": order.run, "digest": order.digest, "version": order.version, "evaluator": order.evaluator,
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
        """name, slots, able, beats of all that have not taken their leave."""
        found: list[Any] = self._do(lambda connection: connection.execute(sql.select(*WORKERS.c)).all())
        return found

    def sign(self, driver: str, run: str, stale_s: float) -> None:
        """Show that a driver is alive, if the database answers. The thread that reads jobs tells the user if not."""
        def count(connection: sql.Connection) -> None:
            if not connection.execute(sql.update(DRIVERS).where(DRIVERS.c.name == driver).values(
                    beats=DRIVERS.c.beats + 1)).rowcount:
                connection.execute(sql.insert(DRIVERS).values(name=driver, run=run, stale_s=stale_s, beats=1))

        with contextlib.suppress(SQLAlchemyError), self._engine.begin() as connection:
            count(connection)

    def end_driver(self, driver: str, beats: int | None = None, longest_s: float | None = None) -> None:
        """Forget a driver; with `beats`, only if it has given no sign since."""
        where = [DRIVERS.c.name == driver, *([] if beats is None else [DRIVERS.c.beats == beats])]
        self._do(lambda connection: connection.execute(sql.delete(DRIVERS).where(*where)), longest_s)

    # -- the worker's --------------------------------------------------------------------------------------------

    def claim(self, worker: str, *, gpu: bool, evaluators: Sequence[str], processes: int = 1,
              runs: Collection[str] | None = None) -> Claimed | None:
        """The oldest job that waits, of `runs`, and that this worker can run; it is then this worker's."""
        if runs is not None and not runs:
            return None
        fits = [JOBS.c.state == "waiting", JOBS.c.version == flashnas.__version__, JOBS.c.processes <= processes,
                JOBS.c.evaluator.in_(["", *evaluators]), *([] if gpu else [JOBS.c.gpu == sql.false()]),
                *([] if runs is None else [JOBS.c.run.in_(runs)])]
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

    def unfit(self, runs: Collection[str], *, gpu: bool, evaluators: Sequence[str], processes: int = 1) -> list[str]:
        """What waiting jobs of `runs` need that this worker lacks, in words."""
        columns = (JOBS.c.version, JOBS.c.evaluator, JOBS.c.gpu, JOBS.c.processes)
        rows = self._do(lambda connection: connection.execute(
            sql.select(*columns).where(JOBS.c.state == "waiting", JOBS.c.run.in_(runs)).distinct()).all())
        found = (lacking(row, gpu=gpu, evaluators=evaluators, processes=processes) for row in rows)
        return sorted(filter(None, found))

    def drivers(self) -> list[Any]:
        """name, run, stale_s, beats of all that have not ended."""
        found: list[Any] = self._do(lambda connection: connection.execute(sql.select(*DRIVERS.c)).all())
        return found

    def nobodys(self) -> list[Any]:
        """Jobs without a result and without a driver: id, state, claim, beats, stale_s."""
        columns = (JOBS.c.id, JOBS.c.state, JOBS.c.claim, JOBS.c.beats, JOBS.c.stale_s)
        found: list[Any] = self._do(lambda connection: connection.execute(
            sql.select(*columns).where(JOBS.c.state != "done", NOBODYS)).all())
        return found

    def discard(self, job: Any) -> None:
        """Delete a row of `nobodys`, if it still is one and nothing has happened to it."""
        same = [JOBS.c[name] == getattr(job, name) for name in ("id", "state", "claim", "beats")]
        self._do(lambda connection: connection.execute(sql.delete(JOBS).where(*same, NOBODYS)))

    def beat(self, worker: str, slots: int, held: Iterable[Claimed], **able: Any) -> None:
        """Show that the worker is alive, and its jobs with it. `able`: as `claim` takes it."""
        claims = [job.claim for job in held]
        said = json.dumps({"version": flashnas.__version__, **able})

        def count(connection: sql.Connection) -> None:
            if not connection.execute(sql.update(WORKERS).where(WORKERS.c.name == worker).values(
                    beats=WORKERS.c.beats + 1)).rowcount:
                connection.execute(sql.insert(WORKERS).values(name=worker, slots=slots, able=said, beats=1))
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
