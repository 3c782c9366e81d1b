"""What is expected of networks: means, and covariances of which differences have intervals. No
torch."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from scipy.special import ndtr, ndtri, roots_hermitenorm

from flashnas.base.errors import ConfigError
from flashnas.base.text import shown

COVERED = 0.9  # by each interval
WITHIN_SDS = float(ndtri(0.5 + COVERED / 2))
# by which intervals over a reliability are found
NODES = 31
SHARES = 65
HALVINGS = 40
WIDEST = 20.0


@dataclass(frozen=True)
class Prediction:
    """Of N networks: the mean of the loss [N] in nats per token, up to one constant, and what the
    covariances of differences follow from. Given the reliability of the publication, losses are
    normal. Raises ConfigError for an array of another shape, or with a number that is not finite.

    shared [N, N]: covariance of what is common to publications. own [N, N]: of what a publication has
    of its own. unseen: standard deviation of the logarithm of the reliability that scales it; 0: it is
    known. noise: of one training; it is not part of a difference.

    Example:
        >>> import flashnas as fn
        >>> networks = [fn.Architecture.parse(f"2048: {text}") for text in ("12x(a f)", "12x(m2 f)")]
        >>> prediction = fn.loss_model().predict_networks(networks, tokens=1e11)
        >>> prediction.mean.shape, round(float(prediction.best([0, 1]).sum()), 9)
        ((2,), 1.0)
    """

    mean: np.ndarray
    shared: np.ndarray
    own: np.ndarray
    noise: float
    unseen: float

    def __post_init__(self) -> None:
        count = np.size(self.mean)
        for name, shape in (("mean", (count,)), ("shared", (count,) * 2), ("own", (count,) * 2)):
            check_array(f"Prediction.{name}", getattr(self, name), shape)

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray, noise: float = 0.0) -> Self:
        """From a mean [N] and a covariance [N, N]."""
        return cls(mean, covariance, np.zeros((np.size(mean),) * 2), noise, 0.0)

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Loss of network `one` less that of network `other`: mean and standard deviation, in nats
        per token."""
        return float(self.mean[one] - self.mean[other]), float(self.sd_to(other)[one])

    def sd_to(self, reference: int, trainings: int = 0) -> np.ndarray:
        """Standard deviation of the difference to one network, for all networks [N]: that of a
        normal variable with the same 90 % interval. trainings: whose noise is part of it."""
        shared, own = self.variances_to(reference, trainings)
        total = shared + own
        share = own / np.where(total > 0, total, 1.0)
        return np.sqrt(total) * np.interp(share, *widening(self.unseen))

    def best(
        self, indices: Sequence[int] | np.ndarray, draws: int = 4000, seed: int = 0
    ) -> np.ndarray:
        """Probability that each of these networks has the lowest loss among them."""
        index = np.asarray(indices)
        generator = np.random.default_rng(seed)
        shared, own = (
            generator.multivariate_normal(
                np.zeros(len(index)), part[np.ix_(index, index)], draws, "ignore", method="eigh"
            )
            for part in (self.shared, self.own)
        )
        reliability = np.exp(self.unseen * generator.standard_normal((draws, 1)))
        lowest = np.argmin(self.mean[index] + shared + reliability * own, axis=1)
        return np.bincount(lowest, minlength=len(index)) / draws

    def variances_to(self, reference: int, trainings: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the differences to one network [N]: of what is common, and of the publication's own."""
        shared, own = (
            np.maximum(np.diag(part) + part[reference, reference] - 2 * part[reference], 0.0)
            for part in (self.shared, self.own)
        )
        return shared, own + trainings * self.noise**2


def check_array(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise ConfigError for what is not an array of finite numbers of this shape."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.shape == shape
    if not (numbers and np.isfinite(value).all()):
        raise ConfigError(
            f"{name} must be an array {list(shape)} of finite numbers; got {shown(value)}"
        )


@functools.lru_cache(maxsize=8)
def reliabilities(sd: float) -> tuple[np.ndarray, np.ndarray]:
    """Values [R] of a reliability whose logarithm is normal with this standard deviation, and their
    weights [R], by Gauss-Hermite quadrature."""
    nodes, weights = roots_hermitenorm(NODES)
    return np.exp(sd * nodes), weights / weights.sum()


@functools.lru_cache(maxsize=8)
def widening(sd: float) -> tuple[np.ndarray, np.ndarray]:
    """By how much a 90 % interval is wider than that of a normal variable of the same variance, where
    a share of the variance is scaled by the square of an unknown reliability: shares and factors."""
    values, weights = reliabilities(sd)
    shares = np.linspace(0.0, 1.0, SHARES)
    sds = np.sqrt(1 - shares[:, None] + shares[:, None] * values**2)
    low, high = np.zeros(SHARES), np.full(SHARES, WIDEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        wide = (2 * ndtr(middle[:, None] * WITHIN_SDS / sds) - 1) @ weights > COVERED
        low = np.where(wide, low, middle)
        high = np.where(wide, middle, high)
    return shares, high
