"""The loss to expect of a full training, up to a constant: from what others have trained in full.

    loss = level of the group + lambda law + beta . features + residual of the composition + noise

Every coefficient is a mean over publications plus a deviation of each publication. A prediction is
for a new publication, or the user's own. The residual is a Gaussian process over the composition,
as uncertain as its prior where nobody trained anything alike. Publications have a reliability each,
a robust likelihood. All else is a Gaussian posterior, which is exact. Differences alone have a
meaning. An operator that no publication has is predicted from size and shape, and from its short
training (`short_effect`). No torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.text import shown, tokens_of
from flashnas.evidence.composition import (
    FEATURES,
    FULL_SHARE,
    SILENT,
    Law,
    Rows,
    Table,
    aspect,
    body_sizes,
    effective,
    mix_of,
)

NEW = "a new publication"
LAW_NATS = 2.5  # the law's value at which its coefficient turns
SHARE_SCALE = 0.5  # of the residual process: of the shares of mixers
FFN_SCALE = 0.2  # of the residual process: of the share of feed-forward layers
NEW_RELIABILITY = 1.25  # of a publication that nobody has seen yet; 1: as the others' median
# standard deviations before anything was seen, in nats for a full effect. law: of its coefficient
PRIOR_SDS = {
    "law": 0.3,
    "mixed": 0.15,
    "gated_delta": 0.15,
    "ffn": 0.3,
    "window": 0.05,
    "edge": 0.05,
    "experts": 0.05,
}
# of what publications do not vouch for. Each publication has effects of its own there: the one row
# that somebody trained teaches nothing about the next publication.
SILENT_SDS = {
    "ffn_share": 0.1,
    "bare": 0.1,
    "rare": 0.03,
    "new_mix": 0.06,
    "aspect": 0.2,
    "size": 0.05,
    "tokens": 0.02,
}
# standard deviations of `silence` that are added to the mean where networks are ranked
CHARGE = 1.0
# nats of a full training for a nat of a short one, of an operator that no publication has; the sd
# of such an operator is that of `rare`: experiments/evidence/unknown_operators.py
SHORT_WEIGHT = 0.22
OF_SIZE = ("law", "size", "tokens", "aspect", "experts")  # columns of size and shape
_LAW = FEATURES.index("law")


@dataclass(frozen=True)
class Spreads:
    """Standard deviations that the data tell: common, between publications (`own`), of both
    residual processes, of the noise; `reliability` is a factor of each publication."""

    common: Mapping[str, float]
    own: Mapping[str, float]
    residual: float
    own_residual: float
    noise: float
    reliability: Mapping[str, float]


@dataclass(frozen=True)
class Prediction:
    """Of N networks: the mean of the loss [N] in nats per token, up to one constant, and what the
    covariances of differences follow from. `noise` is that of one training. It is not part of a
    difference. Raises ConfigError for an array of another shape, or with a number that is not
    finite."""

    mean: np.ndarray
    prior: Any  # (rows, columns) -> prior covariance
    gain: np.ndarray  # [N, C]: the posterior covariance is the prior's less gain gain^T
    variance: np.ndarray  # [N]
    noise: float

    def __post_init__(self) -> None:
        check_array("Prediction.mean", self.mean, (np.size(self.mean),))
        check_array("Prediction.variance", self.variance, self.mean.shape)

    @classmethod
    def of(cls, mean: np.ndarray, covariance: np.ndarray, noise: float = 0.0) -> Self:
        """From a mean [N] and a covariance [N, N]."""
        check_array("Prediction: covariance", covariance, (np.size(mean),) * 2)
        return cls(
            mean=mean,
            prior=lambda rows, columns: covariance[np.ix_(rows, columns)],
            gain=np.zeros((len(mean), 1)),
            variance=np.diag(covariance),
            noise=noise,
        )

    def covariance(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Posterior covariance of these networks."""
        index = np.asarray(indices)
        return np.asarray(self.prior(index, index) - self.gain[index] @ self.gain[index].T)

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

    def sd_to(self, reference: int) -> np.ndarray:
        """Standard deviation of the difference to one network, for all networks [N]."""
        at = np.array([reference])
        cross = self.prior(np.arange(len(self.mean)), at)[:, 0] - self.gain @ self.gain[reference]
        return np.sqrt(np.maximum(self.variance + self.variance[reference] - 2 * cross, 0.0))

    def best(
        self, indices: Sequence[int] | np.ndarray, draws: int = 4000, seed: int = 0
    ) -> np.ndarray:
        """Probability that each of these networks has the lowest loss among them."""
        index = np.asarray(indices)
        values, vectors = np.linalg.eigh(self.covariance(index))
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = np.random.default_rng(seed).standard_normal((draws, len(index)))
        lowest = np.argmin(self.mean[index] + normal @ root.T, axis=1)
        return np.bincount(lowest, minlength=len(index)) / draws


def check_array(name: str, value: Any, shape: tuple[int, ...]) -> None:
    """Raise ConfigError for what is not an array of finite numbers of this shape."""
    numbers = isinstance(value, np.ndarray) and value.dtype.kind in "fiu" and value.shape == shape
    if not (numbers and np.isfinite(value).all()):
        raise ConfigError(
            f"{name} must be an array {list(shape)} of finite numbers; got {shown(value)}"
        )


class FullLoss:
    """The posterior after published rows.

    Args:
        spreads: the standard deviations (experiments/evidence/fitting.py).
        response: of the loss of a proxy in ln N, r, mixed, gated_delta and 1, for `short_effect`.
        mix: False for the law of size and shape alone.
        publication: predictions are for this one; NEW for one without rows.
    """

    def __init__(
        self,
        rows: Rows,
        spreads: Spreads,
        law: Law,
        *,
        response: Sequence[float] = (),
        mix: bool = True,
        publication: str = NEW,
    ) -> None:
        self.rows, self.law, self.response = rows, law, tuple(response)
        self.publication = publication
        # without its mix a network is its size and shape
        self.spreads = (
            spreads if mix else dataclasses.replace(spreads, residual=0.0, own_residual=0.0)
        )
        common = [{**PRIOR_SDS, **spreads.common}[name] for name in FEATURES]
        own = [spreads.own.get(name, 0.0) for name in FEATURES]
        self._common = np.square([*common, *[0.0] * len(SILENT)])
        self._own = np.square([*own, *(SILENT_SDS[name] for name in SILENT)])
        self._seen = np.array([name == "law" or mix for name in (*FEATURES, *SILENT)])
        self.contrasts = contrasts(rows.level)
        gaps = self.contrasts @ (rows.nats - self._known(rows))
        noise = np.square(spreads.noise * self._reliability(rows.publication))
        full = self.contrasts @ (self._prior(rows, rows) + np.diag(noise)) @ self.contrasts.T
        self._root = np.linalg.cholesky(full)
        self._weights = np.linalg.solve(self._root, gaps)
        self.cost = float(0.5 * self._weights @ self._weights + np.log(np.diag(self._root)).sum())

    # -- what a network looks like -----------------------------------------------------------------

    def table(
        self,
        networks: Sequence[Architecture],
        tokens: float,
        short: Sequence[float] | None = None,
    ) -> Table:
        """Networks of one planned training as the model sees them. short: `short_effect` of each;
        None: nothing was trained."""
        return Table.of(
            self.law,
            [mix_of(network.operators) for network in networks],
            [body_sizes(network.operators, network.hidden) for network in networks],
            [network.hidden for network in networks],
            tokens,
            self.publication,
            short=0.0 if short is None else np.asarray(short, float),
        )

    def short_effect(self, proxy: Architecture, loss: float | None) -> float:
        """What the loss of a short training adds to the mean, in nats per token: SHORT_WEIGHT times
        what it says beyond size, shape and mix of the network that was trained.

        It is 0 without a loss, and for a network of operators that publications have: their
        trainings say what a short one cannot add to.
        """
        if loss is None or not np.isfinite(loss) or not self.response:
            return 0.0
        share = min(1.0, mix_of(proxy.operators).unknown / FULL_SHARE)
        if share == 0.0:
            return 0.0
        return SHORT_WEIGHT * share * float(loss - response_row(proxy) @ np.array(self.response))

    def silence(self, networks: Sequence[Architecture], tokens: float) -> np.ndarray:
        """`silence_of` networks of one planned training [N]."""
        return silence_of(self.table(networks, tokens)) if networks else np.zeros(0)

    # -- predictions -------------------------------------------------------------------------------

    def predict(self, table: Table) -> Prediction:
        """Mean of each network, up to one constant, and the covariance of all."""
        gain = self._gain(self._prior(table, self.rows))
        variance = self._prior_variance(table) - np.sum(gain**2, axis=1)
        return Prediction(
            LAW_NATS + self._known(table) + gain @ self._weights,
            lambda one, other: self._prior(table.take(one), table.take(other)),
            gain,
            variance,
            self.spreads.noise * self._reliability(table.publication[:1])[0] if len(table) else 0.0,
        )

    def predict_networks(
        self,
        networks: Sequence[Architecture],
        tokens: float | str,
        short: Sequence[float] | None = None,
    ) -> Prediction:
        """`predict` of `table`; tokens: also a text such as 100B. Raises ConfigError for other
        arguments.
        """
        for network in [networks] if isinstance(networks, Architecture) else networks:
            if network is networks or not isinstance(network, Architecture):
                raise ConfigError(
                    "predict_networks: networks must be a list of Architectures;"
                    f" got {shown(network)}"
                )
        try:
            tokens = tokens_of(tokens)
        except (TypeError, ValueError):
            raise ConfigError(
                "predict_networks: tokens must be a number of tokens from 1 to 1000T, such as"
                f" 100B; got {shown(tokens)}"
            ) from None
        return self.predict(self.table(networks, tokens, short))

    def coefficients(self) -> dict[str, tuple[float, float, float]]:
        """Of each feature: mean, standard deviation of the mean, and standard deviation between
        publications."""
        gain = self._gain(self._common[:, None] * self._x(self.rows).T)
        means = gain @ self._weights
        means[_LAW] += 1.0
        sds = np.sqrt(np.maximum(self._common - np.sum(gain**2, axis=1), 0.0))
        return {
            name: (float(means[i]), float(sds[i]), float(np.sqrt(self._own[i])))
            for i, name in enumerate(FEATURES)
        }

    def parts_of(self, table: Table, one: int, other: int) -> dict[str, float]:
        """The difference of two networks by its reasons, in nats: size and shape, mix, own short
        training."""
        both = table.take(np.array([one, other]))
        of_size = self._x(both) * np.isin((*FEATURES, *SILENT), OF_SIZE)
        learnt, same = self._x(self.rows), self.rows.publication == self.publication
        cross = (of_size * self._common) @ learnt.T + (of_size * self._own) @ learnt.T * same
        size = -np.diff(self._gain(cross) @ self._weights + of_size[:, _LAW])
        training = -np.diff(both.short)
        difference = -np.diff(self.predict(both).mean)
        return {
            "size": float(size[0]),
            "training": float(training[0]),
            "mix": float((difference - size - training)[0]),
        }

    def _gain(self, cross: np.ndarray) -> np.ndarray:
        """What each contrast of the rows says of N quantities [N, C]; cross: covariance [N,
        rows].
        """
        return np.asarray(np.linalg.solve(self._root, (cross @ self.contrasts.T).T).T)

    # -- the prior ---------------------------------------------------------------------------------

    def _x(self, table: Table) -> np.ndarray:
        """The columns of a table, those that the model does not have at 0."""
        x = np.array(table.x)
        x[:, _LAW] -= LAW_NATS
        return np.asarray(x * self._seen)

    def _known(self, table: Table) -> np.ndarray:
        """The part of the mean that no row teaches."""
        return np.asarray(self._x(table)[:, _LAW] + table.short)

    def _reliability(self, publications: np.ndarray) -> np.ndarray:
        spread = self.spreads.reliability
        return np.array(
            [spread.get(name, NEW_RELIABILITY if name == NEW else 1.0) for name in publications]
        )

    def _kernel(self, one: Table, other: Table) -> np.ndarray:
        """Correlation of the residuals of two compositions, [N, M]."""
        a = np.c_[one.shares / SHARE_SCALE, one.ffn / FFN_SCALE]
        b = np.c_[other.shares / SHARE_SCALE, other.ffn / FFN_SCALE]
        square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.asarray(np.exp(-0.5 * np.maximum(square, 0.0)))

    def _prior(self, one: Table, other: Table) -> np.ndarray:
        """Covariance of two tables before anything was seen [N, M]."""
        x, y = self._x(one), self._x(other)
        same = np.equal.outer(one.publication, other.publication) * np.outer(
            self._reliability(one.publication), self._reliability(other.publication)
        )
        kernel = self._kernel(one, other)
        common = (x * self._common) @ y.T + self.spreads.residual**2 * kernel
        own = (x * self._own) @ y.T + self.spreads.own_residual**2 * kernel
        return np.asarray(common + same * own)

    def _prior_variance(self, table: Table) -> np.ndarray:
        """The diagonal of `_prior(table, table)`."""
        square, reliability = self._x(table) ** 2, self._reliability(table.publication)
        own = square @ self._own + self.spreads.own_residual**2
        return np.asarray(square @ self._common + self.spreads.residual**2 + reliability**2 * own)


def silence_of(table: Table) -> np.ndarray:
    """Standard deviation [N], in nats per token, of what no publication vouches for: a property of
    each network, which is 0 within what at least two publications have trained."""
    x = table.x[:, len(FEATURES) :]
    return np.linalg.norm(x * [SILENT_SDS[name] for name in SILENT], axis=1)


def response_row(proxy: Architecture) -> np.ndarray:
    """ln N, r, mixed, gated_delta and 1 of a trained network: what its short loss is expected to
    follow.
    """
    params, active, _ = body_sizes(proxy.operators, proxy.hidden)
    counted, mix = effective(params, active), mix_of(proxy.operators)
    return np.array(
        [
            np.log(counted),
            float(aspect(np.array(counted), np.array(proxy.hidden))),
            mix.mixed,
            mix.gated_delta,
            1.0,
        ]
    )


def contrasts(levels: np.ndarray) -> np.ndarray:
    """Rows [C, N] that take the level of each group out of a column of losses: orthonormal, within
    levels.
    """
    same = np.equal.outer(levels, levels).astype(float)
    values, vectors = np.linalg.eigh(np.eye(len(levels)) - same / same.sum(axis=1))
    return np.asarray(vectors[:, values > 0.5].T)
