"""The end of a search: the front, times of the finalists, the answer, and the run folder."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.algorithms.objectives import non_dominated
from flashnas.algorithms.trial import STATES, Trial
from flashnas.base.errors import RunError
from flashnas.run_folder.front import programs_of
from flashnas.run_folder.recorded_answer import Answer, Bought
from flashnas.study.answer import answer_of
from flashnas.study.explore import Explored
from flashnas.study.limits import load_timing
from flashnas.study.record import Record

MAX_FRONT = 12  # networks of a front that nothing was trained for
COMPARED = ("complete", "expected")  # states of trials that have what ranks


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
    record.write()
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


# -- the front -------------------------------------------------------------------------------------


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
    with what was measured where the device is at hand."""
    problem = record.problem
    times = _times(record, front, note)
    finalists = []
    for trial in front:
        further: dict[str, Any] = {**problem.costs.details(trial.architecture)}
        if (measured := times.get(trial.hash)) is not None:
            for name in ("latency_ms", "ttft_ms", "tpot_ms"):
                further["measured_" + name.removeprefix("latency_")] = measured[name]
            further["missed"] = tuple(
                budget.metric
                for budget in problem.config.bounds
                if budget.metric in measured and not budget.holds(measured[budget.metric])
            )
        runs_in = programs_of(trial.architecture)
        finalists.append(dataclasses.replace(trial, runs_in=runs_in, **further))
    return finalists


def _times(
    record: Record, front: Sequence[Trial], note: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """Times of the networks of the front where the device is at hand and something was trained;
    those that were not timed before are timed now."""
    problem, folder = record.problem, record.folder
    if problem.model is None or problem.trainings is None:
        return {}
    timing = load_timing(problem.config, problem.model)
    if timing is None:
        return {}
    from flashnas.profiling.finalists import measure_finalists  # loads torch

    measured = folder.measured
    networks = [trial.architecture for trial in front if trial.hash not in measured]
    if networks:
        note(
            f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
            f" {problem.model.table.device.label}"
        )
        folder.remember_measured(measure_finalists(networks, problem.model, timing, note))
    return folder.measured
