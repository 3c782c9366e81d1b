"""Profiling: what each operator of a space costs on this machine, from the times of whole networks.

Few networks of a space are timed, chosen so that their times tell those of the operators apart, and
least squares finds the rows (regression.py). A row holds what an operator costs inside a network:
with the launch that hides behind the operator before it, and with its share of the caches.

Each timing is appended to `networks.jsonl` in the folder of the table, so that an interrupted
measurement continues. Rows that the table already has, from the same stack and in the same mode and
dtype, are not measured again.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError, DeviceMemoryError
from flashnas.latency.validation import DISTURBED, MOST_DISTURBED, in_rounds
from flashnas.latency.workload import Workload
from flashnas.profiling.journal import Journal, Series
from flashnas.profiling.regression import WIDTHS_ALONE, Terms, choose_networks
from flashnas.profiling.row_requests import batches, plan
from flashnas.profiling.series import LEFT_OUT, fitted_rows, series_of, summary
from flashnas.profiling.table_folder import JOURNAL, TableFolder
from flashnas.profiling.target import Target
from flashnas.space.operator_space import OperatorSpace

MAX_FAILED = 3  # networks, of which none was timed
Timing = tuple[int, Series, Architecture]  # round, series, network
Progress = Callable[[int, int], None]  # timings that are done, and all of them


def profile(
    space: OperatorSpace[Any],
    workloads: Sequence[Workload],
    folder: Path,
    target: Target,
    progress: Progress = lambda *_: None,
    *,
    rounds: int | None = None,
) -> dict[str, Any]:
    """Measure what a table lacks.

    Args:
        space: whose operators are measured, at all its widths.
        folder: of the table; a new or empty folder, or a table of this device that is continued.
        rounds: timings of each network; None: those of the target.

    Returns:
        The numbers of rows that were measured and already known, and a record that is also kept
        under `jobs` in meta.yaml: relative errors of the fitted times (`regression`), networks
        whose timings differ though repeated, the `source` of the rows,
        and `notes` on what was left out.

    Raises:
        ConfigError: the program does not take a workload, or as of `TableFolder`.
        DeviceMemoryError: nothing fits into the memory.
        ExportError: the program cannot hold the networks of the space.
        SpaceError: the times of the space's operators cannot be separated.
        TableError: as of `TableFolder` and `Journal`.
    """
    rounds = rounds or target.rounds
    for workload in workloads:
        target.check_workload(workload)
    requests = plan(space, workloads)
    chosen = _chosen(space, workloads, target)
    table = TableFolder(folder, target)
    with table.held():
        missing = table.missing(requests)
        known = len(requests) - len(missing)
        if not missing:
            return {"measured": 0, "known": known}
        notes: dict[str, None] = {}
        series = [
            part
            for terms, networks in chosen
            if any(request.hidden in terms.widths for request in missing)
            for part in series_of(terms, workloads, networks, requests, target, notes)
        ]
        journal = Journal(folder / JOURNAL, target, rounds)
        order = _order(series, journal)
        _time(series, journal, order, progress, notes)
        series = [part for part in series if not part.left_out]
        if not series:
            reason = next(iter(notes)).removeprefix(LEFT_OUT)
            raise DeviceMemoryError(f"{reason}; take smaller widths or a shorter workload")
        errors: dict[str, list[float]] = defaultdict(list)
        disturbed = {network.hash for _, _, network in _disturbed(series, journal)}
        timed = {network.hash for part in series for network in part.networks}
        source = "derived" if len(disturbed) > MOST_DISTURBED * len(timed) else "measured"
        for part in series:
            rows = fitted_rows(part, journal, errors)
            table.write(rows, rounds * len(part.networks), source)
        answered = {request for part in series for request in part.requests}
        record = {
            "networks": len(timed),
            "disturbed_networks": len(disturbed),
            "source": source,
            "regression": summary(errors),
            **({"notes": list(notes)} if notes else {}),
        }
        measured = len(answered.intersection(missing))
        return {"measured": measured, "known": known, **table.finish(timed, record)}


def _disturbed(series: Sequence[Series], journal: Journal) -> list[Timing]:
    return [
        (journal.rounds, part, network)
        for part in series
        for network in part.networks
        if not part.left_out and journal.spread(part, network) > DISTURBED
    ]


def _chosen(
    space: OperatorSpace[Any], workloads: Sequence[Workload], target: Target
) -> list[tuple[Terms, list[Architecture]]]:
    """The networks to be timed, of each width by itself or of all together."""
    widths = space.hidden_sizes
    if len(widths) <= WIDTHS_ALONE:  # what does not fit of a width is left out later, with a note
        groups, check = [[width] for width in widths], target.check_holds
    else:
        groups, check = [[*widths]], functools.partial(_check, target, workloads)
    chosen = []
    for group in groups:
        terms = Terms(space, group)
        chosen.append((terms, choose_networks(terms, np.random.default_rng(group[0]), check)))
    return chosen


def _check(target: Target, workloads: Sequence[Workload], network: Architecture) -> None:
    """Raises ExportError if the program cannot run a network, DeviceMemoryError unless the memory
    has room for all that is timed of it."""
    target.check_holds(network)
    meta = network.meta_tokens
    for workload in workloads:
        read, total = meta + workload.prompt_tokens, meta + workload.context
        target.check_memory(network, max(batches(workload)), [read], [range(total, total + 1)])


def _order(series: Sequence[Series], journal: Journal) -> list[Timing]:
    """What is to be timed: one round after the other, so that a slow minute affects all networks
    alike, and in a round all widths and batches in turn, so that the pace is soon that of the rest.
    What the journal has is left out: it came at a pace of its own."""
    most = max((len(part.networks) for part in series), default=0)
    return [
        (turn, part, network)
        for turn in range(journal.rounds)
        for index in range(most)
        for part in series
        for network in part.networks[index : index + 1]
        if journal.count(part, network) <= turn
    ]


def _time(
    series: Sequence[Series],
    journal: Journal,
    order: Sequence[Timing],
    progress: Progress,
    notes: dict[str, None],
) -> None:
    """Fill the journal. A network that ends the program is left out of its series, with a note; if
    nothing but that happens, or the others do not tell the operators apart, it raises DeviceError."""
    known = journal.rounds * sum(len(part.networks) for part in series) - len(order)
    failed, timed = 0, False
    again = functools.partial(_disturbed, series, journal)
    for _, part, network in in_rounds(order, again, progress, known):
        if part.left_out or network not in part.networks:
            continue
        try:
            journal.time(part, network)
            timed = True
        except DeviceMemoryError as error:
            part.left_out = f"{LEFT_OUT}width {network.hidden} with batch {part.batch}: {error}"
            notes[part.left_out] = None
        except DeviceError as error:
            notes[f"{LEFT_OUT}{network.notation}: {error}"] = None
            part.networks.remove(network)
            failed += 1
            if (failed >= MAX_FAILED and not timed) or not part.terms.separable(part.networks):
                raise DeviceError(f"{failed} networks failed: {error}") from None
