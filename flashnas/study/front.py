"""The front of a search: which networks it has, and what is recorded of each."""

from __future__ import annotations

import dataclasses

import numpy as np

from flashnas.base.errors import RunError
from flashnas.latency.costs import TableCosts
from flashnas.runs.front import FRONT_FIGURES, FrontEntry, recorded
from flashnas.runs.trial import Trial
from flashnas.search.objectives import point
from flashnas.search.pareto import non_dominated
from flashnas.study.foresight import FIGURES
from flashnas.study.loop import State
from flashnas.study.measuring import time_networks


def front_of(state: State) -> list[Trial]:
    """The trials of the non-dominated networks, fastest first, and of those that are so with the recall that
    is kept.

    Raises:
        RunError: nothing has a score.
    """
    question, record = state.question, state.record
    scored = [(trial, values) for trial in compared(state)
              if state.correction is None or question.fitter.fits_network(record.networks[trial.hash])
              if (values := point(question.config.objectives, vars(trial), trial.scores)) is not None]
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
    """The trials with a score, each network once."""
    wanted = "complete" if state.question.config.trials else "expected"
    return [trial for trial in state.record.trials if trial.state == wanted]


def entries_of(state: State) -> list[FrontEntry]:
    """The entries of the front, with times from the device and what they miss where it is at hand."""
    entries, question = [_entry(state, trial) for trial in front_of(state)], state.question
    if question.model is None or question.timing is None:
        return entries
    from flashnas.profiling.finalists import missed  # loads torch

    time_networks(state.record, [entry.hash for entry in entries])
    times = state.folder.measured
    return [dataclasses.replace(entry, missed=tuple(missed(times[entry.hash], question.config.bounds)),
                                figures={
        **entry.figures, **{"measured_" + name.removeprefix("latency_"): times[entry.hash][name]
                            for name in ("latency_ms", "ttft_ms", "tpot_ms")}})
            if entry.hash in times else entry for entry in entries]


def _entry(state: State, trial: Trial) -> FrontEntry:
    network, costs = state.record.networks[trial.hash], state.question.costs
    certificate = state.question.certificate if state.correction is None else state.correction.certificate
    figures = {**{name: getattr(trial, name) for name in FRONT_FIGURES}, **trial.scores}
    if trial.full_loss is not None:
        figures.update({name: getattr(trial, name) for name in FIGURES})
    if trial.seeds is not None:
        figures.update(seeds=trial.seeds, loss_se=trial.loss_se)
    if certificate and isinstance(costs, TableCosts):
        figures["bound_ms"] = certificate.bound(costs.estimate(network), "latency_ms")
    return FrontEntry(notation=trial.notation, hash=trial.hash, architecture=recorded(network),
                      figures=figures,
                      origin={"number": trial.number, "label": trial.label or "search"},
                      **costs.details(network))
