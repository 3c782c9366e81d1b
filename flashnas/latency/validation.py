"""Predicted against measured: sampled architectures of a space, timed end to end, and what that says
about a table. `validate` keeps the residuals in meta.yaml; `LatencyTable.calibrated` makes the 90 %
interval of them (Vovk et al., Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError, DeviceMemoryError, SpaceError
from flashnas.latency.calibration import VALIDATIONS
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table_writer import edited_meta
from flashnas.space.operator_space import OperatorSpace

TIMES = ("ttft_ms", "tpot_ms", "latency_ms")  # metrics that are validated
TIMED = "timed_networks"  # the list in meta.yaml of the networks that rows were fitted to
POOL = 40  # architectures predicted for each one that is measured
ROUNDS = 3  # timings per architecture, spread over the run; the median is used
# of timings, their range relative to their median from which something disturbed them: they are
# repeated, at most so often, and the shortest count, because what disturbs takes time
DISTURBED, AGAIN = 0.15, 3
MOST_DISTURBED = 0.1  # of the networks; with more, nothing is kept as measured
Measure = Callable[[Architecture], Mapping[str, float]]  # -> metrics of TIMES
Progress = Callable[[int, int], None]  # (timings that are done, all timings)
T = TypeVar("T")


def validate(
    model: LatencyModel,
    space: OperatorSpace[Any],
    measure: Measure,
    *,
    count: int = 20,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Measure `count` architectures of a space, at all its widths, and compare.

    Args:
        model: whose predictions are compared.
        rounds: timings of each.
        measure: architecture -> the metrics of TIMES, in ms.

    Returns:
        What `fn.validate` returns, JSON-ready: architectures in ascending order of predicted latency,
        with their errors (predicted / measured - 1), and the `summary` of each metric. left_out:
        (notation, reason) of what could not be timed. disturbed: how many have timings that differ by
        more than DISTURBED, though repeated. kept: whether it says something of the table, and not
        of what else ran.

    Raises:
        DeviceMemoryError: none of them fits into the memory of the device.
        SpaceError: the space has too few architectures.
    """
    rng = np.random.default_rng(seed)
    architectures = sample(space, model, count, rng)
    timed, left_out, disturbed = measure_in_rounds(
        architectures, measure, rng, progress, rounds=rounds
    )
    if not timed:
        raise DeviceMemoryError(
            f"none of {count} architectures of space {space.name!r} could be timed:"
            f" {next(iter(left_out.values()))}"
        )
    names = [metric for metric, ms in next(iter(timed.values())).items() if ms > 0]
    entries = []
    for architecture, times in timed.items():
        estimate = model.estimate(architecture)
        predicted = {name: estimate.metric(name) for name in names}
        entries.append(
            {
                "notation": architecture.notation,
                "hash": architecture.hash,
                "predicted": predicted,
                "measured": {name: times[name] for name in names},
                "error": {name: predicted[name] / times[name] - 1 for name in names},
            }
        )
    return {
        "table": str(model.table.path),
        "mode": model.table.mode,
        "architectures": entries,
        "metrics": [summary(name, entries) for name in names],
        "left_out": [[a.notation, reason] for a, reason in left_out.items()],
        "disturbed": len(disturbed),
        "kept": len(disturbed) <= MOST_DISTURBED * len(entries),
    }


def summary(metric: str, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Relative errors of one metric: mean and maximum of |predicted / measured - 1|, and the median
    without the bars, bias; spearman: NaN for fewer than 3 architectures."""
    predicted, measured, errors = (
        np.array([entry[part][metric] for entry in entries])
        for part in ("predicted", "measured", "error")
    )
    correlation = math.nan
    if len(entries) >= 3:
        from scipy.stats import spearmanr

        correlation = spearmanr(predicted, measured).statistic
    facts = {
        "mean_error": np.abs(errors).mean(),
        "max_error": np.abs(errors).max(),
        "bias": np.median(errors),
        "spearman": correlation,
    }
    rounded = {name: round(float(value), 4) for name, value in facts.items()}
    return {"metric": metric, "count": len(entries), **rounded}


def sample(
    space: OperatorSpace[Any], model: LatencyModel, count: int, rng: np.random.Generator
) -> list[Architecture]:
    """`count` different architectures in ascending order of predicted latency, one drawn from each
    of as many equal parts of a large random sample. Those that rows were fitted to are left out."""
    used = set(model.table.meta.get(TIMED, ()))
    pool: dict[str, Architecture] = {}
    for _ in range(POOL * count):
        sizes = space.architectures(space.sample(rng))
        architecture = sizes[rng.integers(len(sizes))]
        if architecture.hash not in used:
            pool.setdefault(architecture.hash, architecture)
    if len(pool) < count:
        fewer = f"; give --count {len(pool)}" * bool(pool)
        raise SpaceError(
            f"space {space.name!r} gave only {len(pool)} architectures that no rows were fitted"
            f" to; asked for {count}{fewer}"
        )
    drawn = list(pool.values())
    order = np.argsort(model.latencies(drawn), kind="stable")
    return [drawn[int(rng.choice(part))] for part in np.array_split(order, count)]


def shortest(timings: Sequence[float], rounds: int) -> list[float]:
    """Those that count."""
    return sorted(timings)[:rounds]


def spread(timings: Sequence[float]) -> float:
    """Their range relative to their median."""
    return float(np.ptp(timings) / (np.median(timings) or 1.0))


def in_rounds(
    order: Sequence[T], disturbed: Callable[[], Sequence[T]], progress: Progress, known: int = 0
) -> Iterator[T]:
    """What is to be timed, one after the other: `order`, and then, up to AGAIN times, what is
    `disturbed`. known: of all timings, those that an earlier process has made."""
    done, total = known, known + len(order)
    for turn in range(1 + AGAIN):
        part = disturbed() if turn else order
        total = max(total, done + len(part))
        for item in part:
            progress(done, total)
            yield item
            done += 1
    if total:
        progress(total, total)


def measure_in_rounds(
    architectures: Sequence[Architecture],
    measure: Measure,
    rng: np.random.Generator,
    progress: Progress = lambda *_: None,
    *,
    rounds: int = ROUNDS,
) -> tuple[dict[Architecture, dict[str, float]], dict[Architecture, str], set[Architecture]]:
    """Medians over some rounds, each in another order, so that a slow minute does not affect one
    architecture alone; those that could not be timed, mostly for lack of memory, with the reason;
    and those that stayed disturbed."""
    timings: dict[Architecture, list[Mapping[str, float]]] = {a: [] for a in architectures}
    left_out: dict[Architecture, str] = {}

    def counted(a: Architecture) -> dict[str, list[float]]:
        return {name: shortest([ms[name] for ms in timings[a]], rounds) for name in TIMES}

    def disturbed() -> list[Architecture]:
        timed = (a for a in timings if a not in left_out)
        return [a for a in timed if max(map(spread, counted(a).values())) > DISTURBED]

    order = [architectures[i] for _ in range(rounds) for i in rng.permutation(len(architectures))]
    for architecture in in_rounds(order, disturbed, progress):
        if architecture in left_out:
            continue
        try:
            timings[architecture].append(measure(architecture))
        except (DeviceMemoryError, DeviceError) as error:
            left_out[architecture] = str(error)
    medians = {
        a: {name: float(np.median(ms)) for name, ms in counted(a).items()}
        for a in architectures
        if a not in left_out
    }
    return medians, left_out, set(disturbed())


def store(
    result: Mapping[str, Any], model: LatencyModel, space: OperatorSpace[Any], *, seed: int
) -> None:
    """Write the residuals of a `validate` into meta.yaml, in place of those of an earlier one of the
    same workload, whatever its name, space and mode."""
    table, workload = model.table, model.workload.to_dict()
    requests = {name: value for name, value in workload.items() if name != "name"}
    same = {"space_hash": space.hash, "workload": requests, "mode": table.mode}
    metrics = {}
    for facts in result["metrics"]:
        errors = [entry["error"][facts["metric"]] for entry in result["architectures"]]
        ratios = [round(-float(np.log1p(error)), 5) for error in errors]
        own = {name: facts[name] for name in ("mean_error", "max_error", "bias", "spearman")}
        metrics[facts["metric"]] = {**own, "log_ratios": ratios}
    entry = {
        "date": time.strftime("%Y-%m-%d"),
        "space": space.name,
        **same,
        "seed": seed,
        "basis": table.basis,
        "architectures": len(result["architectures"]),
        "metrics": metrics,
    }
    with edited_meta(table.path) as meta:
        meta[VALIDATIONS] = [
            *(old for old in meta.get(VALIDATIONS) or () if not same.items() <= old.items()),
            entry,
        ]
