"""Predicted against measured: sampled architectures of a space, timed end to end, and what that says
about a table. `validate` keeps the residuals in meta.yaml; `LatencyTable.calibrated` makes the 90 %
interval of them (Vovk et al., Algorithmic Learning in a Random World, 2005).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceError, DeviceMemoryError, SpaceError
from flashnas.latency.calibration import VALIDATIONS
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import edited_meta
from flashnas.latency.workload import Workload
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


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One architecture: metric of TIMES -> ms."""

    architecture: Architecture
    predicted: Mapping[str, float]
    measured: Mapping[str, float]

    def error(self, metric: str) -> float:
        """predicted / measured - 1."""
        return self.predicted[metric] / self.measured[metric] - 1


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Relative errors of one metric over `count` architectures: mean and maximum of |predicted /
    measured - 1|, and the median without the bars, bias; spearman: NaN for fewer than 3
    architectures."""

    metric: str
    count: int
    mean_error: float
    max_error: float
    bias: float
    spearman: float

    @classmethod
    def of(cls, comparisons: Sequence[Comparison], metric: str) -> Summary:
        errors = np.array([comparison.error(metric) for comparison in comparisons])
        correlation = math.nan
        if len(comparisons) >= 3:
            from scipy.stats import spearmanr

            correlation = float(
                spearmanr(
                    [comparison.predicted[metric] for comparison in comparisons],
                    [comparison.measured[metric] for comparison in comparisons],
                ).statistic
            )
        return cls(
            metric=metric,
            count=len(comparisons),
            mean_error=float(np.abs(errors).mean()),
            max_error=float(np.abs(errors).max()),
            bias=float(np.median(errors)),
            spearman=correlation,
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            name: round(value, 4) if isinstance(value, float) else value
            for name, value in vars(self).items()
        }


@dataclass(frozen=True, kw_only=True)
class Validation:
    """The result of `validate`.

    Attributes:
        comparisons: in ascending order of predicted latency.
        left_out: (notation, reason) of what did not fit into the device's memory.
        disturbed: architectures whose timings differ by more than DISTURBED, though repeated.
    """

    table: LatencyTable
    mode: str
    comparisons: tuple[Comparison, ...]
    metrics: tuple[Summary, ...]
    left_out: tuple[tuple[str, str], ...] = ()
    disturbed: int = 0

    @property
    def kept(self) -> bool:
        """Whether it says something of the table, and not of what else ran."""
        return self.disturbed <= MOST_DISTURBED * len(self.comparisons)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "table": str(self.table.path),
            "mode": self.mode,
            "architectures": [
                {
                    "notation": found.architecture.notation,
                    "hash": found.architecture.hash,
                    "predicted": dict(found.predicted),
                    "measured": dict(found.measured),
                    "error": {name: found.error(name) for name in found.predicted},
                }
                for found in self.comparisons
            ],
            "metrics": [summary.to_dict() for summary in self.metrics],
            "left_out": [list(pair) for pair in self.left_out],
            "disturbed": self.disturbed,
            "kept": self.kept,
        }


def validate(
    model: LatencyModel,
    space: OperatorSpace[Any],
    measure: Measure,
    *,
    count: int = 20,
    seed: int = 0,
    rounds: int = ROUNDS,
    progress: Progress = lambda *_: None,
) -> Validation:
    """Measure `count` architectures of a space, at all its widths, and compare.

    Args:
        model: whose predictions are compared.
        rounds: timings of each.
        measure: architecture -> the metrics of TIMES, in ms.

    Raises:
        DeviceMemoryError: none of them fits into the memory of the device.
        SpaceError: the space has too few architectures.
    """
    rng = np.random.default_rng(seed)
    architectures = sample(space, model, count, rng)
    measured, left_out, disturbed = measure_in_rounds(
        architectures, measure, rng, progress, rounds=rounds
    )
    if not measured:
        raise DeviceMemoryError(
            f"none of {count} architectures of space {space.name!r} could be timed:"
            f" {next(iter(left_out.values()))}"
        )
    names = [metric for metric, ms in next(iter(measured.values())).items() if ms > 0]
    comparisons = []
    for architecture, times in measured.items():
        estimate = model.estimate(architecture)
        comparisons.append(
            Comparison(
                architecture=architecture,
                predicted={name: estimate.metric(name) for name in names},
                measured={name: times[name] for name in names},
            )
        )
    return Validation(
        table=model.table,
        mode=model.table.default_mode,
        comparisons=tuple(comparisons),
        metrics=tuple(Summary.of(comparisons, name) for name in names),
        left_out=tuple((a.notation, reason) for a, reason in left_out.items()),
        disturbed=len(disturbed),
    )


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
        raise SpaceError(
            f"space {space.name!r} gave only {len(pool)} architectures that no rows were fitted"
            f" to; asked for {count}"
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
    disturbed, done = set[Architecture](), 0

    def counted(a: Architecture) -> dict[str, list[float]]:
        return {name: shortest([ms[name] for ms in timings[a]], rounds) for name in TIMES}

    for turn in range(rounds + AGAIN):
        order = [architectures[int(i)] for i in rng.permutation(len(architectures))]
        if turn >= rounds:
            order = [a for a in order if a in disturbed]
        for n, architecture in enumerate(order):
            progress(done, max(rounds * len(architectures), done - n + len(order)))
            done += 1
            if architecture in left_out:
                continue
            try:
                timings[architecture].append(measure(architecture))
            except (DeviceMemoryError, DeviceError) as error:
                left_out[architecture] = str(error)
        disturbed = {
            a
            for a in timings
            if a not in left_out and max(map(spread, counted(a).values())) > DISTURBED
        }
    progress(done, done)
    medians = {
        a: {name: float(np.median(ms)) for name, ms in counted(a).items()}
        for a in architectures
        if a not in left_out
    }
    return medians, left_out, disturbed


def store(result: Validation, space: OperatorSpace[Any], workload: Workload, *, seed: int) -> None:
    """Write the residuals into meta.yaml, in place of an earlier validation of the same workload,
    space and mode."""
    table = result.table
    same = key(table, workload, space.hash)
    metrics = {}
    for summary in result.metrics:
        facts = {
            name: value
            for name, value in summary.to_dict().items()
            if name not in ("metric", "count")
        }
        errors = [found.error(summary.metric) for found in result.comparisons]
        ratios = [round(-float(np.log1p(error)), 5) for error in errors]
        metrics[summary.metric] = {**facts, "log_ratios": ratios}
    entry = {
        "date": time.strftime("%Y-%m-%d"),
        "space": space.name,
        **same,
        "seed": seed,
        "basis": table.basis,
        "architectures": len(result.comparisons),
        "metrics": metrics,
    }
    with edited_meta(table.path) as meta:
        meta[VALIDATIONS] = [
            *(old for old in meta.get(VALIDATIONS) or () if not same.items() <= old.items()),
            entry,
        ]


def key(table: LatencyTable, workload: Workload, space_hash: str) -> dict[str, Any]:
    """What identifies a validation; the name of a workload does not matter."""
    requests = {name: value for name, value in workload.to_dict().items() if name != "name"}
    return {"space_hash": space_hash, "workload": requests, "mode": table.default_mode}
