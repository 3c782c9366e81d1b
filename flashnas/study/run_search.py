"""A search from its options to its answer: load the problem, search, and leave a run folder with the
front, the answer and the totals."""

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import RunError, TableError
from flashnas.base.registry import foreign_errors
from flashnas.base.system import NO_ROOM, terminate_as_interrupt
from flashnas.base.text import counted
from flashnas.families.programs import loading
from flashnas.run_folder.folder import RunFolder, check_can_begin, started_with
from flashnas.run_folder.recorded_answer import Answer
from flashnas.study.answer import answer_of, recommended_before
from flashnas.study.comparison import differences_to
from flashnas.study.config import SearchConfig
from flashnas.study.head import ASKED, run_head
from flashnas.study.load import load_problem
from flashnas.study.loop import search
from flashnas.study.problem import Problem, proposer
from flashnas.study.record import Progress, Record
from flashnas.study.second_searches import aimed, rivals_of
from flashnas.study.trials import Trials
from flashnas.trials.pareto import thinned
from flashnas.trials.trial import STATES, Trial


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What a search found: run.yaml, the front with its numbers, and the answer. summary: the object of
    `search --json`."""

    path: Path
    config: dict[str, Any]
    front: list[Trial]
    answer: Answer | None
    summary: dict[str, Any]


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
    if config.again is not None:
        recommended_before(config.again)  # damage is said before the networks are scored
    with terminate_as_interrupt():
        problem = load_problem(config, **(started_with(out) if resume else {}), **objects)
        if config.as_good_as is not None:
            problem = aimed(problem)
        with (
            _place_of_a_full_disk(out),
            foreign_errors(("progress object", progress), *problem.foreign(), direct=False),
        ):
            executor = None
            if problem.trainings is not None:  # checked before anything is written
                from flashnas.study.trainable import executor_of

                executor = executor_of(problem, progress.note)
            with RunFolder(
                out,
                facts=run_head(problem, out, command),
                asked=ASKED,
                resume=resume,
                encode=problem.space.encode,
            ) as folder:
                record = Record(problem, folder, progress)
                scoring = () if problem.scorer is None else ("scoring networks",)
                for line in (*scoring, *problem.notes):
                    progress.note(line)
                with executor or contextlib.nullcontext():
                    trials = search(problem, executor, record)
                record.report(over=True)
                return finish(problem, folder, record, trials)


@contextlib.contextmanager
def _place_of_a_full_disk(out: Path) -> Iterator[None]:
    """An error of a full disk that names no file, as those of libraries, names the run folder."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in NO_ROOM:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(out)) from error


def finish(problem: Problem, folder: RunFolder, record: Record, trials: Trials) -> Finished:
    """Write the trials, the front, the answer and the totals.

    Raises:
        RunError: no network could be evaluated.
    """
    results = record.results.values()
    failed = Counter(result["reason"] for result in results if result["state"] == "failed")
    failures = dict(failed.most_common())
    for reason, count in failures.items():
        record.note(f"{counted(count, 'candidate')} failed: {reason}")
    if not len(trials.ranked):
        record.write(trials)
        raise RunError(
            f"{folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(failures)) or 'none tried'}"
        )
    best = None if trials.scorer is None else trials.best
    shown = list(dict.fromkeys([*trials.front, *([] if best is None else [best])]))
    rivals = rivals_of(problem, trials) if trials.ranks_by == "value" else {}
    others = {network.hash: (title, network) for title, network in rivals.items()}
    table = record.write(trials, shown, others)
    rows = {row.hash: row for row in table}
    finalists = described(problem, record, trials, [rows[trials.networks[at].hash] for at in shown])
    front = [finalists[trials.networks[index].hash] for index in trials.front]
    recommended = None if best is None else finalists[trials.networks[best].hash]
    answer = None
    if recommended is not None:
        titles = others or record.baselines
        beside = {title: rows[key] for key, (title, _) in titles.items() if rows[key].complete}
        if not others:
            beside = dict(sorted(beside.items(), key=lambda item: item[1].point))
        answer = answer_of(problem, trials, front, recommended, beside, record.acquisitions)
    written = folder.write_front(front, recommended)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    folder.write_config(
        proposed={
            "sampler": proposer(problem).name,
            "networks": trials.looked_at,
            "within": len(trials),
            **record.drawn,
        }
    )
    done = [row for row in table if row.state == "complete"]
    totals = {name: sum(row.state == name for row in table) for name in STATES}
    totals["known"] = sum(row.computed_elsewhere for row in done)
    totals["tokens"] = sum(row.tokens or 0 for row in done if not row.computed_elsewhere)
    folder.write_finished(time.monotonic() - problem.started, totals)
    return Finished(
        path=folder.path,
        config=folder.config,
        front=written,
        answer=answer,
        summary=folder.summary(written, recommended, failures),
    )


def described(
    problem: Problem, record: Record, trials: Trials, shown: Sequence[Trial]
) -> dict[str, Trial]:
    """The trials that are shown, by hash, with the parts of their latency, what loads them, where there
    is a scorer their differences to the recommended one, and what was measured of those that a table
    has."""
    networks = [trials.networks[index] for index in trials.front]
    differences = {}
    if trials.scorer is not None:
        differences = differences_to(trials.scorer, trials.networks[trials.best], networks)
    found = {}
    for trial in shown:
        network = trial.architecture
        difference, sd = differences.get(trial.hash, (None, None))
        found[trial.hash] = dataclasses.replace(
            trial,
            runs_in=loading(network) if isinstance(network, Architecture) else None,
            full_loss_difference=difference,
            full_loss_difference_sd=sd,
            **problem.costs.details(network),
        )
    if problem.config.measure and problem.model is not None and problem.trainings is not None:
        front = [found[network.hash] for network in networks]
        finalists = {each.hash: each for each in thinned(front, problem.objectives)}
        if trials.scorer is not None:
            recommended = found[trials.networks[trials.best].hash]
            finalists[recommended.hash] = recommended
        found |= with_times(problem, record, list(finalists.values()))
    return found


def with_times(problem: Problem, record: Record, finalists: Sequence[Trial]) -> dict[str, Trial]:
    """The finalists by hash, with what was measured and the budgets that they miss, where the table's
    device is at hand; those that were not timed before are timed now."""
    from flashnas.profiling.table_target import measure_finalists, target_like  # loads torch

    model, journal = problem.model, record.journal
    assert model is not None
    assert journal is not None
    try:
        target = target_like(model.table, dtype=model.dtype)
    except TableError:  # the device is not here
        return {}
    networks = [trial.architecture for trial in finalists if trial.hash not in journal.times]
    if networks:
        record.note(
            f"timing {counted(len(networks), 'network')} end to end on {model.table.device.label}"
        )
        journal.remember_times(measure_finalists(networks, model, target, record.note))
    timed = {}
    for trial in finalists:
        if (measured := journal.times.get(trial.hash)) is not None:
            timed[trial.hash] = dataclasses.replace(
                trial,
                measured_ms=measured["latency_ms"],
                measured_ttft_ms=measured["ttft_ms"],
                measured_tpot_ms=measured["tpot_ms"],
                missed=tuple(
                    budget.metric
                    for budget in problem.config.bounds
                    if budget.metric in measured and not budget.holds(measured[budget.metric])
                ),
            )
    return timed
