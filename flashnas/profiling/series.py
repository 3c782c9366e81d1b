"""Which lengths of a series of networks are timed, and the rows of a table that follow from the
times."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError
from flashnas.latency.workload import Workload
from flashnas.profiling.journal import Journal, Series
from flashnas.profiling.regression import REST, Fitted, Row, Terms, Times, fit
from flashnas.profiling.row_requests import RowRequest, batches
from flashnas.profiling.target import Steps, Target

LEFT_OUT = "left out: "  # of a note
MIN_US = 0.1  # of a row. The rest (regression.py) is the head's row in a decode step
LEAST: Times = (MIN_US,) * 3


def series_of(
    terms: Terms,
    workloads: Sequence[Workload],
    networks: Sequence[Architecture],
    requests: Sequence[RowRequest],
    target: Target,
    notes: dict[str, None],
) -> Iterator[Series]:
    """Of the widths of `terms`, one for each batch. Lengths for which there is no memory are left
    out, with a note.
    """
    space, meta = terms.space, terms.space.model.meta_tokens
    kinds = [(spec, width) for width in terms.widths for spec in space.kinds_at(width)]
    largest = max(networks, key=lambda network: network.params)

    def fits(batch: int, prompts: list[int], steps: list[Steps]) -> bool:
        try:
            target.check_memory(largest, batch, prompts, steps)
        except DeviceMemoryError as error:
            notes[f"{LEFT_OUT}{error}"] = None
            return False
        return True

    for batch in sorted({batch for workload in workloads for batch in batches(workload)}):
        own = [item for item in requests if item.hidden in terms.widths and item.batch == batch]
        wanted: dict[int, Steps] = {}
        for workload in workloads:
            if workload.generated_tokens and batch in batches(workload):
                first, last = meta + workload.prompt_tokens + 1, meta + workload.context
                wanted |= target.timed_steps(kinds, first, last)
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
                terms=terms,
                networks=[*networks],
                batch=batch,
                prompts=prompts,
                steps=steps,
                requests=answered,
            )


def fitted_rows(
    series: Series, journal: Journal, errors: Mapping[str, list[float]]
) -> dict[RowRequest, Times]:
    """Median and percentiles of the rows of a series, and of those at the contexts that were timed
    where the time depends on the context. Errors of the networks are added to `errors`."""
    rng, networks, contexts = np.random.default_rng(0), series.networks, list(series.steps)
    terms = series.terms
    once = [terms.of_network(network) for network in networks]

    def times_us(part: str, length: int) -> list[float]:
        found = (journal.ms(series, network, part, length) for network in networks)
        return [1000 * float(np.median(ms)) for ms in found]

    depends = {
        name
        for item in series.requests
        if item.phase == "decode" and item.length
        for name in terms.of(item.operator, item.hidden)
    }

    def at(row: Row, context: int) -> Row:
        return {(name, context) if name in depends else name: n for name, n in row.items()}

    # of a step; for prompts alone there are none, and their fixed costs are the embedding's
    step: Fitted | None = None
    if contexts:
        regressors = [at(row, context) for context in contexts for row in once]
        measured_us = [us for steps in series.steps.values() for us in times_us("steps", steps[-1])]
        step = fit(regressors, measured_us, rng)
        errors["decode"].extend(step.errors)
    rows: dict[RowRequest, Times] = {}
    for item in series.requests:
        if item.phase == "prefill":
            continue
        name = REST if item.operator == "head" else item.operator
        if step is None or item.operator == "embedding":
            rows[item] = LEAST
        elif item.length:
            row = terms.of(name, item.hidden)
            columns = np.array([step.of(at(row, context)) for context in contexts]).T
            for length in {item.length, *contexts}:
                median, low, high = (np.interp(length, contexts, column) for column in columns)
                rows[replace(item, length=length)] = median, low, high
        else:
            rows[item] = step.of(terms.of(name, item.hidden))
    for prompt in series.prompts:
        # the head's row is counted for a prompt, too
        head = step if prompt > terms.space.model.meta_tokens else None
        measured_us = [
            us - (head.of(terms.of(REST, network.hidden))[0] if head else 0.0)
            for network, us in zip(networks, times_us("prompts", prompt), strict=True)
        ]
        fitted = fit(once, measured_us, rng)
        errors["prefill"].extend(fitted.errors)
        for item in series.requests:
            if item.phase == "prefill" and item.length == prompt:
                name = REST if item.operator == "embedding" else item.operator
                rows[item] = fitted.of(terms.of(name, item.hidden))
    return {
        item: (max(median, MIN_US), max(low, MIN_US), max(high, MIN_US))
        for item, (median, low, high) in rows.items()
    }


def summary(errors: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """By phase the mean and the largest relative error of the networks' fitted times."""
    return {
        phase: {
            "mean_error": round(float(np.abs(values).mean()), 4),
            "max_error": round(float(np.abs(values).max()), 4),
        }
        for phase, values in errors.items()
        if values
    }
