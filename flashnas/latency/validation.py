"""Predicted against measured: sampled architectures of a space, timed end to end, and what that
says about a table. The residuals are kept in meta.yaml, for certificate.py."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import DeviceMemoryError, SpaceError, TableError
from flashnas.latency import corrections
from flashnas.latency.calibration import VALIDATIONS, Calibration, ModelCorrection
from flashnas.latency.certificate import TIMES, key
from flashnas.latency.corrections import Regressors
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import edited_meta
from flashnas.latency.workload import ENGINE, Workload
from flashnas.operators import Phase
from flashnas.space.operator_space import OperatorSpace

TIMED = "timed_networks"  # the list in meta.yaml of the networks that rows were fitted to
POOL = 40  # architectures predicted for each one that is measured
ROUNDS = 3  # timings per architecture, spread over the run; the median is used
PHASES: dict[Phase, str] = {"prefill": "ttft_ms", "decode": "tpot_ms"}
Measure = Callable[[Architecture], Mapping[str, float]]  # -> metrics of TIMES
LeftOut = Callable[[Architecture, str], None]  # (what does not fit, why)
Progress = Callable[[int, int], None]  # (timings that are done, all timings)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One architecture: metric of TIMES -> ms. fitted: the calibration was fitted to it."""

    architecture: Architecture
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    fitted: bool = False

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
        errors = np.array([each.error(metric) for each in comparisons])
        correlation = math.nan
        if len(comparisons) >= 3:
            from scipy.stats import spearmanr

            correlation = float(
                spearmanr(
                    [each.predicted[metric] for each in comparisons],
                    [each.measured[metric] for each in comparisons],
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
        table: with the new calibration, if there is one.
        comparisons: in ascending order of predicted latency.
        metrics, carriers: over the architectures that were held out; carriers:
            `corrections.kinds_of_error`.
        before: the metrics without the new calibration; None if there is none.
        left_out: (notation, reason) of what did not fit into the device's memory.
    """

    table: LatencyTable
    mode: str
    comparisons: tuple[Comparison, ...]
    metrics: tuple[Summary, ...]
    before: tuple[Summary, ...] | None
    corrections: Mapping[Phase, ModelCorrection]
    carriers: Mapping[Phase, dict[str, dict[str, float]]]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def held_out(self) -> tuple[Comparison, ...]:
        """The comparisons that no calibration was fitted to."""
        return tuple(each for each in self.comparisons if not each.fitted)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "table": str(self.table.path),
            "mode": self.mode,
            "architectures": [
                {
                    "notation": each.architecture.notation,
                    "hash": each.architecture.hash,
                    "fitted": each.fitted,
                    "predicted": dict(each.predicted),
                    "measured": dict(each.measured),
                    "error": {name: each.error(name) for name in each.predicted},
                }
                for each in self.comparisons
            ],
            "metrics": [summary.to_dict() for summary in self.metrics],
            "before": None
            if self.before is None
            else [summary.to_dict() for summary in self.before],
            "corrections": {phase: value.to_dict() for phase, value in self.corrections.items()},
            "carriers": {phase: dict(value) for phase, value in self.carriers.items()},
            "left_out": [list(pair) for pair in self.left_out],
        }


def validate(
    table: LatencyTable,
    space: OperatorSpace[Any],
    workload: Workload,
    measure: Measure,
    *,
    count: int = 20,
    seed: int = 0,
    calibrate: bool = False,
    calibration: str = ENGINE,
    mode: str | None = None,
    progress: Progress | None = None,
) -> Validation:
    """Measure `count` architectures of a space, at all its widths, and compare.

    Args:
        measure: architecture -> the metrics of TIMES, in ms.
        calibrate: fit a correction to one half of the architectures; the errors are those of the
            other half.
        calibration: of rows of kernels, which the predictions are of.
        mode: of the rows (None: the table's default).

    Raises:
        SpaceError: the space has too few architectures.
        TableError: there is nothing to calibrate.
    """
    rng = np.random.default_rng(seed)
    model = LatencyModel(table, workload, calibration=calibration, mode=mode)
    if calibrate and not model.operators.kinds:
        raise TableError(
            f"{table.path}: --calibrate fits rows of whole operators, which table {table.name}"
            " does not have; measure them with flashnas profile"
        )
    architectures = sample(space, model, count, rng)
    left_out: dict[Architecture, str] = {}
    measured = measure_in_rounds(
        architectures, measure, rng, progress or (lambda *_: None), left_out.__setitem__
    )
    architectures = [a for a in architectures if a in measured]
    if not architectures:
        raise DeviceMemoryError(
            f"none of {count} architectures of space {space.name!r} fits into the memory"
            f" of the device: {next(iter(left_out.values()))}"
        )
    names = [metric for metric in TIMES if measured[architectures[0]][metric] > 0]

    def compared_by(model: LatencyModel, fitted: frozenset[int]) -> list[Comparison]:
        estimates = [model.estimate(a) for a in architectures]
        return [
            Comparison(
                architecture=a,
                predicted={name: estimate.metric(name) for name in names},
                measured={name: measured[a][name] for name in names},
                fitted=i in fitted,
            )
            for i, (a, estimate) in enumerate(zip(architectures, estimates, strict=True))
        ]

    before, fitted = None, half(len(architectures), rng) if calibrate else frozenset[int]()
    bare = LatencyModel(table, workload, calibration=Calibration(), mode=mode)
    if calibrate:
        held = [each for each in compared_by(model, fitted) if not each.fitted]
        before = tuple(Summary.of(held, name) for name in names)
        chosen = [architectures[i] for i in sorted(fitted)]
        fits = {
            phase: corrections.fit(
                [terms(bare, a, phase, measured[a]) for a in chosen], model.table.default_mode
            )
            for phase, metric in PHASES.items()
            if metric in names
        }
        table, model = with_corrections(table, model, fits, chosen)
    compared = compared_by(model, fitted)
    held = [each for each in compared if not each.fitted]
    carriers = {
        phase: corrections.kinds_of_error(
            [terms(bare, each.architecture, phase, each.measured) for each in held],
            model.calibration.models[phase],
        )
        for phase, metric in PHASES.items()
        if metric in names
    }
    return Validation(
        table=table,
        mode=model.table.default_mode,
        comparisons=tuple(compared),
        metrics=tuple(Summary.of(held, name) for name in names),
        before=before,
        corrections=dict(model.calibration.models),
        carriers=dict(carriers),
        left_out=tuple((a.notation, reason) for a, reason in left_out.items()),
    )


def sample(
    space: OperatorSpace[Any], model: LatencyModel, count: int, rng: np.random.Generator
) -> list[Architecture]:
    """`count` different architectures in ascending order of predicted latency, one drawn from each
    of as many equal parts of a large random sample. Those that rows or a calibration were fitted to
    are left out."""
    fitted_on = (model.table.calibration.get("whole") or {}).get("fitted_on", ())
    used = {*fitted_on, *model.table.meta.get(TIMED, ())}
    pool: dict[str, Architecture] = {}
    for _ in range(POOL * count):
        architecture = space.architecture(space.sample(rng), int(rng.choice(space.hidden_sizes)))
        if architecture.hash not in used:
            pool.setdefault(architecture.hash, architecture)
    if len(pool) < count:
        raise SpaceError(
            f"space {space.name!r} gave only {len(pool)} architectures that no calibration was"
            f" fitted to; asked for {count}"
        )
    drawn = list(pool.values())
    order = np.argsort(model.latencies(drawn), kind="stable")
    return [drawn[int(rng.choice(part))] for part in np.array_split(order, count)]


def measure_in_rounds(
    architectures: Sequence[Architecture],
    measure: Measure,
    rng: np.random.Generator,
    progress: Progress = lambda *_: None,
    left_out: LeftOut = lambda *_: None,
) -> dict[Architecture, dict[str, float]]:
    """Medians over ROUNDS rounds, each in another order, so that a slow minute does not affect one
    architecture alone. left_out: called with an architecture that needs more memory than there is,
    and why; it is not in the result."""
    order = [
        architectures[int(i)] for _ in range(ROUNDS) for i in rng.permutation(len(architectures))
    ]
    timings: dict[Architecture, list[Mapping[str, float]]] = {a: [] for a in architectures}
    for number, architecture in enumerate(order):
        progress(number, len(order))
        if architecture in timings:
            try:
                timings[architecture].append(measure(architecture))
            except DeviceMemoryError as error:
                del timings[architecture]
                left_out(architecture, str(error))
    progress(len(order), len(order))
    return {
        a: {name: float(np.median([values[name] for values in rounds])) for name in TIMES}
        for a, rounds in timings.items()
    }


def half(count: int, rng: np.random.Generator) -> frozenset[int]:
    """One of each pair of neighbours, drawn at random."""
    return frozenset(int(first + rng.integers(2)) for first in range(0, count - 1, 2))


def with_corrections(
    table: LatencyTable,
    model: LatencyModel,
    fits: Mapping[Phase, ModelCorrection],
    fitted_on: Sequence[Architecture],
) -> tuple[LatencyTable, LatencyModel]:
    """The table (in memory) and its model with other corrections of whole models in the model's
    mode.
    """
    mode, before = model.table.default_mode, table.calibration.get("whole") or {}
    constants = {phase: fit.to_dict() for phase, fit in fits.items()}
    whole = {
        **before,
        mode: {**before.get(mode, {}), **constants},
        "workload": model.workload.name,
        "fitted_on": sorted({*before.get("fitted_on", ()), *(a.hash for a in fitted_on)}),
    }
    table = replace(
        table, meta={**table.meta, "calibration": {**table.calibration, "whole": whole}}
    )
    return table, LatencyModel(table, model.workload, mode=mode)


def terms(
    bare: LatencyModel, architecture: Architecture, phase: Phase, metrics: Mapping[str, float]
) -> Regressors:
    """What the constants of a correction multiply, from a model without one; a decode step is the
    mean one."""
    steps = bare.workload.generated_tokens if phase == "decode" else 1
    by_kind: dict[str, float] = {}
    for entry in bare.estimate(architecture).breakdown:
        if entry["phase"] == phase:
            by_kind[entry["operator"]] = (
                by_kind.get(entry["operator"], 0.0) + 1000 * entry["ms"] / steps
            )
    seen = next(seen for name, seen, _ in bare.phases(architecture.meta_tokens) if name == phase)
    batch = bare.batch(architecture)
    megabytes = sum(
        bare.megabytes(spec, architecture.hidden, phase, batch, seen)
        for spec in architecture.operators
    )
    return Regressors(
        rows_us=sum(by_kind.values()),
        operators=len(architecture.operators),
        megabytes=megabytes,
        measured_us=1000 * metrics[PHASES[phase]],
        by_kind_us=by_kind,
    )


def store(
    result: Validation, space: OperatorSpace[Any], workload: Workload, *, seed: int, calibrate: bool
) -> None:
    """Write the new correction, if there is one, and the residuals of the held-out architectures
    into meta.yaml, in place of an earlier validation of the same workload, space and mode."""
    table = result.table
    rows = table.only(result.mode)
    same = key(rows, workload, space.hash)
    entry = {
        "date": time.strftime("%Y-%m-%d"),
        "space": space.name,
        **same,
        "seed": seed,
        "basis": rows.basis,
        "architectures": len(result.held_out),
        "metrics": {
            summary.metric: {
                **{
                    name: value
                    for name, value in summary.to_dict().items()
                    if name not in ("metric", "count")
                },
                "log_ratios": [
                    round(-float(np.log1p(each.error(summary.metric))), 5)
                    for each in result.held_out
                ],
            }
            for summary in result.metrics
        },
    }
    with edited_meta(table.path) as meta:
        if calibrate:
            meta["calibration"] = table.calibration
        meta[VALIDATIONS] = [
            *(old for old in meta.get(VALIDATIONS) or () if not same.items() <= old.items()),
            entry,
        ]
