"""The whole flow on one page: space -> architecture -> latency -> short training -> search -> front.

A cycle of candidates is drawn together, fitted in width to the budgets, evaluated where it is new, and told
in the order drawn: the trajectory does not depend on workers or interruptions. A continued run replays its
trajectory; what its database holds is not evaluated again. What a bench was grown with, or an earlier run
trained, by the same recipe, text and seed is not trained. An asynchronous search has no cycles:
`flashnas.study.asynchronous`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flashnas.base.process import terminate_as_interrupt
from flashnas.base.registry import foreign_errors
from flashnas.executors import Executor
from flashnas.executors.job import UserEvaluator
from flashnas.latency.costs import CostFunction
from flashnas.latency.table import LatencyTable
from flashnas.latency.workload import Workload
from flashnas.runs.folder import RunFolder, check_out
from flashnas.runs.snapshot import Progress
from flashnas.search import SearchAlgorithm
from flashnas.space import SearchSpace
from flashnas.study.asynchronous import Asynchronous
from flashnas.study.config import SearchConfig
from flashnas.study.cycles import Cycles
from flashnas.study.finish import answer_by_evidence, finish
from flashnas.study.loop import State, search
from flashnas.study.opening import executor_of, identity_of, run_facts, side_by_side
from flashnas.study.prepare import prepare
from flashnas.study.question import Question
from flashnas.study.record import Record
from flashnas.training.recipe import Recipe


def run_search(config: SearchConfig, out: Path, *, resume: bool, progress: Progress, command: str = "",
               evaluator: UserEvaluator | None = None, space: SearchSpace[Any] | None = None,
               table: LatencyTable | CostFunction | None = None, workload: Workload | None = None,
               recipe: Recipe | None = None, sampler: type[SearchAlgorithm] | None = None) -> dict[str, Any]:
    """Search, and leave a run folder.

    Objects take the place of the names in `config`. A space whose networks are not `flashnas.Architecture`
    (see `flashnas.space.base`) needs an `evaluator`, and no latency table: `config.table` is None, or `table`
    is a function of the user's. Where neither gives metrics, the evaluator returns them with the loss, and
    budgets are not possible.

    Args:
        config: what is asked.
        out: the run folder.
        resume: continue the run in `out` if there is one; else an existing run is an error.
        progress: shows the run.
        command: the command line, for run.yaml.
        evaluator: network -> loss (lower is better), or a mapping with `loss` and further scores or metrics
            (`latency_ms`, `memory_gb`, ..). It scores networks in place of a training, in worker processes if
            it and the networks can be imported there, else in this process, without limits. What it raises is
            the reason of a failed trial, except ImportError and OSError, which stop the search. With
            `fidelities`, rungs are possible, and with an argument `seed`, seeds
            (`flashnas.executors.job.UserEvaluator`).
        space: in place of `config.space`.
        table: in place of `config.table`: a LatencyTable, or a function network -> latency_ms or mapping of
            metrics.
        workload: in place of `config.workload`.
        recipe: in place of `config.recipe`.
        sampler: a class in place of `config.sampler`.

    Returns:
        The object of `flashnas search --json`: run, front, trials (counts by state), from_bench (of the
        complete ones, those whose score a bench or an earlier run had), failures (reason -> count), seconds,
        and what `flashnas.study.record.Record.tokens` counts.

    Raises:
        FlashnasError: in one line, for whatever the user can change.
    """
    check_out(out, resume=resume)
    with terminate_as_interrupt():
        question = prepare(config, note=progress.note, evaluator=evaluator, space=space, table=table,
                           workload=workload, recipe=recipe, sampler=sampler)
        return _searched(question, out, resume, progress, command)


def _searched(question: Question, out: Path, resume: bool, progress: Progress, command: str) -> dict[str, Any]:
    with (_place_of_a_full_disk(out),
          foreign_errors(("progress object", progress), *question.foreign(), direct=False)):
        executor = executor_of(question, progress.note)
        with opened(question, executor, out, resume=resume, progress=progress, command=command) as state, executor:
            for line in (*question.notes, *question.evidence_lines()):
                progress.note(line)
            if question.config.trials:
                search(state, executor.flow())
            else:
                answer_by_evidence(state)
            return finish(state, executor)


@contextlib.contextmanager
def opened(question: Question, executor: Executor, out: Path, *, resume: bool, progress: Progress, command: str,
           kind: type[State] | None = None) -> Iterator[State]:
    """The state of a search with its folder, before the first evaluation; kind: None: as the question
    asks."""
    config = question.config
    with RunFolder(out, identity=identity_of(question), facts=run_facts(question, out, command, executor),
                   resume=resume, storage=config.storage, note=progress.note) as folder:
        record = Record(question, folder, progress, side_by_side(question, executor, progress.note))
        yield (kind or (Asynchronous if config.asynchronous else Cycles))(record)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """Within the block, an error of a full disk that names no file, as those of libraries, names the run
    folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error
