"""The finalists of a search as timed on the table's device, where that is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from flashnas.base.errors import TableError
from flashnas.profiling.finalists import measure_finalists  # loads torch
from flashnas.profiling.table_target import target_like
from flashnas.run_folder.folder import RunFolder
from flashnas.study.problem import Problem
from flashnas.trials.trial import Trial


def with_times(
    problem: Problem, folder: RunFolder, finalists: Sequence[Trial], note: Callable[[str], None]
) -> list[Trial]:
    """The finalists with what was measured and the budgets that they miss; those that were not timed
    before are timed now. Without the device they are returned as they are."""
    assert problem.model is not None
    try:
        timing = target_like(problem.model.table, dtype=problem.model.dtype)
    except TableError:  # the device is not here
        return [*finalists]
    journal = folder.open_journal()
    networks = [trial.architecture for trial in finalists if trial.hash not in journal.times]
    if networks:
        note(
            f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
            f" {problem.model.table.device.label}"
        )
        journal.remember_times(measure_finalists(networks, problem.model, timing, note))
    timed = []
    for trial in finalists:
        measured = journal.times.get(trial.hash)
        if measured is not None:
            further: dict[str, Any] = {
                "measured_" + name.removeprefix("latency_"): measured[name]
                for name in ("latency_ms", "ttft_ms", "tpot_ms")
            }
            missed = tuple(
                budget.metric
                for budget in problem.config.bounds
                if budget.metric in measured and not budget.holds(measured[budget.metric])
            )
            trial = dataclasses.replace(trial, **further, missed=missed)
        timed.append(trial)
    return timed
