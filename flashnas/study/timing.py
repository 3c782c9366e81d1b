"""The finalists of a search as timed on the table's device, where that is at hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from flashnas.base.errors import TableError
from flashnas.base.text import counted
from flashnas.profiling.table_target import (
    measure_finalists,  # loads torch
    target_like,
)
from flashnas.study.record import RunRecord
from flashnas.trials.trial import Trial


def with_times(record: RunRecord, finalists: Sequence[Trial]) -> list[Trial]:
    """The finalists with what was measured and the budgets that they miss; those that were not timed
    before are timed now. Without the device they are returned as they are."""
    model = record.problem.model
    assert model is not None
    try:
        timing = target_like(model.table, dtype=model.dtype)
    except TableError:  # the device is not here
        return [*finalists]
    journal = record.folder.open_journal()
    networks = [trial.architecture for trial in finalists if trial.hash not in journal.times]
    if networks:
        count = counted(len(networks), "network")
        record.note(f"timing {count} end to end on {model.table.device.label}")
        journal.remember_times(measure_finalists(networks, model, timing, record.note))
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
                for budget in record.problem.config.bounds
                if budget.metric in measured and not budget.holds(measured[budget.metric])
            )
            trial = dataclasses.replace(trial, **further, missed=missed)
        timed.append(trial)
    return timed
