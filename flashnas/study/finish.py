"""What came of a search: its front, its answer, and what the run folder holds of them."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.algorithms.trial import STATES, Trial, non_dominated
from flashnas.architecture import Architecture
from flashnas.base.errors import RunError
from flashnas.families.programs import loading
from flashnas.run_folder.recorded_answer import Answer, Bought
from flashnas.study.answer import answer_of, value_of
from flashnas.study.as_good import beside_model
from flashnas.study.dense_or_sparse import dense_or_sparse
from flashnas.study.explore import WORST_NATS, Explored
from flashnas.study.record import Record
from flashnas.study.rivals import rivals_of

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
    rivals = add_expected(record, explored)
    folder.write_trials(record.trials)
    failed = Counter(trial.reason for trial in record.trials if trial.state == "failed")
    failures = dict(failed.most_common())
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    front = front_of(record, explored)
    finalists = finalists_of(record, front, note)
    answer = None
    if explored is not None:
        assert record.scorer is not None
        answer = dataclasses.replace(
            answer_of(problem, record.scorer, explored, front, rivals, purchases),
            dense_or_sparse=dense_or_sparse(problem, record.scorer, explored),
            as_good=beside_model(problem, explored.networks[explored.best]),
        )
        finalists = [
            dataclasses.replace(
                trial,
                full_loss_difference=standing.difference,
                full_loss_difference_sd=standing.sd,
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


def add_expected(record: Record, explored: Explored | None) -> dict[str, Trial]:
    """Trials of the networks that the recommended one is compared with, by title, and of the front,
    as far as they have none. Returns the former, the best one first."""
    if explored is None or not explored.networks:
        return {}
    if record.problem.each:  # the baselines were trained
        return {
            trial.label: trial
            for trial in record.trials
            if trial.origin == "baseline" and trial.state in COMPARED
        }
    best = rivals_of(record.problem, record.scorer, explored)
    proposed = [
        Trial.of(network, genotype=genotype, origin="baseline", label=title)
        for title, (genotype, network) in best.items()
    ]
    shown = explored.take(explored.spread(MAX_FRONT))
    for genotype, network in zip(shown.genotypes, shown.networks, strict=True):
        proposed.append(Trial.of(network, genotype=genotype))
    for trial in (*proposed, *record.problem.likely):
        if trial.hash not in record.recorded:
            record.add(trial)
    trials = {trial.hash: trial for trial in record.trials if trial.state in COMPARED}
    return {
        title: trials[network.hash]
        for title, (_, network) in best.items()
        if network.hash in trials  # its training may have failed
    }


def front_of(record: Record, explored: Explored | None) -> list[Trial]:
    """The trials of the networks that no other one beats in all objectives, fastest first, of those
    with the recall that is asked for. The recommended network stands for all that are as good, and
    those that are worse by more than WORST_NATS are left out. Raises RunError where nothing has a
    score."""
    problem = record.problem
    scored = {
        trial.hash: trial
        for trial in record.trials
        if trial.state in COMPARED
        and trial.values is not None
        and (trial.expected_recall is None or trial.expected_recall >= problem.min_recall)
        # networks of other spaces stand beside the front
        and (problem.each or trial.origin != "baseline" or trial.genotype is not None)
    }
    if not scored:
        reasons = {trial.reason for trial in record.trials if trial.state == "failed"}
        raise RunError(
            f"{record.folder.path}: no candidate could be trained; reasons:"
            f" {'; '.join(sorted(reasons)) or 'none tried'}"
        )
    named = {trial.hash for trial in problem.likely}
    if explored is not None:
        best = explored.networks[explored.best].hash
        named.add(best)
        level = value_of(scored[best])
        further = len(problem.objectives) > 2  # in which one that is as good may be better
        worst = np.inf if problem.each else level + WORST_NATS  # of short trainings all are shown
        scored = {
            key: trial
            for key, trial in scored.items()
            if key in named or further or level < value_of(trial) <= worst
        }
    trials = list(scored.values())
    mask = non_dominated(np.array([trial.values for trial in trials]))
    front = [trial for trial, keep in zip(trials, mask, strict=True) if keep or trial.hash in named]
    return sorted(front, key=lambda trial: (trial.latency_ms or 0, trial.number))


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
    return loading(network) if isinstance(network, Architecture) else None
