"""The end of a search: further seeds for its front, times of the finalists, the answer, and the run
folder."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from flashnas.base.errors import RunError
from flashnas.executors import Executor
from flashnas.runs.answer import Answer
from flashnas.runs.front import EXPECTED_FIGURES, FRONT_FIGURES, FrontEntry, programs_of, recorded
from flashnas.runs.trial import STATES, Trial
from flashnas.search.pareto import non_dominated
from flashnas.study.answer import answer_of
from flashnas.study.loop import IDLE_CYCLES, State
from flashnas.study.seeds import train_under_seeds

MAX_CORRECTIONS = 3      # times that the front is drawn again because timing it corrected the predictions


def finish(state: State, executor: Executor) -> dict[str, Any]:
    """Write the front and the totals; returns the object of `search --json`. Raises RunError if no network
    could be evaluated."""
    record, folder, config = state.record, state.folder, state.question.config
    note = record.progress.note
    if state.exhausted:
        note(f"nothing new in {IDLE_CYCLES} cycles: the space has no more candidates within the budget")
    failures = record.failures()
    for reason, count in failures.items():
        note(f"{count} candidate{'s' if count > 1 else ''} failed: {reason}")
    folder.remove_checkpoints()
    record.searching = False
    if further := range(config.seed + 1, config.seed + (config.seeds or 1)):
        train_under_seeds(record, executor, lambda: _to_confirm(state), further)
    entries = entries_of(state)
    for _ in range(MAX_CORRECTIONS):
        if not state.correct([entry.hash for entry in entries]):
            break
        entries = entries_of(state)
    answer = _answer(state)
    if answer is not None:
        standings = {standing.hash: standing for standing in answer.standings}
        entries = [entry if (standing := standings.get(entry.hash)) is None else
                   dataclasses.replace(entry, figures={
            **entry.figures, "full_loss_difference": standing.difference,
            "full_loss_difference_sd": standing.sd, "probability_best": standing.best}) for entry in entries]
    front = folder.write_front(entries)
    if answer is not None:
        folder.write_config(answer=answer.to_dict())
    totals = {name: record.count(name) for name in STATES}
    from_bench = sum(trial.state == "complete" and trial.from_bench for trial in record.trials)
    tokens = record.tokens()
    seconds = time.monotonic() - state.question.started
    folder.write_finished(seconds, {**totals, "from_bench": from_bench, **tokens})
    return folder.summary(front, failures)


def _to_confirm(state: State) -> list[Trial]:
    """The trials to evaluate under further seeds: the front, or, where full trainings rank, those of it that
    cannot be told from the recommended one."""
    front, answer = front_of(state), _answer(state)
    if state.question.foresight is None:
        return front
    tied = set() if answer is None else {standing.hash for standing in answer.standings if standing.tied}
    return [trial for trial in front if trial.hash in tied]


def _answer(state: State) -> Answer | None:
    """None where full trainings do not rank."""
    question, record, told = state.question, state.record, state.question.foretold
    if question.foresight is None or told is None:
        return None
    best = told.best(question.config.recall_floor)
    return answer_of(
        question.foresight, front_of(state),
        [trial for trial in compared(state) if trial.origin == "baseline"],
        record.networks, min_recall=question.config.recall_floor,
        budget_ms=question.config.budgets.get("latency_ms"),
        before="" if best is None else told.networks[best].notation,
        untrained=[told.networks[place] for place in told.front(question.config.recall_floor)
                   if told.networks[place].hash not in record.outcomes])


# -- the front -----------------------------------------------------------------------------------------------

def front_of(state: State) -> list[Trial]:
    """The trials of the non-dominated networks, and of those that are so with the recall that is kept,
    fastest first; raises RunError where nothing has a score."""
    question, record = state.question, state.record
    scored = [(trial, values) for trial in compared(state)
              if state.correction is None or question.fitter.fits_network(record.networks[trial.hash])
              if (values := record.values_of(trial)) is not None]
    if not scored:
        reasons = "; ".join(sorted(record.failures())) or "none tried"
        raise RunError(f"{state.folder.path}: no candidate could be trained; reasons: {reasons}")
    keeping = [] if question.foresight is None else [
        (trial, values) for trial, values in scored
        if (trial.expected_recall or 0.0) >= question.config.recall_floor]
    best = {trial.hash: trial for some in (scored, keeping) if some for (trial, _), keep in zip(
        some, non_dominated(np.array([values for _, values in some])), strict=True) if keep}
    return sorted(best.values(), key=lambda trial: (trial.latency_ms or 0, trial.number))


def compared(state: State) -> list[Trial]:
    scored = "complete" if state.question.config.trials else "expected"
    return [trial for trial in state.record.trials if trial.state == scored]


def entries_of(state: State) -> list[FrontEntry]:
    """The entries of the front, with times and what they miss where the device is at hand."""
    entries, question = [_entry(state, trial) for trial in front_of(state)], state.question
    if question.model is None or question.timing is None:
        return entries
    from flashnas.profiling.finalists import missed  # loads torch

    state.record.time([entry.hash for entry in entries])
    times = state.folder.measured
    return [dataclasses.replace(entry, missed=tuple(missed(times[entry.hash], question.config.bounds)),
                                figures={
        **entry.figures, **{"measured_" + name.removeprefix("latency_"): times[entry.hash][name]
                            for name in ("latency_ms", "ttft_ms", "tpot_ms")}})
            if entry.hash in times else entry for entry in entries]


def _entry(state: State, trial: Trial) -> FrontEntry:
    network, question = state.record.networks[trial.hash], state.question
    certificate = question.certificate if state.correction is None else state.correction.certificate
    figures = {**{name: getattr(trial, name) for name in FRONT_FIGURES}, **trial.scores}
    if trial.full_loss is not None:
        figures.update({name: getattr(trial, name) for name in EXPECTED_FIGURES})
    if trial.seeds is not None:
        figures.update(seeds=trial.seeds, loss_se=trial.loss_se)
    if certificate and question.model is not None:
        figures["bound_ms"] = certificate.bound(question.model.estimate(network), "latency_ms")
    return FrontEntry(notation=trial.notation, hash=trial.hash, architecture=recorded(network),
                      figures=figures, runs_in=programs_of(network),
                      origin={"number": trial.number, "label": trial.label or "search"},
                      **question.costs.details(network))
