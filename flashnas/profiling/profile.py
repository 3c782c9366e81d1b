"""Profiling: what each operator of a space costs on this machine, from the times of whole networks.

Few networks of a space are timed, chosen so that their times tell those of the operators apart, and
least squares finds the rows (regression.py). A row holds what an operator costs inside a network:
with the launch that hides behind the operator before it, and with its share of the caches.

Each timing is appended to `networks.jsonl` in the folder of the table, so that an interrupted
measurement continues. Rows that the table already has, from the same stack and in the same mode and
dtype, are not measured again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.workload import Workload
from flashnas.profiling.journal import Journal, Series
from flashnas.profiling.nvml import watch
from flashnas.profiling.regression import choose_networks
from flashnas.profiling.row_requests import plan
from flashnas.profiling.series import LEFT_OUT, fitted_rows, series_of, summary
from flashnas.profiling.table_folder import TableFolder
from flashnas.profiling.target import Target
from flashnas.space.operator_space import OperatorSpace

JOURNAL = "networks.jsonl"
ROUNDS = 3  # timings of a network, spread over the measurement; their median counts
# a range of a network's timings, relative to their median, that is worth a warning
DISTURBED = 0.15
Progress = Callable[[int, int], None]  # timings that are done, and all of them


def profile(
    space: OperatorSpace[Any],
    workloads: Sequence[Workload],
    folder: Path,
    target: Target,
    progress: Progress = lambda *_: None,
    *,
    rounds: int = ROUNDS,
) -> dict[str, Any]:
    """Measure what a table lacks.

    Args:
        space: whose operators are measured, at all its widths.
        folder: of the table; a new or empty folder, or a table of this device that is continued.
        rounds: timings of each network.

    Returns:
        The numbers of rows that were measured and already known, and a record that is also kept
        under `jobs` in meta.yaml: relative errors of the fitted times (`regression`), networks
        whose timings differ, which library computed which kind of operator, and `notes` on what was
        left out or timed in another mode; of a GPU also clocks, power and throttling.

    Raises:
        ConfigError: the program does not take a workload, or as of `TableFolder`.
        DeviceMemoryError: nothing fits into the memory.
        ExportError: the program cannot hold the networks of the space.
        SpaceError: the times of the space's operators cannot be separated.
        TableError: as of `TableFolder` and `Journal`.
    """
    for workload in workloads:
        target.check_workload(workload)
    requests = plan(space, workloads)
    facts = target.facts(space.kinds(), max(space.hidden_sizes))  # an error here costs nothing yet
    networks = {
        hidden: choose_networks(space, hidden, np.random.default_rng(hidden), target.check_holds)
        for hidden in space.hidden_sizes
    }
    table = TableFolder(folder, target, JOURNAL)
    with table.held():
        missing = table.missing(requests)
        known = len(requests) - len(missing)
        if not missing:
            return {"measured": 0, "known": known}
        notes: dict[str, None] = {}
        series = [
            part
            for hidden in sorted({request.hidden for request in missing})
            for part in series_of(space, workloads, networks[hidden], requests, target, notes)
        ]
        journal = Journal(folder / JOURNAL, target, rounds)
        with watch(on=target.device == "cuda") as gpu:
            _time(series, journal, progress, notes)
        series = [part for part in series if not part.left_out]
        if not series:
            reason = next(iter(notes)).removeprefix(LEFT_OUT)
            raise DeviceMemoryError(f"{reason}; take smaller widths or a shorter workload")
        errors: dict[str, list[float]] = defaultdict(list)
        for part in series:
            rows = fitted_rows(part, space, journal, errors)
            table.write(rows, repeats=rounds * len(part.networks))
        pairs = [(network, part) for part in series for network in part.networks]
        disturbed = {
            network.hash for network, part in pairs if journal.spread(network, part) > DISTURBED
        }
        timed = {network.hash for network, _ in pairs}
        answered = {request for part in series for request in part.requests}
        record = {
            "networks": len(timed),
            "disturbed_networks": len(disturbed),
            "regression": summary(errors),
            **facts,
            **({"gpu": gpu} if gpu else {}),
            **({"notes": list(notes)} if notes else {}),
        }
        measured = len(answered.intersection(missing))
        return {"measured": measured, "known": known, **table.finish(timed, record)}


def _time(
    series: Sequence[Series], journal: Journal, progress: Progress, notes: dict[str, None]
) -> None:
    """Fill the journal, one round after the other, so that a slow minute affects all networks
    alike, and in a round all widths and batches in turn, so that the pace is soon that of the rest.
    """
    most = max((len(part.networks) for part in series), default=0)
    order = [
        (turn, part, network)
        for turn in range(journal.rounds)
        for index in range(most)
        for part in series
        for network in part.networks[index : index + 1]
    ]
    # what an interrupted measurement has left comes at a pace of its own
    missing = [item for item in order if not journal.has(*item)]
    known = len(order) - len(missing)
    for number, (turn, part, network) in enumerate(missing):
        progress(known + number, len(order))
        if part.left_out or journal.has(turn, part, network):  # it may be there twice
            continue
        try:
            note = journal.time(turn, part, network)
        except DeviceMemoryError as error:
            note = f"{LEFT_OUT}width {network.hidden} with batch {part.batch}: {error}"
            part.left_out = note
        if note:
            notes[note] = None
    if order:
        progress(len(order), len(order))
