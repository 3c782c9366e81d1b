"""What whole models cost beyond rows of whole operators: the constants that `flashnas validate
--calibrate` finds and writes under `calibration.whole` of a table's meta.yaml, for each mode and
phase:

    time = scale x (rows) + operator_us x (operators) + model_us + mb_us x (megabytes of weights and
    state)

Constants are at least 0, but for operator_us in the mode cuda_graph: operators that were timed
alone start and end alone, whereas in a model the start of one hides behind the end of the other.
Rows of kernels have calibrations of their own (calibration.py).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, fields

import numpy as np

from flashnas.base.errors import TableError
from flashnas.latency.calibration import ModelCorrection

MIN_MODELS = 4
PARSIMONY = (
    0.9  # a further constant must bring the left-out error below this share of the error without it
)
MAX_CREDIT = 0.5  # share of a model's mean row that a negative operator_us may take off
# of the search for the operators that carry the error, relative to the mean square of the shares
RIDGE = 0.01


CONSTANTS = tuple(each.name for each in fields(ModelCorrection))


@dataclass(frozen=True, kw_only=True)
class Regressors:
    """One model in one phase: what the constants multiply, and the measured time. by_kind_us:
    operator -> its part of rows_us."""

    rows_us: float
    operators: int
    megabytes: float
    measured_us: float
    by_kind_us: dict[str, float] = field(default_factory=dict)


def fit(models: list[Regressors], mode: str = "") -> ModelCorrection:
    """Least squares of the relative error with as few constants as the models left out justify, at
    least 0 each; in the mode cuda_graph operator_us may be negative, down to MAX_CREDIT of the mean
    row of a model. Raises TableError below 4 models."""
    if len(models) < MIN_MODELS:
        raise TableError(f"calibration needs at least {MIN_MODELS} whole models; got {len(models)}")
    min_us = 0.0
    if mode == "cuda_graph":  # its rows are of operators alone
        min_us = -MAX_CREDIT * min(model.rows_us / model.operators for model in models)
    x = _relative(models)
    values = map(float, _solve(x, _choose(x, min_us), min_us))
    return ModelCorrection(**dict(zip(CONSTANTS, values, strict=True)))


def _relative(models: list[Regressors]) -> np.ndarray:
    """What the constants multiply, as shares of the measured times, shape [models, 4]."""
    return np.array(
        [
            np.array([model.rows_us, model.operators, 1.0, model.megabytes]) / model.measured_us
            for model in models
        ]
    )


def _choose(x: np.ndarray, min_us: float) -> tuple[int, ...]:
    best: tuple[int, ...] = ()
    best_error = _left_out_error(x, best, min_us)
    for count in range(1, len(CONSTANTS) + 1):
        tried = {
            chosen: _left_out_error(x, chosen, min_us)
            for chosen in itertools.combinations(range(len(CONSTANTS)), count)
        }
        chosen = min(tried, key=lambda key: tried[key])
        if tried[chosen] < PARSIMONY * best_error:
            best, best_error = chosen, tried[chosen]
    return best


def _solve(x: np.ndarray, chosen: tuple[int, ...], min_us: float) -> np.ndarray:
    """The constants, of which only `chosen` are fitted. min_us: of operator_us."""
    values = np.array([getattr(ModelCorrection(), key) for key in CONSTANTS])
    if chosen:
        from scipy.optimize import nnls  # slow to import; estimates do not need it

        values[list(chosen)] = 0.0
        floor = np.array([min_us if CONSTANTS[i] == "operator_us" else 0.0 for i in chosen])
        values[list(chosen)] = floor + nnls(x[:, chosen], 1 - x @ values - x[:, chosen] @ floor)[0]
    return values


def _left_out_error(x: np.ndarray, chosen: tuple[int, ...], min_us: float) -> float:
    """Root mean square error of each model under the fit to the others."""
    everyone = np.arange(len(x))
    shares = np.array([x[i] @ _solve(x[everyone != i], chosen, min_us) for i in everyone])
    return float(np.sqrt(np.mean(np.square(shares - 1))))


def kinds_of_error(
    models: list[Regressors], correction: ModelCorrection
) -> dict[str, dict[str, float]]:
    """Which operators cause the error: operator -> own_error, the relative error of its own time
    that explains the residuals best (ridge regression); share, its mean share of the time; carries,
    their product."""
    names = sorted({kind for model in models for kind in model.by_kind_us})
    if not names:
        return {}
    y = np.array([model.measured_us for model in models])
    shares = (
        np.array([[model.by_kind_us.get(name, 0.0) for name in names] for model in models])
        / y[:, None]
    )
    residual = 1 - _relative(models) @ [getattr(correction, key) for key in CONSTANTS]
    ridge = RIDGE * len(models) * np.square(shares).mean()
    own = np.linalg.solve(shares.T @ shares + ridge * np.eye(len(names)), shares.T @ residual)
    mean = shares.mean(0)
    return {
        name: {
            "own_error": float(own[i]),
            "share": float(mean[i]),
            "carries": float(own[i] * mean[i]),
        }
        for i, name in sorted(enumerate(names), key=lambda pair: -abs(own[pair[0]] * mean[pair[0]]))
    }
