"""A search from its options to its answer: load the problem, score the networks of the space, buy
observations where that pays, and leave a run folder.
"""

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
from flashnas.run_folder.recorded_answer import Bought
from flashnas.study.as_good import aimed
from flashnas.study.config import SearchConfig
from flashnas.study.explore import explore
from flashnas.study.finish import Finished, finish
from flashnas.study.problem import Note, Problem, load_problem
from flashnas.study.progress import Progress
from flashnas.study.record import ASKED, Record, run_head


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
                return _searched(Record(problem, folder), executor, progress)


def _executor(problem: Problem, note: Note) -> Executor | None:
    """Where the trainings run, checked before anything is written; None where nothing is trained."""
    if problem.trainings is None:
        return None
    from flashnas.study.workers import executor_of

    return executor_of(problem.config, problem.trainings, problem.space.any_network(), note)


def _searched(record: Record, executor: Executor | None, progress: Progress) -> Finished:
    problem, explored, evaluations = record.problem, None, None
    if problem.trainings is not None and executor is not None:
        from flashnas.study.evaluations import Evaluations

        evaluations = Evaluations(record, problem.trainings, progress, executor)
    if not problem.each:
        progress.note("scoring networks")
        assert problem.scorer is not None
        explored = explore(
            problem.space,
            problem.fitter,
            problem.scorer,
            seed=problem.config.seed,
            min_recall=problem.min_recall,
            objectives=problem.objectives,
            target=problem.target,
        )
    for line in problem.notes:
        progress.note(line)
    if explored is not None:
        progress.note(
            f"{len(explored.networks):,} of {explored.tried:,} networks are within the limits"
        )
    purchases: list[Bought] = []
    if evaluations is not None:
        from flashnas.study.buying import buy, train_each

        with evaluations.executor:
            if explored is None:
                explored = train_each(evaluations)
            else:
                explored, purchases = buy(evaluations, explored)
    assert explored is not None, "what no scorer ranks is trained"
    return finish(record, explored, purchases, progress.note)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error
