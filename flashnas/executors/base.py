"""What every executor is: it takes jobs, gives back how each ended, and one policy says what is
tried again.

A candidate's own failure is a result. A candidate whose process died, or for which memory did not
suffice, is tried once more before that is a result. A broken environment is not a result: it ends
the search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

from flashnas.base.errors import WorkerError
from flashnas.base.settings import Settings

Result = dict[str, Any]
Kind = Literal["done", "failed", "error", "memory", "killed", "died", "broken"]
RETRIED = ("memory", "killed", "died")  # once
POLL_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended.

    kind: `done`: with a result. `failed`: by the candidate's own fault. `error`: the code that
    scores it raised an error that is not about the candidate by its class. `memory`: there was not
    enough memory. `killed`: its process got SIGKILL, most often because memory was out. `died`: its
    process or its machine vanished. `broken`: no job can run where this one ran. reason: of any but
    a `done` one, in one line. reusable: False if the process that ran it must not run another job.
    """

    kind: Kind
    result: Result | None = None
    reason: str = ""
    reusable: bool = True


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a search tells its executor.

    function: runs one job; importable from a fresh process. workers: jobs that run side by side;
    None: as many as the place has room for. devices: what CUDA_VISIBLE_DEVICES names, one for each
    GPU of this machine. dataset: the prepared folder that the jobs read, or None.
    """

    function: Callable[[Any], Result]
    timeout_s: float
    workers: int | None = None
    devices: tuple[str, ...] = ()
    gpu: bool = False
    dataset: str | None = None
    note: Callable[[str], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class NoOptions(Settings, where="executor"):
    """Of an executor without options of its own."""


class Executor(ABC):
    """A place where jobs run. A subclass starts on its first job, so that continuing a finished run
    costs nothing. options: an instance of `Options`. Raises ConfigError for an option that does not
    suit this executor or this machine."""

    name: ClassVar[str] = ""
    Options: ClassVar[type[Any]] = NoOptions
    # on this machine; a job that no other process can load may run in this one
    runs_here: ClassVar[bool] = False

    def __init__(self, work: Work, options: Any) -> None:
        self.work = work
        self.options = options

    # -- what a subclass defines -------------------------------------------------------------------

    @property
    @abstractmethod
    def workers(self) -> int:
        """Jobs that run side by side, as far as that is known."""

    @abstractmethod
    def submit(self, key: str, job: Any) -> None:
        """Accept a job. Keys are unique among those that have not ended."""

    @abstractmethod
    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        """The jobs that have ended since the last call; waits up to `wait_s` seconds for the
        first.
        """

    @abstractmethod
    def drop(self) -> None:
        """Forget all jobs that have not ended."""

    def check(self, job: Any) -> None:  # noqa: B027
        """Raise ConfigError for a job of a kind that cannot run here; called before anything is
        written.
        """

    def close(self) -> None:
        """End all that was started."""
        self.drop()

    # -- what all share ----------------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(
        self,
        jobs: Mapping[str, Any],
        on_wait: Callable[[], None] | None = None,
    ) -> Iterator[tuple[str, Ended]]:
        """Yield each job's key and outcome as it finishes; `on_wait` is called about once a second
        meanwhile.

        A job that died is submitted again at once, and one that lacked memory runs again alone; the
        second failure is the outcome. Raises WorkerError if the environment of a worker is broken;
        its job has no outcome."""
        running: dict[str, Any] = {}
        tried: set[str] = set()
        alone: deque[tuple[str, Any]] = deque()  # wait until nothing else runs

        def submit(key: str, job: Any) -> None:
            self.submit(key, job)
            running[key] = job

        try:
            for key, job in jobs.items():
                submit(key, job)
            while running or alone:
                if not running:
                    submit(*alone.popleft())
                for key, end in sorted(
                    self.finished(POLL_S), key=lambda pair: pair[1].kind == "broken"
                ):
                    if end.kind == "broken":
                        raise WorkerError(
                            f"a worker cannot train: {end.reason}; nothing is recorded for that"
                            " candidate; repair that and continue, a search with --resume,"
                            " finished work is kept"
                        )
                    job = running.pop(key)
                    if end.kind not in RETRIED or key in tried:
                        yield key, end
                    elif end.kind == "died":
                        tried.add(key)
                        submit(key, job)
                    else:
                        tried.add(key)
                        alone.append((key, job))
                if on_wait:
                    on_wait()
        finally:
            if running:
                self.drop()
