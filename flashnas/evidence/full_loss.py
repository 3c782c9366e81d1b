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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.text import shown, tokens_of
from flashnas.evidence.composition import (
    FEATURES,
    FULL_SHARE,
    SILENT,
    body_sizes,
    effective,
    mix_of,
)
from flashnas.evidence.law import Law, aspect
from flashnas.evidence.table import Rows, Table

NEW = "a new publication"
LAW_NATS = 2.5  # the law's value at which its coefficient turns
SHARE_SCALE, FFN_SCALE = (
    0.5,
    0.2,
)  # of the residual process: shares of mixers, share of feed-forward layers
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
# features whose effect differs between publications
OWN_SDS = ("law", "mixed", "gated_delta", "ffn")
PARTS = ("law", "mix", "short")  # of a prediction, which may be left out
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
    difference."""

    mean: np.ndarray
    prior: Any  # (rows, columns) -> prior covariance
    gain: np.ndarray  # [N, C]: the posterior covariance is the prior's less gain gain^T
    variance: np.ndarray  # [N]
    noise: float

    def covariance(self, places: Sequence[int] | np.ndarray) -> np.ndarray:
        """Posterior covariance of the networks at these places."""
        index = np.asarray(places)
        return np.asarray(self.prior(index, index) - self.gain[index] @ self.gain[index].T)

    def difference(self, place: int, other: int) -> tuple[float, float]:
        """Loss of network `place` less that of network `other`: mean and standard deviation, in
        nats per token. Raises ConfigError for a place where there is no network."""
        for at in (place, other):
            if not isinstance(at, int | np.integer) or not 0 <= at < len(self.mean):
                raise ConfigError(
                    f"difference: a place must be from 0 to {len(self.mean) - 1}; got {shown(at)}"
                )
        return float(self.mean[place] - self.mean[other]), float(self.sd_to(other)[place])

    def sd_to(self, reference: int) -> np.ndarray:
        """Standard deviation of the difference to one network, for all networks [N]."""
        at = np.array([reference])
        cross = self.prior(np.arange(len(self.mean)), at)[:, 0] - self.gain @ self.gain[reference]
        return np.sqrt(np.maximum(self.variance + self.variance[reference] - 2 * cross, 0.0))

    def best(
        self, places: Sequence[int] | np.ndarray, draws: int = 4000, seed: int = 0
    ) -> np.ndarray:
        """Probability that each of these networks has the lowest loss among them."""
        index = np.asarray(places)
        covariance = self.covariance(index)
        values, vectors = np.linalg.eigh(covariance)
        root = vectors * np.sqrt(np.maximum(values, 0.0))
        normal = np.random.default_rng(seed).standard_normal((draws, len(index)))
        lowest = np.argmin(self.mean[index] + normal @ root.T, axis=1)
        return np.bincount(lowest, minlength=len(index)) / draws


class FullLoss:
    """The posterior after published rows.

    Args:
        spreads: the standard deviations (experiments/evidence/fitting.py).
        response: of the loss of a proxy in ln N, r, mixed, gated_delta and 1, for `short_effect`.
        parts: those of PARTS that it has.
        publication: predictions are for this one; NEW for one without rows.
    """

    def __init__(
        self,
        rows: Rows,
        spreads: Spreads,
        law: Law,
        *,
        response: Sequence[float] = (),
        parts: Sequence[str] = PARTS,
        publication: str = NEW,
    ) -> None:
        self.rows, self.spreads, self.law, self.response = rows, spreads, law, tuple(response)
        self.parts, self.publication = tuple(parts), publication
        self.contrasts = contrasts(rows.level)
        gaps = self.contrasts @ (rows.nats - self._known(rows.table))
        noise = np.square(spreads.noise * self._reliability(rows.table.publication))
        full = (
            self.contrasts
            @ (self._prior(rows.table, rows.table) + np.diag(noise))
            @ self.contrasts.T
        )
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
        gain = self._gain(self._prior(table, self.rows.table))
        variance = self._prior_variance(table) - np.sum(gain**2, axis=1)
        return Prediction(
            LAW_NATS + self._known(table) + gain @ self._weights,
            lambda one, other: self._prior(table.part(one), table.part(other)),
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
        wrong = (
            networks
            if isinstance(networks, Architecture)
            else next(
                (network for network in networks if not isinstance(network, Architecture)), None
            )
        )
        if wrong is not None:
            raise ConfigError(
                f"predict_networks: networks must be a list of Architectures; got {shown(wrong)}"
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
        common, own = self._variances()
        gain = self._gain(common[:, None] * self._x(self.rows.table).T)
        means = gain @ self._weights
        means[_LAW] += 1.0
        sds = np.sqrt(np.maximum(common - np.sum(gain**2, axis=1), 0.0))
        return {
            name: (float(means[i]), float(sds[i]), float(np.sqrt(own[i])))
            for i, name in enumerate(FEATURES)
        }

    def parts_of(self, table: Table, place: int, other: int) -> dict[str, float]:
        """The difference of two networks by its reasons, in nats: size and shape, mix, own short
        training."""
        columns = (*FEATURES, *SILENT)
        both = table.part(np.array([place, other]))
        x, learnt = self._x(both), self._x(self.rows.table)
        common, own = self._variances()
        of_size = x * np.isin(columns, OF_SIZE)
        cross = (of_size * common) @ learnt.T
        if self.publication in set(self.rows.table.publication):
            cross += ((of_size * own) @ learnt.T) * (
                self.rows.table.publication == self.publication
            )
        values = self._gain(cross) @ self._weights + of_size[:, _LAW]
        short = self._short(both)
        parts = {
            "size": float(values[0] - values[1]),
            "training": float(short[0] - short[1]),
        }
        whole = self.predict(both).mean
        parts["mix"] = float(whole[0] - whole[1]) - sum(parts.values())
        return parts

    def _gain(self, cross: np.ndarray) -> np.ndarray:
        """What each contrast of the rows says of N quantities [N, C]; cross: covariance [N,
        rows].
        """
        return np.asarray(np.linalg.solve(self._root, (cross @ self.contrasts.T).T).T)

    # -- the prior ---------------------------------------------------------------------------------

    def _x(self, table: Table) -> np.ndarray:
        """The columns, those of parts that it has not at 0."""
        has = [("law" if name == "law" else "mix") in self.parts for name in (*FEATURES, *SILENT)]
        x = np.array(table.x)
        x[:, _LAW] -= LAW_NATS
        return np.asarray(x * has)

    def _known(self, table: Table) -> np.ndarray:
        """The part of the mean that no row teaches."""
        return np.asarray(self._x(table)[:, _LAW] + self._short(table))

    def _short(self, table: Table) -> np.ndarray:
        return table.short if "short" in self.parts else np.zeros(len(table))

    def _variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the common coefficients and of a publication's own, [F] each."""
        common = [{**PRIOR_SDS, **self.spreads.common}[name] for name in FEATURES] + [0.0] * len(
            SILENT
        )
        own = [self.spreads.own.get(name, 0.0) for name in FEATURES] + [
            SILENT_SDS[name] for name in SILENT
        ]
        return np.square(common), np.square(own)

    def _reliability(self, publications: np.ndarray) -> np.ndarray:
        spread = self.spreads.reliability
        return np.array(
            [spread.get(name, NEW_RELIABILITY if name == NEW else 1.0) for name in publications]
        )

    def _kernel(self, one: Table, other: Table) -> np.ndarray:
        """Correlation of the residuals of two compositions, [N, M]; 0 or 1 where the model has no
        mix.
        """
        if "mix" not in self.parts:
            return np.zeros((len(one), len(other)))
        a = np.c_[one.shares / SHARE_SCALE, one.ffn / FFN_SCALE]
        b = np.c_[other.shares / SHARE_SCALE, other.ffn / FFN_SCALE]
        square = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        return np.asarray(np.exp(-0.5 * np.maximum(square, 0.0)))

    def _prior(self, one: Table, other: Table) -> np.ndarray:
        common, own = self._variances()
        x, y = self._x(one), self._x(other)
        factor = np.equal.outer(one.publication, other.publication) * np.outer(
            self._reliability(one.publication), self._reliability(other.publication)
        )
        kernel = self._kernel(one, other)
        return np.asarray(
            (x * common) @ y.T
            + self.spreads.residual**2 * kernel
            + factor * ((x * own) @ y.T + self.spreads.own_residual**2 * kernel)
        )

    def _prior_variance(self, table: Table) -> np.ndarray:
        common, own = self._variances()
        square, reliability = self._x(table) ** 2, self._reliability(table.publication) ** 2
        with_mix = float("mix" in self.parts)
        return np.asarray(
            square @ common
            + with_mix * self.spreads.residual**2
            + reliability * (square @ own + with_mix * self.spreads.own_residual**2)
        )


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
