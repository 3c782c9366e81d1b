"""The loss as a function of depth D, width W and training tokens N: `L0 + a D^-alpha + b W^-beta + c
N^-gamma`, the law of Nemotron-Flash (arXiv 2511.18890, section 2.1), here for losses in nats per token.

Its constants are positive, and fitted in the logarithm by robust least squares from many starts. Tokens that
are the same everywhere leave their term in L0. A term is written by its size in the middle of the data, `a (D
/ D')^-alpha` with D' the geometric mean of the depths, which keeps size and exponent apart. A weak prior
holds an exponent that the data do not fix. No torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import least_squares, nnls

from flashnas.base.errors import RunError
from flashnas.evidence.agreement import CONFIDENCE

AXES = ("depth", "width", "tokens")
CONSTANTS = {"depth": ("a", "alpha"), "width": ("b", "beta"), "tokens": ("c", "gamma")}
DRAWS, STARTS = 200, 6                # exponents that are drawn; the best of them, where the fit starts
RESAMPLES = 200
EXPONENTS = (0.01, 6.0)               # limits in the fit
TERM_NATS = (1e-6, 100.0)             # limits of a term in the middle of the data, and of L0
GONE_NATS = 1e-3                      # a term below this in the middle of the data says nothing
USUAL_EXPONENT, SPREAD = 0.5, 1.5     # prior of an exponent: median, standard deviation of the logarithm
MIN_NOISE_NATS = 1e-5
TAILS = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]


def sizes_P3(points: pd.DataFrame) -> np.ndarray:
    """Depth, width and tokens of each training."""
    return points[list(AXES)].to_numpy(float)


@dataclass(frozen=True, kw_only=True)
class SizeLaw:
    """A fitted law.

    axes: of AXES, those that have a term. middle: geometric mean of each. theta: logarithms of L0, then of
    size and exponent for each axis. noise_nats: of the residuals, robust. draws: theta of the bootstrap [R, 1
    + 2 axes].
    """

    axes: tuple[str, ...]
    middle: np.ndarray
    theta: np.ndarray
    noise_nats: float
    draws: np.ndarray = field(default_factory=lambda: np.empty((0, 0)), repr=False)

    def loss(self, depth: Any, width: Any, tokens: Any) -> np.ndarray:
        """The loss of networks in nats per token; numbers or arrays that broadcast."""
        return _predicted(self.theta, self._logs(depth, width, tokens))

    def interval(self, depth: Any, width: Any, tokens: Any) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 95 % interval of `loss`, without the noise of a training; both are `loss` without
        resamples."""
        logs = self._logs(depth, width, tokens)
        losses = [_predicted(theta, logs) for theta in (self.draws if len(self.draws) else [self.theta])]
        low, high = np.quantile(losses, TAILS, axis=0)
        return low, high

    def _logs(self, depth: Any, width: Any, tokens: Any) -> np.ndarray:
        """Logarithms of the sizes over the middle, of shape [axes, ..]."""
        sizes = np.broadcast_arrays(*(np.asarray(size, dtype=float) for size in (depth, width, tokens)))
        return np.stack([np.log(sizes[AXES.index(axis)] / middle)
                         for axis, middle in zip(self.axes, self.middle, strict=True)])

    @property
    def constants(self) -> dict[str, float | None]:
        """L0, a, alpha, b, beta, c, gamma; c and gamma are None if all trainings had the same tokens."""
        return _constants(self.theta, self.axes, self.middle)

    @property
    def gone(self) -> tuple[str, ...]:
        """Axes whose term the data do not show: it is at most a thousandth of a nat in the middle of the
        data."""
        return tuple(axis for axis, size in zip(self.axes, self.theta[1::2], strict=True) if size
                     < np.log(GONE_NATS))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: the constants, and `intervals`, name -> [low, high]."""
        draws = pd.DataFrame([_constants(theta, self.axes, self.middle) for theta in self.draws])
        intervals = {name: np.quantile(draws[name], TAILS).tolist() for name, value in self.constants.items()
                     if value is not None and len(draws)}
        return {**self.constants, "intervals": intervals, "noise_nats": self.noise_nats}


def too_few(points: pd.DataFrame) -> str:
    """Why a law cannot be fitted to these trainings, in words; empty if it can."""
    sizes, constants = np.unique(sizes_P3(points), axis=0), 1 + 2 * len(_axes(points))
    if len(sizes) < constants:
        return (f"the law has {constants} constants, so that it needs trainings of at least as many sizes;"
                f" got {len(sizes)}")
    for axis in AXES[:2]:
        if (points[axis] == points[axis].iloc[0]).all():
            return f"the law needs at least 2 values of {axis}; got {points[axis].iloc[0]:g} only"
    return ""


def _axes(points: pd.DataFrame) -> tuple[str, ...]:
    return AXES if points["tokens"].nunique() > 1 else AXES[:2]


def fit(points: pd.DataFrame, *, resamples: int = RESAMPLES, place: str = "scaling law") -> SizeLaw:
    """The law of these trainings; the same trainings give the same law.

    Args:
        resamples: of the bootstrap over sizes; 0: no intervals.
        place: what the trainings are from, for messages.

    Raises:
        RunError: for fewer sizes than constants, and for a single depth or width.
    """
    if reason := too_few(points):
        raise RunError(f"{place}: {reason}")
    axes, loss_P = _axes(points), points["loss"].to_numpy(float)
    logs = np.log(points[list(axes)].to_numpy(float))
    middle = np.exp(logs.mean(axis=0))
    logs = np.log(points[list(axes)].to_numpy(float) / middle).T
    rng = np.random.default_rng(0)
    theta, noise = _fitted(logs, loss_P, rng)
    group_P = np.unique(sizes_P3(points), axis=0, return_inverse=True)[1].ravel()
    draws = np.array(list(_resampled(logs, loss_P, group_P, theta, noise, resamples, rng)))
    return SizeLaw(axes=axes, middle=middle, theta=theta, noise_nats=noise, draws=draws)


# -- the fit -------------------------------------------------------------------------------------------------


def _predicted(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Losses of sizes, given as logarithms over the middle, of shape [axes, ..]."""
    loss = np.full(logs.shape[1:], np.exp(theta[0]))
    for size, exponent, log in zip(theta[1::2], theta[2::2], logs, strict=True):
        loss = loss + np.exp(size - np.exp(exponent) * log)
    return loss


def _jacobian(theta: np.ndarray, logs: np.ndarray) -> np.ndarray:
    """Derivatives of `_predicted` by theta, of shape [P, theta]."""
    columns = [np.full(logs.shape[1], np.exp(theta[0]))]
    for size, exponent, log in zip(theta[1::2], theta[2::2], logs, strict=True):
        term = np.exp(size - np.exp(exponent) * log)
        columns += [term, -term * np.exp(exponent) * log]
    return np.stack(columns, axis=1)


def _constants(theta: np.ndarray, axes: tuple[str, ...], middle: np.ndarray) -> dict[str, float | None]:
    constants: dict[str, float | None] = {"L0": float(np.exp(theta[0]))}
    for axis, names in CONSTANTS.items():
        if axis not in axes:
            constants.update(dict.fromkeys(names))
            continue
        place = axes.index(axis)
        size, exponent = theta[1 + 2 * place], float(np.exp(theta[2 + 2 * place]))
        constants.update({names[0]: float(np.exp(size + exponent * np.log(middle[place]))),
                          names[1]: exponent})
    return constants


def _starts(logs: np.ndarray, loss_P: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """The best of many exponents: with these fixed, the rest is a linear problem with signs."""
    low, high = np.log(TERM_NATS)
    starts = []
    for _ in range(DRAWS):
        exponents = np.exp(rng.uniform(np.log(0.1), np.log(3.0), len(logs)))
        columns = np.stack([np.ones_like(loss_P), *np.exp(-exponents[:, None] * logs)], axis=1)
        sizes, misfit = nnls(columns, loss_P)
        theta = np.empty(1 + 2 * len(logs))
        theta[0] = np.log(max(sizes[0], 0.01))
        theta[1::2], theta[2::2] = np.clip(np.log(np.maximum(sizes[1:], 1e-3)), low, high), np.log(exponents)
        starts.append((misfit, theta))
    return [theta for _, theta in sorted(starts, key=lambda pair: pair[0])[:STARTS]]


def _descended(start: np.ndarray, logs: np.ndarray, loss_P: np.ndarray, noise: float, steps: int = 500,
               ) -> tuple[float, np.ndarray]:
    """-> (cost, theta). The prior counts as one measurement with the noise of a training."""
    terms = len(logs)
    prior = np.zeros((terms, 1 + 2 * terms))
    prior[np.arange(terms), 2 + 2 * np.arange(terms)] = noise / SPREAD

    def residuals(theta: np.ndarray) -> np.ndarray:
        return np.concatenate([_predicted(theta, logs) - loss_P,
                               (theta[2::2] - np.log(USUAL_EXPONENT)) * noise / SPREAD])

    low = np.log([TERM_NATS[0], *[TERM_NATS[0], EXPONENTS[0]] * terms])
    high = np.log([TERM_NATS[1], *[TERM_NATS[1], EXPONENTS[1]] * terms])
    solution = least_squares(residuals, np.clip(start, low + 1e-9, high - 1e-9), bounds=(low, high),
                          loss="soft_l1", f_scale=2 * noise, x_scale="jac", max_nfev=steps,
                          jac=lambda theta: np.concatenate([_jacobian(theta, logs), prior]))
    return float(solution.cost), solution.x


def _fitted(logs: np.ndarray, loss_P: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """-> (theta, noise). Fits again as the noise, which weighs prior and outliers, becomes known."""
    starts, noise = _starts(logs, loss_P, rng), 0.05
    for _ in range(4):
        ends = sorted((_descended(start, logs, loss_P, noise) for start in starts),
                      key=lambda solution: solution[0])
        theta = ends[0][1]
        free = len(loss_P) / max(1, len(loss_P) - len(theta))
        spread = 1.4826 * float(np.median(np.abs(_predicted(theta, logs) - loss_P))) * np.sqrt(free)
        noise = float(np.clip(spread, MIN_NOISE_NATS, noise))
        starts = [end for _, end in ends[:2]]
    return theta, noise


def _resampled(logs: np.ndarray, loss_P: np.ndarray, group_P: np.ndarray, theta: np.ndarray, noise: float,
               resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Fits to sizes drawn with replacement, all seeds of a size together; each draw has two values of an
    axis."""
    members = [np.flatnonzero(group_P == group) for group in range(group_P.max() + 1)]
    for _ in range(resamples):
        while True:
            taken = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
            if (np.ptp(logs[:, taken], axis=1) > 0).all():
                break
        yield _descended(theta, logs[:, taken], loss_P[taken], noise, steps=50)[1]
