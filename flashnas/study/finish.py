"""The end of a search: times of the finalists, the answer, and the run folder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.runs.answer import Answer
from flashnas.runs.front import EXPECTED_FIGURES, FRONT_FIGURES, FrontEntry, programs_of, recorded
from flashnas.runs.trial import STATES, Trial
from flashnas.search.pareto import non_dominated
from flashnas.study.answer import answer_of
from flashnas.study.loop import IDLE_CYCLES, Loop


def finish(loop: Loop) -> dict[str, Any]:
    """Write the front and the totals; returns the object of `search --json`. Raises RunError if no
    network could be evaluated."""
    record, folder = loop.record, loop.folder
    note = record.progress.note
    if loop.exhausted:
        note(
            f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the"
            " budget"
        )
    failures = record.failures()
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    entries = entries_of(loop)
    answer = _answer(loop)
    if answer is not None:
        beside = {
            standing.hash: {
                "full_loss_difference": standing.difference,
                "full_loss_difference_sd": standing.sd,
                "probability_best": standing.best,
            }
            for standing in answer.standings
        }
        entries = [
            dataclasses.replace(entry, figures={**entry.figures, **beside.get(entry.hash, {})})
            for entry in entries
        ]
    front = folder.write_front(entries)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    totals = {name: record.count(name) for name in STATES}
    from_bench = sum(trial.state == "complete" and trial.from_bench for trial in record.trials)
    seconds = time.monotonic() - loop.question.started
    folder.write_finished(seconds, {**totals, "from_bench": from_bench, "tokens": record.tokens()})
    return folder.summary(front, failures)


def _answer(loop: Loop) -> Answer | None:
    """None where full trainings do not rank."""
    question, record, told = loop.question, loop.record, loop.question.foretold
    if question.foresight is None or told is None:
        return None
    best = told.best(question.config.recall_floor)
    return answer_of(
        question.foresight,
        front_of(loop),
        [trial for trial in compared(loop) if trial.origin == "baseline"],
        record.networks,
        min_recall=question.config.recall_floor,
        budget_ms=question.config.budgets.get("latency_ms"),
        before="" if best is None else told.networks[best].notation,
        untrained=[
            told.networks[place]
            for place in told.front(question.config.recall_floor)
            if told.networks[place].hash not in record.outcomes
        ],
    )


# -- the front -------------------------------------------------------------------------------------


def front_of(loop: Loop) -> list[Trial]:
    """The trials of the non-dominated networks, and of those that are so with the recall that is
    kept, fastest first; raises RunError where nothing has a score."""
    question, record = loop.question, loop.record
    scored = [
        (trial, values)
        for trial in compared(loop)
        if (values := record.values_of(trial)) is not None
    ]
    if not scored:
        reasons = "; ".join(sorted(record.failures())) or "none tried"
        raise RunError(f"{loop.folder.path}: no candidate could be trained; reasons: {reasons}")
    keeping = (
        []
        if question.foresight is None
        else [
            (trial, values)
            for trial, values in scored
            if (trial.expected_recall or 0.0) >= question.config.recall_floor
        ]
    )
    best = {
        trial.hash: trial
        for some in (scored, keeping)
        if some
        for (trial, _), keep in zip(
            some, non_dominated(np.array([values for _, values in some])), strict=True
        )
        if keep
    }
    return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))


def compared(loop: Loop) -> list[Trial]:
    scored = "complete" if loop.question.config.trials else "expected"
    return [trial for trial in loop.record.trials if trial.state == scored]


def entries_of(loop: Loop) -> list[FrontEntry]:
    """The entries of the front, with times and what they miss where the device is at hand."""
    front, question = front_of(loop), loop.question
    times: dict[str, dict[str, float]] = {}
    if question.model is not None and question.timing is not None:
        times = _times(loop, front)
    return [_entry(loop, trial, times.get(trial.hash)) for trial in front]


def _times(loop: Loop, front: Sequence[Trial]) -> dict[str, dict[str, float]]:
    """Times of the networks of the front; those that were not timed before are timed now."""
    from flashnas.profiling.finalists import measure_finalists  # loads torch

    question, folder, note = loop.question, loop.folder, loop.record.progress.note
    networks = [
        loop.record.networks[trial.hash] for trial in front if trial.hash not in folder.measured
    ]
    if networks:
        assert question.model is not None
        note(
            f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
            f" {question.model.table.device.label}"
        )
        folder.remember_measured(measure_finalists(networks, question.model, question.timing, note))
    return folder.measured


def _entry(loop: Loop, trial: Trial, times: dict[str, float] | None) -> FrontEntry:
    network, question = loop.record.networks[trial.hash], loop.question
    certificate = question.certificate
    figures = {**{name: getattr(trial, name) for name in FRONT_FIGURES}, **trial.scores}
    if trial.full_loss is not None:
        figures.update({name: getattr(trial, name) for name in EXPECTED_FIGURES})
    if certificate and question.model is not None:
        figures["bound_ms"] = certificate.bound(question.model.estimate(network), "latency_ms")
    over = None
    if times is not None:
        from flashnas.profiling.finalists import missed  # loads torch

        figures.update(
            {
                "measured_" + name.removeprefix("latency_"): times[name]
                for name in ("latency_ms", "ttft_ms", "tpot_ms")
            }
        )
        over = tuple(missed(times, question.config.bounds))
    return FrontEntry(
        notation=trial.notation,
        hash=trial.hash,
        architecture=recorded(network),
        figures=figures,
        missed=over,
        runs_in=programs_of(network),
        origin={"number": trial.number, "label": trial.label or "search"},
        **question.costs.details(network),
    )
