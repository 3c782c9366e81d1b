"""What whole models cost beyond the sum of their operators' rows: found by `flashnas validate --calibrate`.

For each mode and phase, constants under `calibration.whole.<mode>.<phase>` in meta.yaml:

    time = scale x (rows) + operator_us x (operators) + model_us + mb_us x (megabytes of weights and state)

operator_us is what stands between two blocks, model_us what a model costs once, mb_us the pressure on the caches that
grows with the model. It applies to rows of whole operators; sums of kernels have their own constants (calibration.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from flashnas.base.errors import TableError
from flashnas.latency.answer import SPREAD, Answer
from flashnas.latency.table import LatencyTable

CONSTANTS = ("scale", "operator_us", "model_us", "mb_us")
NEUTRAL = {"scale": 1.0, "operator_us": 0.0, "model_us": 0.0, "mb_us": 0.0}
PARSIMONY = 0.9    # a further constant must bring the left-out error below this share of the error without it
RIDGE = 0.01       # of the search for the operators that carry the error, relative to the mean square of the shares


@dataclass(frozen=True, kw_only=True)
class Correction:
    """Constants of one phase; see the module."""

    scale: float = 1.0
    operator_us: float = 0.0
    model_us: float = 0.0
    mb_us: float = 0.0

    @classmethod
    def of(cls, table: LatencyTable, mode: str, phase: str) -> Correction:
        """From meta.yaml; raises TableError if an entry is no number of at least 0."""
        place, entry = "calibration", table.calibration
        for key in ("whole", mode, phase):
            place, entry = f"{place}.{key}", entry.get(key, {})
            if not isinstance(entry, Mapping):
                raise TableError(f"{table.path / 'meta.yaml'}: {place} must be a mapping; got {entry!r}")
        values = {key: entry[key] for key in CONSTANTS if key in entry}
        for key, value in values.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
                raise TableError(f"{table.path / 'meta.yaml'}: {place}.{key} must be a number of at least 0;"
                                 f" got {value!r}")
        return cls(**values)

    def to_dict(self) -> dict[str, float]:
        return {key: round(getattr(self, key), 5) for key in CONSTANTS}

    def added(self, *, operators: int, models: int, megabytes: float) -> Answer | None:
        """What comes on top of `scale` times the row; None if nothing."""
        us = self.operator_us * operators + self.model_us * models + self.mb_us * megabytes
        return Answer(us, us * (1 - SPREAD["derived"]), us * (1 + SPREAD["derived"]), "derived") if us else None


@dataclass(frozen=True, kw_only=True)
class Terms:
    """One model in one phase: what the constants multiply, and the measured time. Microseconds and megabytes."""

    rows_us: float
    operators: int
    megabytes: float
    measured_us: float
    by_kind_us: dict[str, float] = field(default_factory=dict)

    def vector(self) -> np.ndarray:
        return np.array([self.rows_us, self.operators, 1.0, self.megabytes])

    def predicted_us(self, correction: Correction) -> float:
        return float(self.vector() @ [getattr(correction, key) for key in CONSTANTS])


def fit(terms: list[Terms]) -> Correction:
    """Non-negative least squares of the relative error, with as few constants as the models left out justify.

    Raises TableError below 4 models.
    """
    if len(terms) < 4:
        raise TableError(f"calibration needs at least 4 whole models; got {len(terms)}")
    y = np.array([term.measured_us for term in terms])
    x = np.array([term.vector() for term in terms]) / y[:, None]
    best: tuple[int, ...] = ()
    best_error = _left_out_error(x, best)
    for count in range(1, len(CONSTANTS) + 1):
        tried = {chosen: _left_out_error(x, chosen) for chosen in itertools.combinations(range(len(CONSTANTS)), count)}
        chosen = min(tried, key=lambda key: tried[key])
        if tried[chosen] < PARSIMONY * best_error:
            best, best_error = chosen, tried[chosen]
    return Correction(**dict(zip(CONSTANTS, map(float, _solve(x, best)), strict=True)))


def _solve(x: np.ndarray, chosen: tuple[int, ...]) -> np.ndarray:
    """The constants, of which only `chosen` are fitted; the others are neutral."""
    values = np.array([NEUTRAL[key] for key in CONSTANTS])
    if chosen:
        from scipy.optimize import nnls  # slow to import, and estimates do without

        values[list(chosen)] = 0.0
        values[list(chosen)] = nnls(x[:, chosen], 1 - x @ values)[0]
    return values


def _left_out_error(x: np.ndarray, chosen: tuple[int, ...]) -> float:
    """Root mean square of the relative errors of each model under the fit to the others."""
    everyone = np.arange(len(x))
    errors = [x[i] @ _solve(x[everyone != i], chosen) - 1 for i in everyone]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def kinds_of_error(terms: list[Terms], correction: Correction) -> dict[str, dict[str, float]]:
    """Which operators carry the error: for each kind the relative error of its own time that explains the residuals
    best (ridge regression), its mean share of the time, and both multiplied."""
    names = sorted({kind for term in terms for kind in term.by_kind_us})
    if not names:
        return {}
    y = np.array([term.measured_us for term in terms])
    shares = np.array([[term.by_kind_us.get(name, 0.0) for name in names] for term in terms]) / y[:, None]
    residual = 1 - np.array([term.predicted_us(correction) for term in terms]) / y
    ridge = RIDGE * len(terms) * np.square(shares).mean()
    own = np.linalg.solve(shares.T @ shares + ridge * np.eye(len(names)), shares.T @ residual)
    mean = shares.mean(0)
    return {name: {"own_error": float(own[i]), "share": float(mean[i]), "carries": float(own[i] * mean[i])}
            for i, name in sorted(enumerate(names), key=lambda pair: -abs(own[pair[0]] * mean[pair[0]]))}


