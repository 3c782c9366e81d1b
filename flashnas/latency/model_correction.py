"""What whole models cost beyond the sum of their operators' rows: found by `flashnas validate --calibrate`.

For each mode and phase, constants under `calibration.whole.<mode>.<phase>` in meta.yaml:

    time = scale x (rows) + operator_us x (operators) + model_us + mb_us x (megabytes of weights and state)

operator_us is the time between two blocks, model_us the time that a model takes once, mb_us the pressure on the caches
that grows with the model. Constants are at least 0, but for operator_us in the mode cuda_graph: operators that were
timed alone start and end alone, whereas in a model the start of one hides behind the end of the other. The correction
applies to rows of whole operators; sums of kernels have their own constants (kernel_correction.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashnas.base.errors import TableError
from flashnas.latency.bounded_time import SOURCE_SPREAD, BoundedTime
from flashnas.latency.correction import TIMED_ALONE, Correction
from flashnas.operators import Phase

PARSIMONY = 0.9    # a further constant must bring the left-out error below this share of the error without it
LARGEST_CREDIT = 0.5   # share of a model's mean row that a negative operator_us may take off
RIDGE = 0.01       # of the search for the operators that carry the error, relative to the mean square of the shares


@dataclass(frozen=True, kw_only=True)
class ModelCorrection(Correction):
    """Constants of one phase; see the module."""

    scale: float = 1.0
    operator_us: float = 0.0
    model_us: float = 0.0
    mb_us: float = 0.0

    @classmethod
    def of(cls, calibration: Mapping[str, Any], mode: str, phase: Phase) -> ModelCorrection:
        """The constants of a mode and phase."""
        return cls.read(calibration.get("whole", {}).get(mode, {}).get(phase, {}))

    def added(self, *, operators: int, models: int, megabytes: float) -> BoundedTime | None:
        """What the correction adds to `scale` times the row; None if nothing.

        Args:
            operators: 1 with the row of an operator, else 0.
            models: 1 with the row that every model has once, else 0.
            megabytes: 10^6 bytes of weights and state.
        """
        us = self.operator_us * operators + self.model_us * models + self.mb_us * megabytes
        lower, upper = sorted((us * (1 - SPREAD), us * (1 + SPREAD)))
        return BoundedTime(us, lower, upper, "derived") if us else None


CONSTANTS = ModelCorrection.names()
SPREAD = SOURCE_SPREAD["derived"]


@dataclass(frozen=True, kw_only=True)
class Regressors:
    """One model in one phase: what the constants multiply, and the measured time.

    Args:
        rows_us: sum of the rows.
        operators: how many.
        megabytes: 10^6 bytes of weights and state.
        measured_us: time of the whole model.
        by_kind_us: operator -> its part of rows_us.
    """

    rows_us: float
    operators: int
    megabytes: float
    measured_us: float
    by_kind_us: dict[str, float] = field(default_factory=dict)

    def vector(self) -> np.ndarray:
        """In the order of CONSTANTS, shape [4]."""
        return np.array([self.rows_us, self.operators, 1.0, self.megabytes])

    def predicted_us(self, correction: ModelCorrection) -> float:
        """The time that the correction predicts."""
        return float(self.vector() @ [getattr(correction, key) for key in CONSTANTS])


def fit(models: list[Regressors], mode: str = "") -> ModelCorrection:
    """Least squares of the relative error with as few constants as the models left out justify, at least 0 each; in
    the mode cuda_graph operator_us may be negative, down to LARGEST_CREDIT of the mean row of a model.

    Raises TableError below 4 models.
    """
    if len(models) < 4:
        raise TableError(f"calibration needs at least 4 whole models; got {len(models)}")
    x, least_us = _relative(models), _least_operator_us(models, mode)
    chosen = _choose(x, least_us)
    return ModelCorrection(**dict(zip(CONSTANTS, map(float, _solve(x, chosen, least_us)), strict=True)))


def fit_leaving_out(models: list[Regressors], mode: str = "") -> tuple[ModelCorrection, list[float]]:
    """`fit`, and for each model the time in microseconds that a fit of the same constants to the others predicts."""
    found, x, least_us = fit(models, mode), _relative(models), _least_operator_us(models, mode)
    chosen, everyone = _choose(x, least_us), np.arange(len(x))
    return found, [float(x[i] @ _solve(x[everyone != i], chosen, least_us)) * models[i].measured_us for i in everyone]


def _least_operator_us(models: list[Regressors], mode: str) -> float:
    if mode not in TIMED_ALONE:
        return 0.0
    return -LARGEST_CREDIT * min(model.rows_us / model.operators for model in models)


def _relative(models: list[Regressors]) -> np.ndarray:
    """What the constants multiply, as shares of the measured times, shape [models, 4]."""
    return np.array([model.vector() / model.measured_us for model in models])


def _choose(x: np.ndarray, least_us: float) -> tuple[int, ...]:
    """The constants that the models left out justify."""
    best: tuple[int, ...] = ()
    best_error = _left_out_error(x, best, least_us)
    for count in range(1, len(CONSTANTS) + 1):
        tried = {chosen: _left_out_error(x, chosen, least_us)
                 for chosen in itertools.combinations(range(len(CONSTANTS)), count)}
        chosen = min(tried, key=lambda key: tried[key])
        if tried[chosen] < PARSIMONY * best_error:
            best, best_error = chosen, tried[chosen]
    return best


def _solve(x: np.ndarray, chosen: tuple[int, ...], least_us: float) -> np.ndarray:
    """The constants, of which only `chosen` are fitted; the others correct nothing. least_us: of operator_us."""
    values = np.array([getattr(ModelCorrection(), key) for key in CONSTANTS])
    if chosen:
        from scipy.optimize import nnls  # slow to import; estimates do not need it

        values[list(chosen)] = 0.0
        floor = np.array([least_us if CONSTANTS[i] == "operator_us" else 0.0 for i in chosen])
        values[list(chosen)] = floor + nnls(x[:, chosen], 1 - x @ values - x[:, chosen] @ floor)[0]
    return values


def _left_out_error(x: np.ndarray, chosen: tuple[int, ...], least_us: float) -> float:
    """Root mean square of the relative errors of each model under the fit to the others."""
    everyone = np.arange(len(x))
    errors = [x[i] @ _solve(x[everyone != i], chosen, least_us) - 1 for i in everyone]
    return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0


def kinds_of_error(models: list[Regressors], correction: ModelCorrection) -> dict[str, dict[str, float]]:
    """Which operators cause the error: for each kind the relative error of its own time that explains the residuals
    best (ridge regression), its mean share of the time, and their product. Operator -> own_error, share, carries."""
    names = sorted({kind for model in models for kind in model.by_kind_us})
    if not names:
        return {}
    y = np.array([model.measured_us for model in models])
    shares = np.array([[model.by_kind_us.get(name, 0.0) for name in names] for model in models]) / y[:, None]
    residual = 1 - np.array([model.predicted_us(correction) for model in models]) / y
    ridge = RIDGE * len(models) * np.square(shares).mean()
    own = np.linalg.solve(shares.T @ shares + ridge * np.eye(len(names)), shares.T @ residual)
    mean = shares.mean(0)
    return {name: {"own_error": float(own[i]), "share": float(mean[i]), "carries": float(own[i] * mean[i])}
            for i, name in sorted(enumerate(names), key=lambda pair: -abs(own[pair[0]] * mean[pair[0]]))}


