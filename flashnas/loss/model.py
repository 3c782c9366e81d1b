"""The loss to expect of a full training, up to a constant: from what others have trained in full.

    loss = level of the group + lambda size + tokens + beta . features + residual of the mix + noise

Each kind of mixer has an effect of its own in each publication, and so have size and tokens. A
prediction is for a new publication, or the user's own. The residual is a Gaussian process over the
composition, as uncertain as its prior where nobody trained anything alike. A training of another
size or length than published ones is a row like any other: what its mix has of its own there, and
not in full, is the discrepancy, which all trainings of that mix near that size and length share, so
that repeating one does not average it out. Publications have a reliability each, a robust
likelihood; that of a publication that nobody has seen is integrated over, so that its intervals
have long tails. All else is a Gaussian posterior, which is exact. Differences alone have a meaning.
No torch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import helmert, solve_triangular
from scipy.spatial.distance import cdist

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.text import shown, tokens_of
from flashnas.loss.composition import FEATURES, SILENT, Law, Rows, Table
from flashnas.loss.experts import EXPERT_SDS, EXPERT_SILENT_SDS, log_granularity
from flashnas.loss.mix import bodies, body_sizes, mix_of
from flashnas.loss.prediction import Prediction

NEW = "a new publication"
LAW_NATS = 2.5  # the law's value at which its coefficient turns
SHARE_SCALE = 0.5  # of the residual process: of the shares of mixers
FFN_SCALE = 0.2  # of the residual process: of the share of feed-forward layers
RELIABILITY_SD = 0.7  # of the logarithm of a publication's reliability, before anything was seen
EFFECTS = ("mixed", "qk_norm", "ffn", "window", "edge")  # features of a mix, which have one spread
# standard deviations before anything was seen, in nats for a full effect. law: of its coefficient,
# about 1, by the slopes of six publications (experiments/evidence/lengths.py)
PRIOR_SDS = {
    "law": 0.1,
    "tokens": 0.0,
    **dict.fromkeys(EFFECTS, 0.05),
    **EXPERT_SDS,
}
# of the same between publications: how far the slopes of lengths.py are apart
BETWEEN_SDS = {"law": 0.2, "tokens": 0.3}
# of what publications do not vouch for. Each publication has effects of its own there: the one row
# that somebody trained teaches nothing about the next publication.
SILENT_SDS = {
    "ffn_share": 0.1,
    "bare": 0.1,
    "rare": 0.03,
    "new_mix": 0.06,
    "qk_norm_unknown": 0.015,
    "qk_norm_own": 0.015,
    "aspect": 0.2,
    "size": 0.05,
    "small": 0.05,
    "length": BETWEEN_SDS["tokens"],  # of what the law promises there
    **EXPERT_SILENT_SDS,
}
# standard deviations of `silence` that are added to the mean where networks are ranked
CHARGE = 1.0
# columns of size and shape, and of these of the law
OF_MIX = ("ffn_share", "bare", "rare", "new_mix", "qk_norm_unknown", "qk_norm_own")
OF_LAW = ("law", "tokens", *EXPERT_SDS)
OF_SIZE = (*OF_LAW, *(name for name in SILENT_SDS if name not in OF_MIX))
_LAW, _TOKENS, _WINDOW = (FEATURES.index(name) for name in ("law", "tokens", "window"))
FIDELITY = ("mix", "shape")
# silent columns of operators: how far they hold at another size is the discrepancy of the mix; all
# others are of sizes and shapes, and say less the farther two trainings are apart
_NAMES = np.array((*FEATURES, *SILENT))
_OF_OPERATORS = np.isin(_NAMES, OF_MIX[2:])


@dataclass(frozen=True)
class Spreads:
    """Standard deviations that the data tell: of common effects, of the effect of a kind of mixer
    between publications, of the residual process, of the noise. fidelity: of what a mix, and a nat of
    its shape, has of its own in a training that is a factor of e smaller or shorter than those of
    publications. reliability: a factor of each publication; unseen: the standard deviation of the
    logarithm of that for which predictions are."""

    common: Mapping[str, float]
    kind: float
    residual: float
    noise: float
    reliability: Mapping[str, float]
    unseen: float = RELIABILITY_SD
    fidelity: Mapping[str, float] = dataclasses.field(default_factory=dict)


class FullLoss:
    """The posterior after published rows.

    Args:
        spreads: the standard deviations (experiments/evidence/fitting.py).
        publication: predictions are for this one; NEW for one without rows.
        slope: mean of the coefficient of the law before any row was seen.
    """

    def __init__(
        self,
        rows: Rows,
        spreads: Spreads,
        law: Law,
        *,
        publication: str = NEW,
        slope: float = 1.0,
    ) -> None:
        self.rows, self.law, self.slope = rows, law, slope
        self.publication, self.spreads = publication, spreads
        common = {**PRIOR_SDS, **spreads.common}
        self._common, self._own, self._between = (
            np.square([sds.get(name, 0.0) for name in _NAMES])
            for sds in (common, SILENT_SDS, BETWEEN_SDS)
        )
        self.contrasts = contrasts(rows.level)
        gaps = self.contrasts @ (rows.nats - self._known(rows))
        usual = spreads.noise * self._reliability(rows.publication)
        noise = np.square(np.where(np.isnan(rows.noise), usual, rows.noise))
        prior = sum(self._prior(rows, rows)) + np.diag(noise)
        self._root = np.linalg.cholesky(self.contrasts @ prior @ self.contrasts.T)
        self._weights = solve_triangular(self._root, gaps, lower=True)
        self.cost = float(0.5 * self._weights @ self._weights + np.log(np.diag(self._root)).sum())

    @functools.cached_property
    def _of_rows(self) -> np.ndarray:
        """Factored out, because a search asks for thousands of gains."""
        return solve_triangular(self._root, self.contrasts, lower=True).T

    @functools.cached_property
    def _row_weights(self) -> np.ndarray:
        return self._of_rows @ self._weights

    # -- what a network looks like -----------------------------------------------------------------

    def table(self, networks: Sequence[Architecture], tokens: float | np.ndarray) -> Table:
        """Planned trainings as the model sees them. tokens: of each network [N], or of all."""
        body = bodies(networks)
        return Table.of(
            self.law,
            mix_of(body),
            body_sizes(body),
            body.hidden,
            tokens,
            self.publication,
            log_fine=log_granularity(body),
        )

    # -- predictions -------------------------------------------------------------------------------

    def mean(self, table: Table) -> np.ndarray:
        """The mean of `predict` alone [N]."""
        learnt = sum(prior @ self._row_weights for prior in self._prior(table, self.rows))
        return LAW_NATS + self._known(table) + learnt

    def silence(self, table: Table) -> np.ndarray:
        """Standard deviation [N], in nats per token, of what no publication vouches for:
        `silence_of` the networks, less what rows of the same publication reveal."""
        before, own = silence_of(table), _columns_of(self.rows, table)
        if not len(own) or not before.any():
            return before
        scale = self._reliability(table.publication)[:, None]
        cross = scale * self.silent_prior(table, self.rows.take(own))
        revealed = np.sum((cross @ self._of_rows[own]) ** 2, axis=1)
        return np.sqrt(np.maximum(before**2 - revealed, 0.0))

    def predict(self, table: Table) -> Prediction:
        """Mean of each network, up to one constant, and the covariance of all; the networks of a
        table are of one publication."""
        shared, own = (prior @ self._of_rows for prior in self._prior(table, self.rows))
        both = shared + own
        of_shared, of_own = self._prior(table, table)
        scale = float(np.max(self._reliability(table.publication), initial=0.0))
        return Prediction(
            mean=LAW_NATS + self._known(table) + both @ self._weights,
            shared=of_shared - both @ both.T + own @ own.T,
            own=of_own - own @ own.T,
            noise=self.spreads.noise * scale,
            unseen=self.spreads.unseen,
        )

    def predict_networks(
        self,
        networks: Sequence[Architecture],
        tokens: float | str | np.ndarray,
    ) -> Prediction:
        """`predict` of `table`. tokens: of each network [N], or of all, also as a text such as 100B.
        Raises ConfigError for other arguments.
        """
        if isinstance(networks, Architecture) or {type(network) for network in networks} - {
            Architecture
        }:
            raise ConfigError(
                f"predict_networks: networks must be a list of Architectures; got {shown(networks)}"
            )
        try:
            each = tokens.tolist() if isinstance(tokens, np.ndarray) else [tokens]
            tokens_N = np.broadcast_to([tokens_of(number) for number in each], len(networks))
        except (TypeError, ValueError):
            raise ConfigError(
                "predict_networks: tokens must be a number of tokens from 1 to 1000T, such as"
                f" 100B, or an array with one for each network; got {shown(tokens)}"
            ) from None
        return self.predict(self.table(networks, tokens_N))

    def coefficients(self) -> dict[str, tuple[float, float]]:
        """Of each feature, in the publication that is predicted for: mean, and standard deviation of the
        mean."""
        same = self.rows.publication == self.publication
        prior = self._common[:, None] + np.outer(self._between, same)
        gain = prior * self._x(self.rows).T @ self._of_rows
        means = gain @ self._weights
        means[[_LAW, _TOKENS]] += self.slope, 1.0
        before = self._common + self._between * same.any()
        sds = np.sqrt(np.maximum(before - np.sum(gain**2, axis=1), 0.0))
        return {name: (float(means[i]), float(sds[i])) for i, name in enumerate(FEATURES)}

    def parts_of(self, table: Table, one: int, other: int) -> dict[str, float]:
        """The difference of two networks by its reasons, in nats: size and shape, and mix."""
        both = table.take(np.array([one, other]))
        alike = dataclasses.replace(
            both,
            x=both.x * np.isin(_NAMES, OF_SIZE),
            shares=both.shares[[0, 0]],
            ffn=both.ffn[[0, 0]],
        )
        size, difference = (float(-np.diff(self.mean(each))[0]) for each in (alike, both))
        return {"size": size, "mix": difference - size}

    # -- the prior ---------------------------------------------------------------------------------

    def _x(self, table: Table) -> np.ndarray:
        """The columns of a table, that of the law less the value at which its coefficient turns."""
        x = np.array(table.x)
        x[:, _LAW] -= LAW_NATS
        return x

    def _known(self, table: Table) -> np.ndarray:
        """The part of the mean that no row teaches."""
        return self.slope * self._x(table)[:, _LAW] + table.x[:, _TOKENS]

    def _reliability(self, publications: np.ndarray) -> np.ndarray:
        return np.array([self.spreads.reliability.get(name, 1.0) for name in publications])

    def _prior(self, one: Table, other: Table) -> tuple[np.ndarray, np.ndarray]:
        """Covariance of two tables before anything was seen [N, M]: of all that no reliability scales,
        and of what a publication has of its own."""
        x, y = self._x(one), self._x(other)
        alike = kernel(one, other)
        shared = (x * self._common) @ y.T + self.spreads.residual**2 * alike
        own, at = np.zeros_like(shared), _columns_of(other, one)
        if len(at):
            part = other.take(at)
            same = np.equal.outer(one.publication, part.publication)
            slopes = (x * self._between) @ y[at].T
            shared[:, at] += same * (slopes + self._discrepancy(one, part, alike[:, at]))
            scales = np.outer(*(self._reliability(table.publication) for table in (one, part)))
            kinds = self.spreads.kind**2 * one.shares @ part.shares.T
            own[:, at] = same * scales * (kinds + self.silent_prior(one, part))
        return shared, own

    def silent_prior(self, one: Table, other: Table) -> np.ndarray:
        """Of what no publication vouches for, in one publication at a reliability of 1 [N, M]. What
        it is of sizes and shapes has a correlation that falls by a factor of e for each factor of e
        by which one training is farther from those of publications than the other."""
        x, y = self._x(one) * self._own, self._x(other)
        apart = np.abs(one.far[:, None] - other.far).sum(axis=-1)
        steady = (x * _OF_OPERATORS) @ y.T
        return steady + np.exp(-apart) * ((x * ~_OF_OPERATORS) @ y.T)

    def _discrepancy(self, one: Table, other: Table, alike: np.ndarray) -> np.ndarray:
        """Of what a mix and a shape have of their own in trainings that are smaller or shorter, larger
        or longer than those of publications [N, M]: Brownian motions over the logarithms of size and
        tokens, which start where publications end, in each publication anew. alike: `kernel`."""
        above, below = (
            np.minimum(*(np.maximum(sign * far, 0) for far in (one.far[:, None], other.far)))
            for sign in (1, -1)
        )
        mix, shape = (self.spreads.fidelity.get(name, 0.0) ** 2 for name in FIDELITY)
        windows = np.multiply.outer(one.x[:, _WINDOW], other.x[:, _WINDOW])
        shapes = np.multiply.outer(one.shape, other.shape)
        shared = (above + below).sum(axis=-1)
        return np.asarray(shared * (mix * (alike + windows) + shape * shapes))


def _columns_of(table: Table, other: Table) -> np.ndarray:
    """Indices of the rows of a table that are of the publications of another one."""
    names = set(other.publication)
    return np.flatnonzero([name in names for name in table.publication])


def kernel(one: Table, other: Table) -> np.ndarray:
    """Correlation of the residuals of two compositions, [N, M]."""
    a, b = (np.c_[table.shares / SHARE_SCALE, table.ffn / FFN_SCALE] for table in (one, other))
    # the widths of a composition, which stand side by side, have one residual
    new = np.r_[True, (a[1:] != a[:-1]).any(axis=1)][: len(a)]
    alike = np.exp(-0.5 * cdist(a[new], b, "sqeuclidean"))
    return np.asarray(alike[np.cumsum(new) - 1])


def silence_of(table: Table) -> np.ndarray:
    """Standard deviation [N], in nats per token, of what no publication vouches for: a property of
    each network, which is 0 within what at least two publications have trained."""
    x = table.x[:, len(FEATURES) :]
    return np.linalg.norm(x * [SILENT_SDS[name] for name in SILENT], axis=1)


def contrasts(levels: np.ndarray) -> np.ndarray:
    """Rows [C, N] that take the level of each group out of a column of losses: orthonormal, within
    levels (Helmert's).
    """
    found = [np.zeros((0, len(levels)))]
    for level in dict.fromkeys(levels.tolist()):
        members = np.flatnonzero(levels == level)
        rows = np.zeros((len(members) - 1, len(levels)))
        rows[:, members] = helmert(len(members))
        found.append(rows)
    return np.concatenate(found)
