"""A search from its options to its answer: load the problem, search, and leave a run folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashnas.base.registry import foreign_errors
from flashnas.base.system import NO_ROOM, terminate_as_interrupt
from flashnas.executors import Executor
from flashnas.run_folder.folder import RunFolder, check_can_begin, recorded_dtype
from flashnas.study.as_good import aimed
from flashnas.study.config import SearchConfig
from flashnas.study.finish import Finished, finish
from flashnas.study.head import ASKED, run_head
from flashnas.study.load import load_problem
from flashnas.study.loop import search
from flashnas.study.problem import Note, Problem
from flashnas.study.progress import Progress
from flashnas.study.record import RunRecord


def run_search(
    config: SearchConfig,
    out: Path,
    *,
    resume: bool,
    progress: Progress,
    command: str = "",
    **objects: Any,
) -> Finished:
    """Search, and leave a run folder.

    Args:
        resume: continue the run in `out` if there is one; else an existing run is an error.
        objects: in place of names in `config`, as `load_problem` takes them.

    Returns:
        Finished: what was found, as the run folder holds it.

    Raises:
        FlashnasError: in one line, for whatever the user can change.
    """
    check_can_begin(out, resume=resume, evaluated=objects.get("evaluator") is not None)
    with terminate_as_interrupt():
        dtype = recorded_dtype(out) if resume else None
        problem = load_problem(config, dtype=dtype, **objects)
        if config.as_good_as is not None:
            problem = aimed(problem)
        with (
            _place_of_a_full_disk(out),
            foreign_errors(("progress object", progress), *problem.foreign(), direct=False),
        ):
            executor = _executor(problem, progress.note)
            with RunFolder(
                out,
                facts=run_head(problem, out, command),
                asked=ASKED,
                resume=resume,
                encode=problem.space.encode,
            ) as folder:
                return _searched(problem, folder, executor, progress)


def _executor(problem: Problem, note: Note) -> Executor | None:
    """Where the trainings run, checked before anything is written; None where nothing is trained."""
    if problem.trainings is None:
        return None
    from flashnas.study.workers import executor_of, note_idle_workers

    executor = executor_of(problem.config, problem.trainings, problem.space.any_network(), note)
    note_idle_workers(executor, problem.config.cycle_size, note)
    return executor


def _searched(
    problem: Problem, folder: RunFolder, executor: Executor | None, progress: Progress
) -> Finished:
    record = RunRecord(problem, folder, progress)
    if problem.scorer is not None:
        progress.note("scoring networks")
    for line in problem.notes:
        progress.note(line)
    with executor or contextlib.nullcontext():
        trials = search(problem, executor, record)
    record.report(ended=True)
    return finish(record, trials)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error
