"""A worker of searches with `--executor storage`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flashnas.api.calling import Figures, silent, takes
from flashnas.base.errors import ConfigError
from flashnas.base.hints import first_line
from flashnas.base.settings import MAX_THREADS, REQUIRED, Settings, option
from flashnas.executors.local import MIN_MEMORY_GB


@dataclass(frozen=True, kw_only=True)
class WorkerOptions(Settings, where="worker"):
    storage: str = option(REQUIRED, "database of the searches, as their --storage names it", metavar="URL")
    workers: int | None = option(
        None, "jobs side by side, each in a process with one thread or one GPU", metavar="N",
        shown="all cores, or all GPUs", min=1, max=MAX_THREADS)
    processes_per_candidate: int = option(
        1, "processes with a thread or a GPU each that a job may have, as its search names them", metavar="N",
        min=1, max=MAX_THREADS)
    worker_memory_gb: float | None = option(
        None, "memory of one process; a candidate that needs more fails", metavar="GB", min=MIN_MEMORY_GB,
        max=1e6)
    idle_timeout: float | None = option(
        None, "end after S seconds without a job", metavar="S", shown="never", min=0, max=1e9)
    evaluators: tuple[str, ...] = option(
        (), "module:function of an evaluator that may run here; may be repeated", flag="--evaluator",
        metavar="NAME", yaml=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.evaluators:
            module, _, function = name.partition(":")
            if not module or not function.isidentifier():
                self.wrong("evaluators", f"must be module:function; got {name!r:.80}")


@takes(WorkerOptions)
def worker(options: WorkerOptions, *, note: Callable[[str], None] = silent) -> Figures:
    """Train what searches with `--executor storage` enqueue and suits this machine, until it is interrupted.

    Returns:
        Figures: `jobs`, how many ended here.
    """
    from flashnas.base.process import terminate_as_interrupt
    from flashnas.executors import Work
    from flashnas.executors.job import run_job
    from flashnas.executors.local import LocalOptions
    from flashnas.executors.worker import Worker
    from flashnas.training.trainer import visible_devices

    work = Work(function=run_job, timeout_s=0.0, workers=options.workers, devices=visible_devices(),
                processes=options.processes_per_candidate, note=note)
    for name in options.evaluators:
        _check_evaluator(name)
    with terminate_as_interrupt():
        serving = Worker(options.storage, work, LocalOptions(worker_memory_gb=options.worker_memory_gb),
                         evaluators=options.evaluators, idle_timeout_s=options.idle_timeout)
        count = serving.pool.workers * work.processes
        places = f"{count} GPUs" if work.devices else f"{count} processes"
        note(f"worker {serving.name} waits for jobs of {serving.queue.place} with {places}")
        return Figures({"jobs": serving.serve()}, lambda values: f"no job left; {values['jobs']} ended here")


def _check_evaluator(name: str) -> None:
    from flashnas.base.registry import load_object

    try:
        value = load_object(name)
    except (Exception, SystemExit) as error:  # of the user's module
        raise ConfigError(f"evaluator {name} cannot be imported here: {type(error).__name__}:"
                          f" {first_line(error)}") from None
    if not callable(value):
        raise ConfigError(f"evaluator {name} must be a function; got {type(value).__name__}")
