"""The finalists of a search as timed on the table's device, where that is at hand."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flashnas.base.documents import convert
from flashnas.base.errors import RunError, TableError
from flashnas.base.foreign import read_json
from flashnas.base.system import write_atomic
from flashnas.profiling.finalists import measure_finalists  # loads torch
from flashnas.profiling.table_target import target_like
from flashnas.run_folder.folder import RunFolder
from flashnas.run_folder.layout import MEASURED
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
    file = folder.path / MEASURED
    times = read_times(file)
    networks = [trial.architecture for trial in finalists if trial.hash not in times]
    if networks:
        note(
            f"timing {len(networks)} network{'s' * (len(networks) > 1)} end to end on"
            f" {problem.model.table.device.label}"
        )
        times |= measure_finalists(networks, problem.model, timing, note)
        write_atomic(file, json.dumps(times, indent=1))
    timed = []
    for trial in finalists:
        measured = times.get(trial.hash)
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


def read_times(file: Path) -> dict[str, dict[str, float]]:
    """Metrics by hash of the network, as far as the run has them."""
    if not file.exists():
        return {}
    try:
        return convert(read_json(file, RunError), dict[str, dict[str, float]], file, RunError)
    except RunError as error:
        raise RunError(f"{error}; remove it to have them timed again") from None
