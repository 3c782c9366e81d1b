"""The end of a search: times of the finalists, the answer, and the run folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.algorithms.objectives import non_dominated
from flashnas.algorithms.trial import STATES, Trial
from flashnas.base.errors import RunError
from flashnas.run_folder.front import programs_of
from flashnas.study.answer import answer_of
from flashnas.study.explore import Explored
from flashnas.study.record import Record


def finish(record: Record, expected: Explored | None) -> dict[str, Any]:
    """Write the front, the answer and the totals.

    Args:
        expected: what the scorer expects of the space; None where short losses rank.

    Returns:
        The object of `search --json`.

    Raises:
        RunError: no network could be evaluated.
    """
    problem, folder, note = record.problem, record.folder, record.progress.note
    failures = record.failures()
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    front = front_of(record)
    finalists = finalists_of(record, front)
    answer = None
    if expected is not None:
        baselines = [trial for trial in compared(record) if trial.origin == "baseline"]
        answer = answer_of(problem, expected, front, baselines, record.networks.keys())
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
    totals = {name: record.count(name) for name in STATES}
    known = sum(trial.state == "complete" and trial.computed_elsewhere for trial in record.trials)
    seconds = time.monotonic() - problem.started
    folder.write_finished(seconds, {**totals, "known": known, "tokens": record.tokens()})
    return folder.summary(written, failures)


# -- the front -------------------------------------------------------------------------------------


def front_of(record: Record) -> list[Trial]:
    """The trials of the non-dominated networks, and of those that are so with the recall that is
    kept, fastest first. Raises RunError where nothing has a score."""
    problem = record.problem
    scored = list(
        {trial.hash: trial for trial in compared(record) if trial.values is not None}.values()
    )
    if not scored:
        reasons = "; ".join(sorted(record.failures())) or "none tried"
        raise RunError(f"{record.folder.path}: no candidate could be trained; reasons: {reasons}")
    floor = problem.config.recall_floor
    keeping = []
    if problem.scorer is not None:
        keeping = [trial for trial in scored if (trial.expected_recall or 0.0) >= floor]
    best: dict[str, Trial] = {}
    for group in (scored, keeping):
        mask = non_dominated(np.array([trial.values for trial in group])) if group else ()
        best |= {trial.hash: trial for trial, keep in zip(group, mask, strict=True) if keep}
    return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))


def compared(record: Record) -> list[Trial]:
    """The trials that have what ranks: a score, or what a scorer expects."""
    states = ("complete",) if record.problem.scorer is None else ("complete", "expected")
    return [trial for trial in record.trials if trial.state in states]


def finalists_of(record: Record, front: Sequence[Trial]) -> list[Trial]:
    """The trials of the front with the parts of their latency and the programs that run them, and
    with what was measured where the device is at hand."""
    problem = record.problem
    times: dict[str, dict[str, float]] = {}
    if problem.model is not None and problem.limits.timing is not None:
        times = _times(record, front)
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


def _times(record: Record, front: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Times of the networks of the front; those that were not timed before are timed now."""
    from flashnas.profiling.finalists import measure_finalists  # loads torch

    problem, folder, note = record.problem, record.folder, record.progress.note
    networks = [record.networks[trial.hash] for trial in front if trial.hash not in folder.measured]
    if networks:
        assert problem.model is not None
        note(
            f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
            f" {problem.model.table.device.label}"
        )
        folder.remember_measured(
            measure_finalists(networks, problem.model, problem.limits.timing, note)
        )
    return folder.measured
