"""Which trainings lower the expected regret of the recommendation most per FLOP.

The recommended candidate has the lowest value: the mean of its full loss plus CHARGE standard
deviations of what nobody vouches for. After trainings the means have moved and the silence has
fallen. The gain of a set of trainings is by how much the candidate that is then recommended is
expected to be better than the one before, by the means after: the knowledge gradient of a Gaussian.
By the law of total covariance the means move as much as the covariance falls, for which the losses
of the trainings need not be known. The same draws serve all sets. No torch.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import ndtri

from flashnas.architecture import Architecture
from flashnas.loss.composition import Rows, Table
from flashnas.loss.load import rows_of
from flashnas.loss.model import CHARGE, FullLoss
from flashnas.observations.losses import ObservedLoss

LEAST_GAIN = 5e-4  # nats; a smaller one is not bought
DRAWS, SEED = 512, 0
LARGEST = 8  # trainings of a set
RIVALS = 64  # candidates that are paired with the recommended one
LEVEL_SD = 100.0  # nats; of the level of trainings, of which all but nothing is known


@dataclass(frozen=True)
class Purchase:
    """Networks to be trained alike, on so many tokens each. gain_nats: by how much the expected
    regret of the recommendation falls. flops: of all trainings."""

    networks: tuple[Architecture, ...]
    tokens: float
    gain_nats: float
    flops: float


class Outlook:
    """What trainings would change of a recommendation.

    Args:
        publications: the model without own rows.
        own: what was trained so far, as the model sees it; None: nothing.
        candidates: the full trainings [N] of which one is recommended.
        trainings: what can be trained [N], one for each candidate; their losses do not count.
        reliability: of the user's own publication.
    """

    def __init__(
        self,
        publications: FullLoss,
        own: Rows | None,
        candidates: Table,
        trainings: Rows,
        reliability: float = 1.0,
    ) -> None:
        rows = trainings if own is None else Rows.joined(trainings, own)
        table = Table.joined(candidates, rows)
        count = len(candidates)
        predicted = publications.predict(table)
        every = np.arange(len(candidates) + len(rows))
        scale = reliability**2
        full = predicted.shared.covariance(every) + scale * predicted.own.covariance(every)
        full[count:, count:] += LEVEL_SD**2 * np.equal.outer(rows.level, rows.level)
        noise = np.where(np.isnan(rows.noise), reliability * predicted.noise, rows.noise)
        full[count:, count:] += np.diag(noise**2)
        alike = publications.silent_prior(candidates, table)
        # the silent part of each candidate at a reliability of 1, its loss, and those of trainings
        covariance = np.block(
            [[alike[:, :count], reliability * alike], [reliability * alike.T, full]]
        )
        mean = np.r_[np.zeros(count), predicted.mean]
        if own is not None:
            seen = np.arange(len(mean) - len(own), len(mean))
            gain = np.linalg.solve(covariance[np.ix_(seen, seen)], covariance[seen])
            mean = mean + gain.T @ (own.nats - mean[seen])
            covariance = covariance - covariance[:, seen] @ gain
        self._silent = np.diag(covariance)[:count]
        self._covariance = covariance
        self.mean = mean[count : 2 * count]
        self.values = self.mean + self._charge(self._silent)
        self.recommended = int(np.argmin(self.values))

    def gain(self, chosen: Sequence[int]) -> float:
        """By how much the trainings of these candidates lower the expected regret, in nats."""
        count = len(self.mean)
        index = 2 * count + np.sort(chosen)
        root = np.linalg.cholesky(self._covariance[np.ix_(index, index)])
        told = solve_triangular(root, self._covariance[index, : 2 * count], lower=True)
        after = self.mean + _draws(len(index)) @ told[:, count:]
        charge = self._charge(self._silent - np.sum(told[:, :count] ** 2, axis=0))
        best = np.argmin(after + charge, axis=1)
        return float(np.mean(after[:, self.recommended] - after[np.arange(DRAWS), best]))

    def best_set(self, costs: np.ndarray, at_most: int) -> tuple[list[int], float] | None:
        """The candidates whose trainings gain most per cost, and their gain; None where that is less
        than LEAST_GAIN.

        One more joins while the gain per cost rises, or is too small.

        Args:
            costs: of the training of each candidate [N]; infinite where it cannot be bought.
        """
        order = [int(index) for index in np.argsort(self.values) if np.isfinite(costs[index])]
        first, others = order[:1], order[1:RIVALS]

        def worth(chosen: list[int]) -> tuple[bool, float, float, list[int]]:
            gain = self.gain(chosen)
            return gain >= LEAST_GAIN, gain / float(costs[chosen].sum()), gain, chosen

        sets = [[index] for index in order[:RIVALS]] + [[*first, other] for other in others]
        best = max((worth(each) for each in sets if len(each) <= at_most), default=None)
        while best is not None and len(best[-1]) < min(at_most, LARGEST):
            more = [[*best[-1], other] for other in order[:RIVALS] if other not in best[-1]]
            grown = max(map(worth, more), default=best)
            if grown[-1] is best[-1] or (best[0] and grown < best):
                break
            best = grown
        return (best[-1], best[2]) if best is not None and best[0] else None

    @staticmethod
    def _charge(variances: np.ndarray) -> np.ndarray:
        return CHARGE * np.sqrt(np.maximum(variances, 0.0))


@functools.cache
def _draws(count: int) -> np.ndarray:
    """Standard normal draws [DRAWS, count]: the same quantiles in each column, in random order."""
    quantiles = ndtri((np.arange(DRAWS) + 0.5) / DRAWS)
    generator = np.random.default_rng(SEED)
    return np.column_stack([generator.permutation(quantiles) for _ in range(count)])


def best_purchase(
    publications: FullLoss,
    own: Sequence[ObservedLoss],
    candidates: Sequence[Architecture],
    tokens: float,
    trained: Callable[[Architecture], ObservedLoss],
    cost: Callable[[Architecture], float],
    at_most: int,
    *,
    reliability: float = 1.0,
) -> Purchase | None:
    """The set of trainings that lowers the expected regret of the recommendation most per cost; None
    where none gains LEAST_GAIN.

    The first purchase is of at least two networks, because the level of trainings is not known.

    Args:
        publications: the model without own rows.
        own: what was trained so far.
        candidates: of which one is recommended.
        tokens: of the full training.
        trained: what the training of a candidate would be: with its size, its tokens and the group or
            level that all of them share; `nats` does not count.
        cost: of that training, in FLOPs.
        at_most: trainings.
        reliability: of the user's own publication, as fitted to `own`.
    """
    networks = sorted(candidates, key=lambda network: network.hash)
    rows = [trained(network) for network in networks]
    done = {_identity(row) for row in own}
    costs = np.array(
        [
            np.inf if _identity(row) in done else cost(network)
            for row, network in zip(rows, networks, strict=True)
        ]
    )
    if not np.isfinite(costs).any():
        return None
    prospects = Outlook(
        publications,
        _as_rows(publications, own) if own else None,
        publications.table(networks, tokens),
        _as_rows(publications, rows),
        reliability,
    )
    found = prospects.best_set(costs, at_most)
    if found is None:
        return None
    chosen, gain = found
    return Purchase(
        networks=tuple(networks[index] for index in chosen),
        tokens=rows[chosen[0]].tokens,
        gain_nats=gain,
        flops=float(costs[chosen].sum()),
    )


def _as_rows(model: FullLoss, trainings: Sequence[ObservedLoss]) -> Rows:
    """Trainings of the publication that a model predicts for."""
    rows = rows_of(trainings, model.law)
    return replace(rows, publication=np.full(len(rows), model.publication, object))


def _identity(row: ObservedLoss) -> tuple[object, ...]:
    """Equal for trainings that would repeat each other."""
    return row.level or row.group, row.specs, row.hidden, row.tokens
