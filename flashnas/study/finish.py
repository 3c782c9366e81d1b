"""The end of a search: times of the finalists, the answer, and the run folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.runs.front import EXPECTED_FIGURES, FRONT_FIGURES, FrontEntry, programs_of, recorded
from flashnas.runs.trial import STATES, Trial
from flashnas.search.pareto import non_dominated
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
    entries = entries_of(record, front)
    answer = None
    if expected is not None:
        baselines = [trial for trial in compared(record) if trial.origin == "baseline"]
        answer = answer_of(problem, expected, front, baselines, record.networks)
        entries = [
            dataclasses.replace(
                entry,
                figures={
                    **entry.figures,
                    "full_loss_difference": standing.difference,
                    "full_loss_difference_sd": standing.sd,
                    "probability_best": standing.best,
                },
            )
            for entry, standing in zip(entries, answer.standings, strict=True)
        ]
    written = folder.write_front(entries)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    totals = {name: record.count(name) for name in STATES}
    from_bench = sum(trial.state == "complete" and trial.from_bench for trial in record.trials)
    seconds = time.monotonic() - problem.started
    folder.write_finished(seconds, {**totals, "from_bench": from_bench, "tokens": record.tokens()})
    return folder.summary(written, failures)


# -- the front -------------------------------------------------------------------------------------


def front_of(record: Record) -> list[Trial]:
    """The trials of the non-dominated networks, and of those that are so with the recall that is
    kept, fastest first. Raises RunError where nothing has a score."""
    problem = record.problem
    points = {
        trial.hash: (trial, values)
        for trial in compared(record)
        if (values := record.values_of(trial)) is not None
    }
    scored = list(points.values())
    if not scored:
        reasons = "; ".join(sorted(record.failures())) or "none tried"
        raise RunError(f"{record.folder.path}: no candidate could be trained; reasons: {reasons}")
    floor = problem.config.recall_floor
    keeping = []
    if problem.scorer is not None:
        keeping = [entry for entry in scored if (entry[0].expected_recall or 0.0) >= floor]
    best = {}
    for group in (scored, keeping):
        mask = non_dominated(np.array([values for _, values in group])) if group else ()
        for (trial, _), keep in zip(group, mask, strict=True):
            if keep:
                best[trial.hash] = trial
    return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))


def compared(record: Record) -> list[Trial]:
    """The trials that have what ranks: a score, or what a scorer expects."""
    states = ("complete",) if record.problem.scorer is None else ("complete", "expected")
    return [trial for trial in record.trials if trial.state in states]


def entries_of(record: Record, front: Sequence[Trial]) -> list[FrontEntry]:
    """The entries of the front, with times and what they miss where the device is at hand."""
    problem = record.problem
    times: dict[str, dict[str, float]] = {}
    if problem.model is not None and problem.limits.timing is not None:
        times = _times(record, front)
    return [_entry(record, trial, times.get(trial.hash)) for trial in front]


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


def _entry(record: Record, trial: Trial, times: dict[str, float] | None) -> FrontEntry:
    network, problem = record.networks[trial.hash], record.problem
    certificate = problem.limits.certificate
    figures = {**{name: getattr(trial, name) for name in FRONT_FIGURES}, **trial.scores}
    if trial.full_loss is not None:
        figures.update({name: getattr(trial, name) for name in EXPECTED_FIGURES})
    if certificate and problem.model is not None:
        figures["bound_ms"] = certificate.bound(problem.model.estimate(network), "latency_ms")
    over = None
    if times is not None:
        from flashnas.profiling.finalists import missed  # loads torch

        figures.update(
            {
                "measured_" + name.removeprefix("latency_"): times[name]
                for name in ("latency_ms", "ttft_ms", "tpot_ms")
            }
        )
        over = tuple(missed(times, problem.config.bounds))
    return FrontEntry(
        notation=trial.notation,
        hash=trial.hash,
        architecture=recorded(network),
        figures=figures,
        missed=over,
        runs_in=programs_of(network),
        origin={"number": trial.number, "label": trial.label or "search"},
        **problem.costs.details(network),
    )
