"""Profiling: measures the whole operators that a space needs, at the batches and contexts of its
workloads.

Rows are of whole operators (`flashnas.latency.schema`): a block with its norm and residual, which
is the module that the model runs. Rows that the table already has in the same mode and dtype, from
the same stack, are not measured again. Rows are written after each group, so that an interrupted
profile continues. What was measured while the device was slower than usual is measured once more at
the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.row_requests import RowGroup, RowRequest, groups, plan
from flashnas.latency.workload import Workload
from flashnas.profiling.alone import measure_alone
from flashnas.profiling.device_timing import Measurement, Results
from flashnas.profiling.inside_model import measure_inside_model
from flashnas.profiling.nvml import watch
from flashnas.profiling.setup import Setup
from flashnas.profiling.table_folder import TableFolder
from flashnas.profiling.target import Progress
from flashnas.profiling.whole_model import backends_of
from flashnas.space.operator_space import OperatorSpace

# a drift within a group's rows, or a probe above the setup's usual, that calls for measuring again
DISTURBED = 0.15
Rows = dict[RowRequest, Measurement]


def profile(
    space: OperatorSpace[Any],
    workloads: Sequence[Workload],
    folder: Path,
    setup: Setup,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure what a table lacks.

    Args:
        space: whose operators are measured, at all its widths.
        folder: of the table; a new or empty folder, or a table of this device that is continued.
        progress: called with the groups of rows that are measured and the number of groups, which
            grows at the end by those that are measured again.

    Returns:
        The numbers of rows that were measured and already known, and a record that is also kept
        under `jobs` in meta.yaml: how evenly the device ran, which library computed which kind of
        operator, and `notes` on rows that were left out or timed in another mode; of a GPU also
        clocks, power and throttling.

    Raises:
        ConfigError, TableError: as of `TableFolder`.
    """
    items = plan(space, workloads)
    # an error here costs nothing yet
    backends = backends_of(space.kinds(), max(space.hidden_sizes), setup)
    table = TableFolder(folder, setup)
    todo = table.missing(items)
    waiting = groups(todo, alone=setup.mode_name == "cuda_graph")
    done: Rows = {}
    probes: dict[RowGroup, float] = {}
    again: list[RowGroup] = []
    notes: dict[RowRequest, str] = {}
    count = len(waiting)
    with watch(on=setup.device == "cuda") as gpu:
        progress(0, count)
        for number, group in enumerate(waiting, 1):
            before = setup.run(setup.platform.probe_us)
            rows: Rows = {}
            for item, found in _measure_group(group, space, setup).items():
                if isinstance(found, DeviceMemoryError):
                    notes[item] = f"left out: {found}"
                    continue
                rows[item] = found
                if found.note:
                    notes[item] = found.note
            probes[group] = max(before, setup.run(setup.platform.probe_us))
            done |= rows
            table.write(rows, f"flashnas profile, torch {torch.__version__}")
            progress(number, len(waiting))
            if number == count:
                again = [group for group in probes if _disturbed(group, done, probes)]
                waiting += again
    counts = {"measured": len(done), "known": len(items) - len(todo)}
    facts = {
        "backends": backends,
        "gpu": gpu,
        "notes": [
            f"{item.phase} {item.operator} at width {item.hidden}, batch {item.batch}, length"
            f" {item.length}: {text}"
            for item, text in notes.items()
        ],
    }
    if not done:
        return {**counts, **({"notes": facts["notes"]} if notes else {})}
    evenness = {
        "rows": len(done),
        "outliers": round(float(np.mean([row.outliers for row in done.values()])), 4),
        "largest_drift": round(max(abs(row.drift) for row in done.values()), 3),
        "measured_twice": sum(len(group.items) for group in again),
        "disturbed": sum(len(group.items) for group in again if _disturbed(group, done, probes)),
        "probe_us": {
            "median": round(float(np.median(list(probes.values()))), 1),
            "max": round(max(probes.values()), 1),
        },
    }
    stated = {name: value for name, value in facts.items() if value}
    return {**counts, **table.finish({**evenness, **stated})}


def _measure_group(group: RowGroup, space: OperatorSpace[Any], setup: Setup) -> Results:
    if setup.mode_name == "cuda_graph":
        return measure_alone(group.items, setup, space.max_operators)
    try:
        return setup.run(lambda: measure_inside_model(group, space, setup))
    except DeviceMemoryError as error:
        return dict.fromkeys(group.items, error)


def _disturbed(group: RowGroup, rows: Rows, probes: dict[RowGroup, float]) -> bool:
    usual = float(np.median(list(probes.values())))
    drifts = [rows[item].drift for item in group.items if item in rows] or [0.0]
    return probes[group] > (1 + DISTURBED) * usual or abs(float(np.median(drifts))) > DISTURBED
