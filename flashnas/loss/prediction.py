"""What is expected of networks: means, and covariances of which differences have intervals. No
torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
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
class PosteriorPart:
    """Covariance of N quantities after rows were seen. prior: (rows, columns) -> the one before.
    gain [N, C]: the posterior covariance is the prior's less gain gain^T. variance [N]."""

    prior: Callable[[np.ndarray, np.ndarray], np.ndarray]
    gain: np.ndarray
    variance: np.ndarray

    @classmethod
    def nothing(cls, count: int) -> Self:
        """Of quantities that do not vary."""
        zeros = np.zeros((count, 1))
        return cls(lambda rows, columns: zeros[rows] @ zeros[columns].T, zeros, zeros[:, 0])

    def covariance(self, index: np.ndarray) -> np.ndarray:
        """Of the quantities at these indices."""
        return self.prior(index, index) - self.gain[index] @ self.gain[index].T

    def variances_to(self, reference: int) -> np.ndarray:
        """Of the differences to one quantity [N]."""
        at = np.array([reference])
        cross = self.prior(np.arange(len(self.variance)), at)[:, 0]
        cross = cross - self.gain @ self.gain[reference]
        return np.maximum(self.variance + self.variance[reference] - 2 * cross, 0.0)


@dataclass(frozen=True)
class Prediction:
    """Of N networks: the mean of the loss [N] in nats per token, up to one constant, and what the
    covariances of differences follow from. Given the reliability of the publication, losses are
    normal. Raises ConfigError for an array of another shape, or with a number that is not finite.

    shared: what is common to publications. own: what a publication has of its own, at a reliability
    of 1. unseen: standard deviation of the logarithm of the reliability; 0: it is known. noise: of
    one training at a reliability of 1; it is not part of a difference.

    Example:
        >>> import flashnas as fn
        >>> networks = [fn.Architecture.parse(f"2048: {text}") for text in ("12x(a f)", "12x(m2 f)")]
        >>> prediction = fn.loss_model().predict_networks(networks, tokens=1e11)
        >>> prediction.mean.shape, round(float(prediction.best([0, 1]).sum()), 9)
        ((2,), 1.0)
    """

    mean: np.ndarray
    shared: PosteriorPart
    own: PosteriorPart
    noise: float
    unseen: float

    def __post_init__(self) -> None:
        check_array("Prediction.mean", self.mean, (np.size(self.mean),))
        for name in ("shared", "own"):
            part = getattr(self, name)
            if not isinstance(part, PosteriorPart):
                raise ConfigError(f"Prediction.{name} must be a PosteriorPart; got {shown(part)}")
            check_array(f"Prediction.{name}", part.variance, self.mean.shape)

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray, noise: float = 0.0) -> Self:
        """From a mean [N] and a covariance [N, N]."""
        check_array("Prediction: covariance", covariance, (np.size(mean),) * 2)
        shared = PosteriorPart(
            lambda rows, columns: covariance[np.ix_(rows, columns)],
            np.zeros((len(mean), 1)),
            np.diag(covariance),
        )
        return cls(mean, shared, PosteriorPart.nothing(len(mean)), noise, 0.0)

    def with_further(self, covariance: np.ndarray) -> Prediction:
        """The same with a covariance [N, N] more, of what is not a loss."""
        check_array("Prediction: covariance", covariance, (len(self.mean),) * 2)
        part = self.shared

        def prior(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
            return part.prior(rows, columns) + covariance[np.ix_(rows, columns)]

        shared = PosteriorPart(prior, part.gain, part.variance + np.diag(covariance))
        return dataclasses.replace(self, shared=shared)

    def covariance(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Posterior covariance of these networks, over all reliabilities."""
        index = np.asarray(indices)
        scale = float(np.exp(2 * self.unseen**2))
        return self.shared.covariance(index) + scale * self.own.covariance(index)

    def difference(self, one: int, other: int) -> tuple[float, float]:
        """Loss of network `one` less that of network `other`: mean and standard deviation, in nats
        per token. Raises ConfigError for an index without a network."""
        for index in (one, other):
            if not isinstance(index, int | np.integer) or not 0 <= index < len(self.mean):
                raise ConfigError(
                    f"difference: an index must be from 0 to {len(self.mean) - 1};"
                    f" got {shown(index)}"
                )
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
                np.zeros(len(index)), part.covariance(index), draws, "ignore", method="eigh"
            )
            for part in (self.shared, self.own)
        )
        reliability = np.exp(self.unseen * generator.standard_normal((draws, 1)))
        lowest = np.argmin(self.mean[index] + shared + reliability * own, axis=1)
        return np.bincount(lowest, minlength=len(index)) / draws

    def variances_to(self, reference: int, trainings: int) -> tuple[np.ndarray, np.ndarray]:
        """Of the differences to one network [N]: of what is common, and of the publication's own."""
        noise = trainings * self.noise**2
        return self.shared.variances_to(reference), self.own.variances_to(reference) + noise


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
