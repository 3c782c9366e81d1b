"""Growing a bench: trains what the list asks for and no journal has, at low priority, one thread for each worker."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import flashnas
from flashnas.base.errors import BenchError
from flashnas.base.files import hold_lock
from flashnas.bench.journal import Header, Journal, Training, journals_in, merged
from flashnas.bench.plan import Planned
from flashnas.proxy.worker import run_candidate
from flashnas.training.recipe import Recipe

NICENESS = 10   # of the workers: everything else on the machine goes first
SCORED = ("loss", "bits_per_byte", "curve", "tokens", "tokens_per_s", "seconds", "proxy_params", "backends")

Progress = Callable[[int, int, "float | None"], None]  # trainings done, all, seconds left (None: not known yet)


class Workers(Protocol):
    """Runs jobs through `train_gently`; a WorkerPool of the room `study`."""

    def run(self, jobs: Mapping[str, Any], on_wait: Callable[[], None] | None = None,
            ) -> Iterator[tuple[str, Any]]: ...


@functools.cache
def _lower_priority() -> None:
    if hasattr(os, "nice"):  # not on Windows
        os.nice(max(0, NICENESS - os.nice(0)))


def train_gently(job: dict[str, Any]) -> dict[str, Any]:
    """`run_candidate` in a worker process whose priority is lowered once."""
    _lower_priority()
    return run_candidate(job)


def header_of(recipe: Recipe, source: str, dataset: str, vocab: int) -> Header:
    """The header of a journal that this machine starts."""
    made_by = {"flashnas": flashnas.__version__, "torch": importlib.metadata.version("torch"),
               "cpu": platform.processor() or platform.machine()}
    return Header(recipe=recipe, source=source, dataset=dataset, vocab=vocab, made_by=made_by)


def grow(planned: Sequence[Planned], folder: Path, name: str, header: Header, dataset: Path, pool: Workers,
         progress: Progress, workers: int) -> dict[str, int]:
    """Train what is missing; returns the numbers of trainings `asked`, `known` before, `trained`, `failed` and `lost`
    (their worker process died; the next call tries them again).

    Args:
        planned: the trainings, or a part of them.
        folder: of the journals; what any of them has is not trained again.
        name: file name of the journal that is written.
        header: how its networks are trained.
        dataset: the prepared text.
        pool: runs the jobs.
        progress: told after each training and about once a second.
        workers: processes of the pool, for the remaining time.

    Raises:
        BenchError: another process grows this journal, a journal is damaged or of another recipe, or a training ended
            with an error that is not a property of its network.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / f".{name}.lock", BenchError(f"{folder / name}: another process is growing this journal")):
        journal = Journal(folder / name, header)
        _, before = merged(journals_in(folder))
        known = {training.key for training in before}
        missing = {str(number): item for number, item in enumerate(planned) if item.key not in known}
        clock = _Clock(journal.trainings, workers)
        done, failed, lost = len(planned) - len(missing), 0, 0
        jobs = {key: _job(item, dataset) for key, item in missing.items()}

        def tell() -> None:
            progress(done, len(planned), clock.remaining_s(missing.values()))

        tell()
        for key, ended in pool.run(jobs, on_wait=tell):
            item, score = missing.pop(key), ended.result
            if ended.kind == "error":
                raise BenchError(f"training of {item.network.architecture.notation!r} ended with: {ended.reason};"
                                 " nothing was recorded for it, and the same command tries it again")
            if ended.kind in ("killed", "died"):
                lost += 1
            else:
                training = trained(item, score, ended.reason)
                journal.add(training)
                clock.add(training)
                done, failed = done + 1, failed + (not score)
            tell()
        return {"asked": len(planned), "known": len(planned) - len(jobs), "trained": len(jobs) - failed - lost,
                "failed": failed, "lost": lost}


def trained(item: Planned, score: Mapping[str, Any] | None, reason: str) -> Training:
    """The line of the journal for what a training ended with: a `ProxyScore.to_dict()`, or None and the reason."""
    figures: dict[str, Any] = {"reason": reason}
    if score:
        more = {name: value for name, value in score.items() if name not in (*SCORED, "seed")}
        figures = {"more": more, **{name: score[name] for name in SCORED if name in score}}
    return Training(origin=item.network.origin, architecture=item.network.architecture.notation,
                    width_factor=None if item.network.proxy else item.recipe.width_factor,
                    proxy=item.proxy.canonical().notation, seed=item.seed, **figures)


def _job(item: Planned, dataset: Path) -> dict[str, Any]:
    """The trained network itself, which is not shrunk further."""
    return {"architecture": item.proxy.to_dict(), "dataset": str(dataset),
            "recipe": replace(item.recipe, width_factor=1, depth_factor=1).to_dict(), "seed": item.seed}


class _Clock:
    """Seconds left, from the trainings of this journal: they grow with the number of operators of a network."""

    def __init__(self, trainings: Iterable[Training], workers: int) -> None:
        self.workers, self.seconds, self.operators = workers, 0.0, 0
        for training in trainings:
            self.add(training)

    def add(self, training: Training) -> None:
        if training.seconds is not None:
            self.seconds += training.seconds
            self.operators += len(training.network.operators)

    def remaining_s(self, missing: Iterable[Planned]) -> float | None:
        left = [len(item.network.architecture.operators) for item in missing]
        if not self.operators:
            return None if left else 0.0
        return sum(left) * self.seconds / self.operators / max(1, min(self.workers, len(left)))
