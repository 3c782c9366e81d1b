"""Predicted against measured: sampled architectures of a space, timed end to end, and what that says about a table.

Sees no torch and no clock: `measure` times one architecture (whole_model.py). The residuals are kept in meta.yaml,
where `search --confidence` finds them (certificate.py); `calibrate` also fits the correction of whole models
(correction.py) to one half of the architectures and reports, and keeps, the residuals of the other half.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import SpaceError, TableError
from flashnas.latency import model_correction
from flashnas.latency.model_correction import ModelCorrection, Regressors
from flashnas.latency.prediction import LatencyModel
from flashnas.latency.table import LatencyTable
from flashnas.latency.table_writer import write_calibration, write_entry
from flashnas.latency.workload import Workload
from flashnas.operators import Phase
from flashnas.profiling.certificate import TIMES, VALIDATIONS, basis, key
from flashnas.space.operator_space import OperatorSpace

POOL = 40           # architectures predicted for each one that is measured
ROUNDS = 3          # each architecture is timed so often, far apart; the median counts
PHASES: dict[Phase, str] = {"prefill": "ttft_ms", "decode": "tpot_ms"}
Measure = Callable[[Architecture], Mapping[str, float]]   # -> figures of TIMES
Progress = Callable[[Sequence[Architecture]], Iterable[Architecture]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One architecture; figure -> value, for the figures of TIMES. fitted: the calibration has seen it."""

    architecture: Architecture
    predicted: Mapping[str, float]
    measured: Mapping[str, float]
    fitted: bool = False

    def error(self, figure: str) -> float:
        """predicted / measured - 1."""
        return self.predicted[figure] / self.measured[figure] - 1


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Relative errors of one figure over some architectures; spearman: rank correlation (NaN below 3)."""

    figure: str
    count: int
    mean_error: float
    max_error: float
    bias: float
    spearman: float

    @classmethod
    def of(cls, checks: Sequence[Check], figure: str) -> Summary:
        errors = np.array([check.error(figure) for check in checks])
        pairs = [(check.predicted[figure], check.measured[figure]) for check in checks]
        return cls(figure=figure, count=len(checks), mean_error=float(np.abs(errors).mean()),
                   max_error=float(np.abs(errors).max()), bias=float(np.median(errors)), spearman=spearman(pairs))

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 4) if isinstance(value, float) else value for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Validation:
    """before: held-out summaries without the new calibration (None if there is none). carriers: phase -> operator ->
    own_error, share, carries (correction.kinds_of_error), over the held-out architectures."""

    table: LatencyTable
    mode: str
    checks: tuple[Check, ...]
    figures: tuple[Summary, ...]
    before: tuple[Summary, ...] | None
    corrections: Mapping[Phase, ModelCorrection]
    carriers: Mapping[Phase, dict[str, dict[str, float]]]

    @property
    def held_out(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.fitted)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "table": str(self.table.path), "mode": self.mode,
            "architectures": [{"notation": check.architecture.notation, "hash": check.architecture.hash,
                               "fitted": check.fitted, "predicted": dict(check.predicted),
                               "measured": dict(check.measured),
                               "error": {name: check.error(name) for name in check.predicted}}
                              for check in self.checks],
            "figures": [summary.to_dict() for summary in self.figures],
            "before": None if self.before is None else [summary.to_dict() for summary in self.before],
            "corrections": {phase: value.to_dict() for phase, value in self.corrections.items()},
            "carriers": {phase: dict(value) for phase, value in self.carriers.items()}}


def validate(table: LatencyTable, space: OperatorSpace[Any], workload: Workload, measure: Measure, *, count: int = 20,
             seed: int = 0, calibrate: bool = False, mode: str | None = None, progress: Progress = iter) -> Validation:
    """Measure `count` architectures and compare. Raises SpaceError when the space has too few, TableError when there
    is nothing to calibrate."""
    rng = np.random.default_rng(seed)
    model = LatencyModel(table, workload, mode=mode)
    if calibrate and not any(kind.startswith("operator_") for kind in model.table.kinds):
        raise TableError(f"{table.path}: --calibrate fits rows of whole operators, which table {table.name} does not"
                         " have; measure them with flashnas profile")
    architectures = sample(space, model, count, rng)
    measured = measure_in_rounds(architectures, measure, rng, progress)
    names = [figure for figure in TIMES if measured[architectures[0]][figure] > 0]

    def checks_by(model: LatencyModel, fitted: frozenset[int]) -> list[Check]:
        estimates = [model.estimate(a) for a in architectures]
        return [Check(architecture=a, predicted={name: estimate.metric(name) for name in names},
                      measured={name: measured[a][name] for name in names}, fitted=i in fitted)
                for i, (a, estimate) in enumerate(zip(architectures, estimates, strict=True))]

    before = None
    if calibrate:
        fitted = half(len(architectures), rng)
        held = [check for check in checks_by(model, fitted) if not check.fitted]
        before = tuple(Summary.of(held, name) for name in names)
        table, model = calibrated(table, model, [(a, measured[a]) for i, a in enumerate(architectures) if i in fitted])
        checks = checks_by(model, fitted)
    else:
        checks = checks_by(model, frozenset())
    held = [check for check in checks if not check.fitted]
    bare = LatencyModel(table, workload, calibrated=False, mode=mode)
    carriers = {phase: model_correction.kinds_of_error([terms(bare, check.architecture, phase, check.measured)
                                                  for check in held], model.model_corrections[phase])
                for phase, figure in PHASES.items() if figure in names}
    return Validation(table=table, mode=model.table.default_mode, checks=tuple(checks),
                      figures=tuple(Summary.of(held, name) for name in names), before=before,
                      corrections=dict(model.model_corrections), carriers=dict(carriers))


def sample(space: OperatorSpace[Any], model: LatencyModel, count: int, rng: np.random.Generator) -> list[Architecture]:
    """`count` different architectures, one at random from each of so many equal parts of a large random sample that is
    sorted by predicted latency; ascending. Those that a calibration was fitted to are left out."""
    used = set((model.table.calibration.get("whole") or {}).get("fitted_on", ()))
    pool: dict[str, Architecture] = {}
    for _ in range(POOL * count):
        architecture = space.architecture(space.sample(rng), int(rng.choice(space.hidden_sizes)))
        if architecture.hash not in used:
            pool.setdefault(architecture.hash, architecture)
    if len(pool) < count:
        raise SpaceError(f"space {space.name!r} gave only {len(pool)} architectures that no calibration was fitted to;"
                         f" asked for {count}")
    found = list(pool.values())
    order = np.argsort(model.latencies(found), kind="stable")
    return [found[int(rng.choice(part))] for part in np.array_split(order, count)]


def measure_in_rounds(architectures: Sequence[Architecture], measure: Measure, rng: np.random.Generator,
                      progress: Progress) -> dict[Architecture, dict[str, float]]:
    """Medians over ROUNDS, each in another order, so that a slow minute of the machine does not meet one of them."""
    order = [architectures[int(i)] for _ in range(ROUNDS) for i in rng.permutation(len(architectures))]
    found: dict[Architecture, list[Mapping[str, float]]] = {a: [] for a in architectures}
    for architecture in progress(order):
        found[architecture].append(measure(architecture))
    return {a: {name: float(np.median([values[name] for values in rounds])) for name in TIMES}
            for a, rounds in found.items()}


def half(count: int, rng: np.random.Generator) -> frozenset[int]:
    """One of each pair of neighbours, by coin."""
    return frozenset(int(first + rng.integers(2)) for first in range(0, count - 1, 2))


def calibrated(table: LatencyTable, model: LatencyModel, measured: Sequence[tuple[Architecture, Mapping[str, float]]],
               ) -> tuple[LatencyTable, LatencyModel]:
    """The table with a correction fitted to these architectures (in memory), and its model."""
    mode = model.table.default_mode
    bare = LatencyModel(table, model.workload, calibrated=False, mode=mode)
    fits = {phase: model_correction.fit([terms(bare, a, phase, figures) for a, figures in measured]).to_dict()
            for phase, figure in PHASES.items() if measured[0][1][figure] > 0}
    known = table.calibration.get("whole") or {}
    whole = {**known, mode: {**known.get(mode, {}), **fits}, "workload": model.workload.name,
             "fitted_on": sorted({*known.get("fitted_on", ()), *(a.hash for a, _ in measured)})}
    table = replace(table, meta={**table.meta, "calibration": {**table.calibration, "whole": whole}})
    return table, LatencyModel(table, model.workload, mode=mode)


def terms(bare: LatencyModel, architecture: Architecture, phase: Phase, figures: Mapping[str, float]) -> Regressors:
    """What the constants of a correction multiply, from a model without one; a decode step is the mean one."""
    steps = bare.workload.generated_tokens if phase == "decode" else 1
    by_kind: dict[str, float] = {}
    for entry in bare.estimate(architecture).breakdown:
        if entry["phase"] == phase:
            by_kind[entry["operator"]] = by_kind.get(entry["operator"], 0.0) + 1000 * entry["ms"] / steps
    seen = next(seen for name, seen, _ in bare.phases(architecture.meta_tokens) if name == phase)
    batch = bare.batch(architecture)
    megabytes = sum(bare.megabytes(spec, architecture.hidden, phase, batch, seen) for spec in architecture.operators)
    return Regressors(rows_us=sum(by_kind.values()), operators=len(architecture.operators), megabytes=megabytes,
                      measured_us=1000 * figures[PHASES[phase]], by_kind_us=by_kind)


def spearman(pairs: Sequence[tuple[float, float]]) -> float:
    if len(pairs) < 3:
        return float("nan")
    from scipy.stats import rankdata

    ranks = rankdata(np.array(pairs), axis=0)
    return float(np.corrcoef(ranks.T)[0, 1])


def store(result: Validation, space: OperatorSpace[Any], workload: Workload, *, seed: int, calibrate: bool) -> None:
    """Write the correction, if there is a new one, and the residuals of the held-out architectures into meta.yaml;
    an earlier validation of the same workload, space and mode is replaced."""
    table = result.table
    if calibrate:
        write_calibration(table.path, table.calibration)
    rows = table.only(result.mode)
    asked, space_hash, mode = key(rows, workload, space.hash)
    entry = {"date": time.strftime("%Y-%m-%d"), "space": space.name, "space_hash": space_hash, "workload": asked,
             "mode": mode, "seed": seed, "basis": basis(rows), "architectures": len(result.held_out),
             "figures": {summary.figure: {
                 **{name: value for name, value in summary.to_dict().items() if name not in ("figure", "count")},
                 "log_ratios": [round(-float(np.log1p(check.error(summary.figure))), 5) for check in result.held_out]}
                 for summary in result.figures}}
    others = [old for old in table.meta.get(VALIDATIONS, ())
              if (old["workload"], old["space_hash"], old["mode"]) != (asked, space_hash, mode)]
    write_entry(table.path, VALIDATIONS, [*others, entry])
