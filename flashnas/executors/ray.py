"""Jobs as tasks of a Ray cluster, or of a Ray that is started on this machine.

A task is a supervisor: it runs its candidate in a process of its own, as the local executor does,
so that time limit, memory limit and crashes are the same everywhere. The prepared text travels once
to each machine that does not have it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import signal
import socket
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import flashnas
from flashnas.base.errors import ConfigError, CorpusError, WorkerError
from flashnas.base.settings import option
from flashnas.base.system import usable_cores
from flashnas.base.text import first_line
from flashnas.executors.attempt import classify_error
from flashnas.executors.base import Ended, Executor, Work
from flashnas.executors.local import NO_LIMIT_ON_GPUS, LocalExecutor, LocalOptions

ANSWER_S = 5.0  # until a machine must have accepted a connection
CLIENT_PORT = 10001  # of ray://HOST
LOCAL_STARTS = 3  # of a Ray here, which gives up after 30 s, and a busy machine needs longer


@dataclass(frozen=True, kw_only=True)
class RayOptions(LocalOptions, where="executor"):
    address: str | None = option(
        None,
        "of the cluster: HOST:PORT, ray://HOST:PORT, auto or local",
        shown="RAY_ADDRESS, or a Ray of this machine's own",
        yaml=False,
    )
    cpus: float = option(
        1.0,
        "CPUs that the cluster reserves for a candidate; a training computes on one thread",
        above=0,
        max=1024,
    )
    gpus: float | None = option(
        None,
        "GPUs of one candidate; below 1 several candidates share one",
        above=0,
        max=1,
        shown="1 for a recipe on cuda",
    )


class RayExecutor(Executor):
    """Tasks of a Ray cluster: `--executor-option address=HOST:PORT`, or a Ray of this machine's
    own.
    """

    name = "ray"
    Options = RayOptions
    options: RayOptions

    def __init__(self, work: Work, options: RayOptions | None = None) -> None:
        super().__init__(work, options or RayOptions())
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"executor ray needs the package {error.name}: pip install 'flashnas[ray]'"
            ) from None
        if self.gpus and self.options.worker_memory_gb is not None:
            raise ConfigError(NO_LIMIT_ON_GPUS)
        self._ray = ray
        self._task: Any = None
        self._refs: dict[Any, str] = {}  # of tasks that have not ended, in the order of submission
        self._dropped: list[Any] = []
        self._waiting: deque[tuple[str, bytes]] = deque()  # jobs beyond `--workers`
        # reference to the prepared text; in a list, Ray does not resolve it
        self._text: list[Any] = []

    @property
    def gpus(self) -> float:
        """Of one candidate."""
        return self.options.gpus or (1.0 if self.work.gpu else 0.0)

    @property
    def workers(self) -> int:
        if not self._ray.is_initialized():
            return self.work.workers or len(self.work.devices) or usable_cores()
        have = self._ray.cluster_resources()
        by_cpus = have.get("CPU", 0.0) / self.options.cpus
        count = max(
            1, int(min(by_cpus, have.get("GPU", 0.0) / self.gpus) if self.gpus else by_cpus)
        )
        return min(count, self.work.workers or count)

    @property
    def address(self) -> str | None:
        """Of the cluster; None: a Ray of this machine's own."""
        named = self.options.address or os.environ.get("RAY_ADDRESS")
        return None if named == "local" else named

    def check(self, job: Any) -> None:
        if self.address:
            check_address(self.address)

    def _start(self) -> None:
        """Connect to the cluster, or start one here; raises WorkerError if there is none."""
        ray, address = self._ray, self.address
        if address:
            check_address(address)
            self.work.note(f"executor ray: connecting to {address}")
        more: dict[str, Any] = {"address": address}
        if not address:
            needed = int((self.work.workers or 1) * self.options.cpus)
            more = {
                "address": "local",  # not one that somebody has started here
                "num_cpus": max(1 if self.work.workers else usable_cores(), needed),
                "include_dashboard": False,
            }
        main = threading.current_thread() is threading.main_thread()
        terminated = signal.getsignal(signal.SIGTERM)
        for left in reversed(range(1 if address else LOCAL_STARTS)):
            try:
                ray.init(logging_level="ERROR", log_to_driver=False, namespace="flashnas", **more)
                break
            except Exception as error:
                # Ray raises ConnectionError, ValueError, RuntimeError and its own
                ray.shutdown()
                if not left:
                    raise WorkerError(
                        f"executor ray: {address or 'a Ray of this machine'} cannot be reached:"
                        f" {first_line(error)}"
                    ) from None
            finally:
                if main:
                    # Ray takes the signal, and would end without a word
                    signal.signal(signal.SIGTERM, terminated)
        self._task = ray.remote(_supervise).options(
            num_cpus=self.options.cpus,
            num_gpus=self.gpus,
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        if self.work.dataset:
            self._text = [
                ray.put(
                    {
                        file.name: file.read_bytes()
                        for file in sorted(Path(self.work.dataset).iterdir())
                    }
                )
            ]
        have = ray.cluster_resources().get("GPU", 0.0)
        if have < self.gpus:
            self.work.note(
                f"the Ray cluster has {have:g} GPUs, and a candidate needs {self.gpus:g}; waiting"
                " for more"
            )

    def submit(self, key: str, job: Any) -> None:
        from ray import cloudpickle

        if self._task is None:
            self._start()
        self._cancel()
        self._waiting.append((key, cloudpickle.dumps((self.work.function, job))))
        self._fill()

    def _fill(self) -> None:
        """Hand Ray what waits, within `--workers`; without it the cluster decides what runs."""
        while self._waiting and (self.work.workers is None or len(self._refs) < self.work.workers):
            key, data = self._waiting.popleft()
            ref = self._task.remote(
                data,
                self._text,
                flashnas.__version__,
                self.work.timeout_s,
                self.options.worker_memory_gb,
            )
            self._refs[ref] = key

    def finished(self, wait_s: float) -> list[tuple[str, Ended]]:
        refs = list(self._refs)
        ready, _ = self._ray.wait(refs, num_returns=1, timeout=wait_s)
        if ready:
            ready, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        outcomes = [(self._refs.pop(ref), self._outcome(ref)) for ref in refs if ref in set(ready)]
        self._fill()
        return outcomes

    def _outcome(self, ref: Any) -> Ended:
        errors = self._ray.exceptions
        try:
            return Ended(**self._ray.get(ref))
        except errors.OutOfMemoryError as error:
            return Ended(kind="memory", reason=f"Ray ended it: {first_line(error)}")
        except errors.RayTaskError as error:
            # in the supervisor: flashnas is missing there, or another one
            return classify_error(error.cause or error)
        except errors.RuntimeEnvSetupError as error:
            return Ended(kind="broken", reason=first_line(error))
        except errors.RayError as error:  # the worker process, the machine, or the object on it
            return Ended(kind="died", reason=f"machine or worker lost ({type(error).__name__})")

    def drop(self) -> None:
        self._waiting.clear()
        self._dropped += self._refs
        self._refs.clear()
        if self.address:
            self._cancel()

    def _cancel(self) -> None:
        """End what was dropped. In a Ray of our own only before it goes on, since it ends with its
        tasks: Ray itself aborts at a task that ends in the moment in which it is cancelled."""
        while self._dropped:
            self._ray.cancel(self._dropped.pop(), force=True)

    def close(self) -> None:
        if self._task is not None:
            self.drop()
            self._ray.shutdown()
            self._dropped.clear()
            self._task = None


def check_address(address: str) -> None:
    """Raise ConfigError if nothing answers at HOST:PORT or ray://HOST:PORT within ANSWER_S; other
    addresses are not checked. Ray itself tries for many minutes, without a word."""
    kind, _, place = address.rpartition("://")
    if address == "auto" or kind not in ("", "ray"):
        return
    try:
        parts = urlsplit(f"//{place}")
        host = parts.hostname
        port = parts.port or (CLIENT_PORT if kind else None)
    except ValueError:  # the port is not a number
        host = port = None
    if not host or not port:
        raise ConfigError(
            f"executor ray: address must be HOST:PORT, ray://HOST:PORT, auto or local; got"
            f" {address!r}"
        )
    try:
        socket.create_connection((host, port), timeout=ANSWER_S).close()
    except (OSError, UnicodeError) as error:
        reason = f"within {ANSWER_S:g} s" if isinstance(error, TimeoutError) else first_line(error)
        raise ConfigError(f"executor ray: address {address} does not answer: {reason}") from None


# -- on the machine of a task ----------------------------------------------------------------------

# of this process, which Ray uses for several tasks without a GPU
_pools: dict[tuple[float, float | None], LocalExecutor] = {}


def _supervise(
    data: bytes,
    text: Sequence[Any],
    version: str,
    timeout_s: float,
    memory_gb: float | None,
) -> dict[str, Any]:
    """Run one job in a process below this one; returns the fields of its Ended, which any version
    can read.
    """
    if version != flashnas.__version__:
        reason = (
            f"{socket.gethostname()} has flashnas {flashnas.__version__}, and the search {version}"
        )
        return vars(Ended(kind="broken", reason=reason))
    from ray import cloudpickle

    try:
        function, job = pickle.loads(data)
        if getattr(job, "dataset", ""):
            data = cloudpickle.dumps(
                (function, dataclasses.replace(job, dataset=_text_here(job.dataset, text)))
            )
    except BaseException as error:
        return vars(classify_error(error))
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    limits = timeout_s, memory_gb
    pool = None if gpus else _pools.get(limits)
    if pool is None:
        pool = LocalExecutor(
            Work(
                function=function, timeout_s=timeout_s, workers=1, devices=(gpus,) if gpus else ()
            ),
            LocalOptions(worker_memory_gb=memory_gb),
        )
        if not gpus:
            _pools[limits] = pool
    pool.submit_pickled("task", data)
    try:
        while not (ended := pool.finished(1.0)):
            pass
    finally:
        # a process that has ended its job keeps gigabytes of a GPU, which Ray gives to another task
        pool.close() if gpus else pool.drop()
    return vars(ended[0][1])


def _text_here(folder: str, text: Sequence[Any]) -> str:
    """The prepared text on this machine: where the search has it, in the cache, or written there
    now.
    """
    import ray

    from flashnas.data.dataset import Dataset, cached_dataset, dataset_in_cache

    with contextlib.suppress(CorpusError):
        return str(Dataset.find(folder).folder)
    files: Mapping[str, bytes] = ray.get(text[0])
    with dataset_in_cache(here := cached_dataset(Path(folder).name)) as fresh:
        for name, content in files.items():
            (fresh / name).write_bytes(content)
    return str(here)
