"""Profiling: what each operator of a space costs on this machine, from the times of whole networks.

Few networks of a space are timed, chosen so that their times tell those of the operators apart, and
least squares finds the rows (regression.py). A row holds what an operator costs inside a network:
with the launch that hides behind the operator before it, and with its share of the caches.

Each timing is appended to `networks.jsonl` in the folder of the table, so that an interrupted
measurement continues. Rows that the table already has, from the same stack and in the same mode and
dtype, are not measured again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.workload import Workload
from flashnas.operators import OperatorSpec
from flashnas.operators.kernel import PHASES
from flashnas.profiling.journal import Journal, Series
from flashnas.profiling.nvml import watch
from flashnas.profiling.regression import REST, choose_networks, counts, fit
from flashnas.profiling.row_requests import RowRequest, batches, plan
from flashnas.profiling.table_folder import TableFolder, Times
from flashnas.profiling.target import Steps, Target
from flashnas.space.operator_space import OperatorSpace

JOURNAL = "networks.jsonl"
LEFT_OUT = "left out: "  # of a note
ROUNDS = 3  # timings of a network, spread over the measurement; their median counts
# a range of a network's timings, relative to their median, that is worth a warning
DISTURBED = 0.15
MIN_US = 0.1  # of a row. The rest (regression.py) is the head's row in a decode step
LEAST: Times = (MIN_US,) * 3
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
    requests, kinds = plan(space, workloads), space.kinds()
    facts = target.facts(kinds, max(space.hidden_sizes))  # an error here costs nothing yet
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
            for part in _series(space, workloads, networks[hidden], requests, target, notes)
        ]
        journal = Journal(folder / JOURNAL, target, rounds)
        with watch(on=target.device == "cuda") as gpu:
            _time(series, journal, progress, notes)
        series = [part for part in series if not part.left_out]
        if not series:
            reason = next(iter(notes)).removeprefix(LEFT_OUT)
            raise DeviceMemoryError(f"{reason}; take smaller widths or a shorter workload")
        errors: dict[str, list[float]] = {phase: [] for phase in PHASES}
        for part in series:
            rows = _fitted(part, kinds, space.model.meta_tokens, journal, errors)
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
            "regression": _summary(errors),
            **facts,
            **({"gpu": gpu} if gpu else {}),
            **({"notes": list(notes)} if notes else {}),
        }
        measured = len(answered.intersection(missing))
        return {"measured": measured, "known": known, **table.finish(timed, record)}


def _series(
    space: OperatorSpace[Any],
    workloads: Sequence[Workload],
    networks: Sequence[Architecture],
    requests: Sequence[RowRequest],
    target: Target,
    notes: dict[str, None],
) -> Iterator[Series]:
    """Of one width, one for each batch. Lengths for which there is no memory are left out, with a
    note.
    """
    hidden, meta = networks[0].hidden, space.model.meta_tokens
    largest = max(networks, key=lambda network: network.params)

    def fits(batch: int, prompts: list[int], steps: list[Steps]) -> bool:
        try:
            target.check_memory(largest, batch, prompts, steps)
        except DeviceMemoryError as error:
            notes[f"{LEFT_OUT}{error}"] = None
            return False
        return True

    for batch in sorted({batch for workload in workloads for batch in batches(workload)}):
        own = [item for item in requests if (item.hidden, item.batch) == (hidden, batch)]
        wanted: dict[int, Steps] = {}
        for workload in workloads:
            if workload.generated_tokens and batch in batches(workload):
                first, last = meta + workload.prompt_tokens + 1, meta + workload.context
                wanted |= target.timed_steps(space.kinds(), first, last)
        lengths = sorted({item.length for item in own if item.phase == "prefill"})
        prompts = [length for length in lengths if fits(batch, [length], [])]
        steps = {at: wanted[at] for at in sorted(wanted) if fits(batch, [], [wanted[at]])}
        longest = math.inf if len(steps) == len(wanted) else max(steps, default=-1)
        answered = [
            item
            for item in own
            if (item.length in prompts if item.phase == "prefill" else item.length <= longest)
        ]
        if prompts or steps:
            yield Series(
                networks=networks, batch=batch, prompts=prompts, steps=steps, requests=answered
            )


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


def _fitted(
    series: Series,
    kinds: Sequence[OperatorSpec],
    meta_tokens: int,
    journal: Journal,
    errors: Mapping[str, list[float]],
) -> dict[RowRequest, Times]:
    """Median and percentiles of the rows of a series, and of those at the contexts that were timed
    where the time depends on the context. Errors of the networks are added to `errors`."""
    rng, networks, contexts = np.random.default_rng(0), series.networks, list(series.steps)
    once = [counts(network, kinds) for network in networks]

    def times_us(part: str, length: int) -> list[float]:
        return [journal.median_us(network, series.batch, part, length) for network in networks]

    depends = {item.operator for item in series.requests if item.phase == "decode" and item.length}
    # of a step; for prompts alone there are none, and their fixed costs are the embedding's
    step_us: dict[Any, Times] = {}
    if contexts:
        regressors = [
            {(name, context) if name in depends else name: count for name, count in row.items()}
            for context in contexts
            for row in once
        ]
        measured_us = [us for steps in series.steps.values() for us in times_us("steps", steps[-1])]
        fitted = fit(regressors, measured_us, rng)
        errors["decode"].extend(fitted.errors)
        step_us = fitted.values
    rows: dict[RowRequest, Times] = {}
    for item in series.requests:
        if item.phase == "decode" and item.operator in depends:
            columns = np.array([step_us[item.operator, context] for context in contexts]).T
            for length in {item.length, *contexts}:
                median, low, high = (np.interp(length, contexts, column) for column in columns)
                rows[replace(item, length=length)] = median, low, high
        elif item.phase == "decode":
            rows[item] = step_us.get(REST if item.operator == "head" else item.operator, LEAST)
    rest_us = step_us.get(REST, (0.0,))[0]
    for prompt in series.prompts:
        # the head's row is counted for a prompt, too
        fixed_us = rest_us if prompt > meta_tokens else 0.0
        fitted = fit(once, [us - fixed_us for us in times_us("prompts", prompt)], rng)
        errors["prefill"].extend(fitted.errors)
        for item in series.requests:
            if item.phase == "prefill" and item.length == prompt:
                rows[item] = fitted.values[REST if item.operator == "embedding" else item.operator]
    return {
        item: (max(median, MIN_US), max(low, MIN_US), max(high, MIN_US))
        for item, (median, low, high) in rows.items()
    }


def _summary(errors: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """By phase the mean and the largest relative error of the networks' fitted times."""
    return {
        phase: {
            "mean_error": round(float(np.abs(values).mean()), 4),
            "max_error": round(float(np.abs(values).max()), 4),
        }
        for phase, values in errors.items()
        if values
    }
