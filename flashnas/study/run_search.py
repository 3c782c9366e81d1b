"""A search from its options to its answer: load the problem, score the networks of the space, buy
observations where that pays, and leave a run folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.algorithms.trial import STATES, Trial, non_dominated
from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.base.errors import RunError
from flashnas.base.registry import foreign_errors
from flashnas.base.system import terminate_as_interrupt
from flashnas.base.text import duration
from flashnas.executors import Executor
from flashnas.run_folder.folder import RunFolder, check_can_begin, recorded_dtype
from flashnas.run_folder.recorded_run import Answer, Bought
from flashnas.study.answer import answer_of
from flashnas.study.config import SearchConfig
from flashnas.study.explore import Explored, explore
from flashnas.study.problem import Note, Problem, load_problem
from flashnas.study.progress import Progress
from flashnas.study.record import ASKED, Record, run_head

# CPU seconds of what follows when a problem is loaded, without trainings: 5 to 6.5 in four spaces
ANSWER_CPU_S = 6.0
ANSWER_SHARE = 0.67  # of the time until the networks are scored: answer, pictures and report
MAX_FRONT = 12  # networks of a front that nothing was trained for
COMPARED = ("complete", "expected")  # states of trials that have what ranks


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
        took = AnswerTime()
        dtype = recorded_dtype(out) if resume else None
        problem = load_problem(config, dtype=dtype, **objects)
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
                return _searched(Record(problem, folder), executor, progress, took)


def _executor(problem: Problem, note: Note) -> Executor | None:
    """Where the trainings run, checked before anything is written; None where nothing is trained."""
    if problem.trainings is None:
        return None
    from flashnas.study.workers import executor_of

    return executor_of(problem.config, problem.trainings, problem.space.any_network(), note)


def _searched(
    record: Record, executor: Executor | None, progress: Progress, took: AnswerTime
) -> Finished:
    problem, explored, evaluations = record.problem, None, None
    for label, network in () if problem.each else problem.baselines:
        record.add(Trial.of(network, origin="baseline", label=label))
    if problem.trainings is not None and executor is not None:
        from flashnas.study.evaluations import Evaluations

        evaluations = Evaluations(record, problem.trainings, progress, executor)
    if not problem.each:
        progress.note(str(took))
        assert problem.scorer is not None
        explored = explore(
            problem.space,
            problem.fitter,
            problem.scorer,
            seed=problem.config.seed,
            min_recall=problem.min_recall,
        )
    for line in problem.notes:
        progress.note(line)
    if explored is not None:
        progress.note(
            f"without a training: {compressed(explored.networks[explored.best].notation)},"
            f" of {len(explored.networks):,} networks within the limits, of"
            f" {explored.tried:,} that were looked at"
        )
    purchases: list[Bought] = []
    if evaluations is not None:
        from flashnas.study.buying import buy, train_each

        with evaluations.executor:
            if explored is None:
                explored = train_each(evaluations)
            else:
                explored, purchases = buy(evaluations, explored, took.left_s)
    return finish(record, explored, purchases, progress.note)


class AnswerTime:
    """How long a search takes apart from its trainings, by what loading it took."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()

    def __str__(self) -> str:
        pace = (time.monotonic() - self._wall_s) / (time.process_time() - self._cpu_s)
        return (
            f"scoring networks; without trainings the answer takes {duration(pace * ANSWER_CPU_S)}"
        )

    @property
    def left_s(self) -> float:
        """Of the answer, once the networks are scored."""
        return ANSWER_SHARE * (time.monotonic() - self._wall_s)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error


# -- what came of it -------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search found: run.yaml, the trials in their order with the encoding of their genotypes,
    the front with its numbers, and the answer. summary: the object of `search --json`."""

    path: Path
    config: dict[str, Any]
    trials: list[Trial]
    encode: Callable[[Any], Mapping[str, Any]]
    front: list[Trial]
    answer: Answer | None
    summary: dict[str, Any]


def finish(
    record: Record,
    explored: Explored | None,
    purchases: Sequence[Bought],
    note: Callable[[str], None],
) -> Finished:
    """Write the trials, the front, the answer and the totals.

    Args:
        explored: the networks that a scorer ranks; None where an evaluator's losses rank.
        purchases: what the search trained because it was expected to improve the answer.

    Raises:
        RunError: no network could be evaluated.
    """
    problem, folder = record.problem, record.folder
    add_expected(record, explored)
    folder.write_trials(record.trials)
    failed = Counter(trial.reason for trial in record.trials if trial.state == "failed")
    failures = dict(failed.most_common())
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    front = front_of(record)
    finalists = finalists_of(record, front, note)
    answer = None
    if explored is not None:
        assert record.scorer is not None
        baselines = [
            trial
            for trial in record.trials
            if trial.origin == "baseline" and trial.state in COMPARED
        ]
        answer = answer_of(problem, record.scorer, explored, front, baselines, purchases)
        finalists = [
            dataclasses.replace(
                trial,
                full_loss_difference=standing.difference,
                full_loss_difference_sd=standing.sd,
                probability_best=standing.best,
            )
            for trial, standing in zip(finalists, answer.standings, strict=True)
        ]
    written = folder.write_front(finalists)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    done = [trial for trial in record.trials if trial.state == "complete"]
    known = sum(trial.computed_elsewhere for trial in done)
    tokens = sum(trial.tokens or 0 for trial in done if not trial.computed_elsewhere)
    totals = {name: record.count(name) for name in STATES}
    seconds = time.monotonic() - problem.started
    folder.write_finished(seconds, {**totals, "known": known, "tokens": tokens})
    summary = folder.summary(written, failures)
    return Finished(
        path=folder.path,
        config=folder.config,
        trials=record.trials,
        encode=problem.space.encode,
        front=written,
        answer=answer,
        summary=summary,
    )


def add_expected(record: Record, explored: Explored | None) -> None:
    """Trials of the networks that are expected to be the best, as far as they have none."""
    if explored is None:
        return
    for index in explored.spread(MAX_FRONT):
        network = explored.networks[index]
        if network.hash not in record.recorded:
            record.add(Trial.of(network, genotype=explored.genotypes[index]))


def front_of(record: Record) -> list[Trial]:
    """The trials of the networks that no other one beats in all objectives, fastest first, of those
    with the recall that is asked for. Raises RunError where nothing has a score."""
    problem = record.problem
    scored = {
        trial.hash: trial
        for trial in record.trials
        if trial.state in COMPARED
        and trial.values is not None
        and (trial.expected_recall is None or trial.expected_recall >= problem.min_recall)
    }
    if not scored:
        reasons = {trial.reason for trial in record.trials if trial.state == "failed"}
        raise RunError(
            f"{record.folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(reasons)) or 'none tried'}"
        )
    trials = list(scored.values())
    mask = non_dominated(np.array([trial.values for trial in trials]))
    best = [trial for trial, keep in zip(trials, mask, strict=True) if keep]
    return sorted(best, key=lambda trial: (trial.latency_ms or 0, trial.number))


def finalists_of(
    record: Record, front: Sequence[Trial], note: Callable[[str], None]
) -> list[Trial]:
    """The trials of the front with the parts of their latency and the programs that run them, and
    with what was measured where the device is at hand and something was trained."""
    problem = record.problem
    finalists = [
        dataclasses.replace(
            trial,
            runs_in=programs_of(trial.architecture),
            **problem.costs.details(trial.architecture),
        )
        for trial in front
    ]
    if problem.config.measure and problem.model is not None and problem.trainings is not None:
        from flashnas.study.timing import with_times  # loads torch

        return with_times(problem, record.folder, finalists, note)
    return finalists


def programs_of(network: Any) -> dict[str, str] | None:
    """`runs_in` of a network; None of a network of a foreign space."""
    if not isinstance(network, Architecture):
        return None
    from flashnas.formats.fitting import exports_of
    from flashnas.formats.programs import FORMATS  # loads torch

    return exports_of(network, FORMATS)
