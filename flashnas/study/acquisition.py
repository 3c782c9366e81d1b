"""Which networks to train next: a set of the highest joint expected gain, by the model of the loss.

**Of the full loss** the gain is a knowledge gradient (Frazier et al., INFORMS J. Computing 2009).
The recommended network has the lowest value: the mean of its full loss, its price of complexity, and
CHARGE standard deviations of what no observation covers. Trainings move the means, and lower these
deviations. The gain of a set of trainings is by how much the network that is then recommended is
expected to be better than the one before: in the means after, prices included. By the law of total
covariance the means move as much as the covariance falls, for which no loss needs to be known.

**Of the loss that was trained** it is the expected improvement (Mockus 1975; Jones et al., J. Global
Optimization 1998) of a set (qEI; Ginsbourger et al. 2010): E[max(0, lowest loss so far - lowest loss
of the set)], as these trainings will be observed, noise included. Without a loss so far the first one
of the set, which has the lowest predicted loss, stands in its place.

A set grows by one at a time, and the same draws serve all sets. No torch.
"""

import functools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import ndtri

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.base.text import counted, names_text
from flashnas.loss.composition import Rows, Table
from flashnas.loss.load import rows_of
from flashnas.loss.model import CHARGE, FullLoss
from flashnas.observations.losses import ObservedLoss
from flashnas.study.scorer import ALIKE, COMPLEXITY_NATS, EvidenceScorer, complexities

MOST = 200  # networks of which one may be recommended, and of which some are trained
DRAWS, SEED = 512, 0  # by which sets are chosen; ..
FRESH_DRAWS, FRESH_SEED = 4096, 1  # .. fresh ones, by which that of the chosen one is estimated
LEVEL_SD = 10.0  # nats; of the level of trainings, of which all but nothing is known
TIED = 1e-9  # nats up to which gains are equal, on any CPU
LEAST_GAIN = 5e-4  # nats; a smaller gain is said to be none
LISTED = 4  # networks that a line names


@dataclass(frozen=True)
class Acquisition:
    """networks: that are trained, in the order in which they were chosen. gain_nats: what all of them
    jointly are expected to gain. flops: of all of them. price_nats: what these would bring as further
    tokens of the full training. spare: what completes the set if more may be trained."""

    networks: tuple[Architecture, ...]
    gain_nats: float
    flops: float
    price_nats: float = 0.0
    spare: tuple[Architecture, ...] = ()


def joint_of(
    publications: FullLoss,
    own: Rows | None,
    candidates: Table,
    trainings: Rows,
    reliability: float = 1.0,
) -> tuple[np.ndarray, np.ndarray, bool]:
    """What is known of N candidates and of M trainings of the same publication.

    Args:
        publications: the model without own rows.
        own: what was trained so far, as the model sees it; None: nothing.
        candidates: their full trainings.
        trainings: whose losses do not count.
        reliability: of the user's own publication.

    Returns:
        mean [N + M]: of the full losses, and of those of the trainings. covariance [2N + M, 2N + M]:
        of what no observation covers of each candidate, at a reliability of 1, and of these. compared:
        whether a loss was observed to which those of the trainings compare.
    """
    rows = trainings if own is None else Rows.joined(trainings, own)
    table = Table.joined(candidates, rows)
    count, first = len(candidates), 2 * len(candidates) + len(trainings)
    predicted = publications.predict(table)
    full = predicted.shared + reliability**2 * predicted.own
    full[count:, count:] += LEVEL_SD**2 * np.equal.outer(rows.level, rows.level)
    noise = np.where(np.isnan(rows.noise), reliability * predicted.noise, rows.noise)
    full[count:, count:] += np.diag(noise**2)
    alike = publications.silent_prior(candidates, table)
    covariance = np.block([[alike[:, :count], reliability * alike], [reliability * alike.T, full]])
    mean = predicted.mean
    if own is None:
        return mean, covariance, False
    learnt = np.linalg.solve(covariance[first:, first:], covariance[first:])
    mean = mean + learnt[:, count:].T @ (own.nats - mean[first - count :])
    covariance = covariance - covariance[:, first:] @ learnt
    compared = not {*trainings.level}.isdisjoint(own.level)
    return mean[: first - count], covariance[:first, :first], compared


class Prospects:
    """What further trainings would change.

    Args:
        mean, covariance, compared: of candidates and trainings, as of `joint_of`; these by preference
            where all else is equal.
        prices: of the complexity of each candidate [N], in nats.
        of_trained: whether gains are of the loss that was trained. best: the lowest of these so far.
    """

    def __init__(
        self,
        mean: np.ndarray,
        covariance: np.ndarray,
        compared: bool,
        prices: np.ndarray | float = 0.0,
        *,
        of_trained: bool = False,
        best: float | None = None,
    ) -> None:
        self._covariance, self._of_trained, self._best = covariance, of_trained, best
        self._count = count = len(covariance) - len(mean)
        self._uncovered = np.diag(covariance)[:count]
        self._trained = np.arange(2 * count, len(covariance))
        # what is decided about: the loss of each training, or the full loss of each candidate
        self._decided = self._trained if of_trained else np.arange(count, 2 * count)
        self.mean = mean[self._decided - count] + (0.0 if of_trained else prices)
        charge = 0.0 if of_trained else self._charge(self._uncovered)
        self.values = np.round(self.mean + charge, ALIKE)
        self.recommended = int(np.argmin(self.values))
        # the first training, where one alone says nothing
        self._first: int | None = None
        if of_trained and best is None:
            self._first = self.recommended
        elif not compared:
            self._first = 0

    def gain(
        self, chosen: Sequence[int], draws: int = FRESH_DRAWS, seed: int = FRESH_SEED
    ) -> float:
        """What these trainings jointly are expected to gain, in nats."""
        return float(np.mean(self.gains(chosen, draws, seed)))

    def gains(self, chosen: Sequence[int], draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
        """What these trainings jointly gain in each draw [D], in nats."""
        index = self._trained[np.array(chosen)]
        root = np.linalg.cholesky(self._covariance[np.ix_(index, index)])
        told = solve_triangular(root, self._covariance[index], lower=True)
        after = self.mean + _draws(len(index), draws, seed) @ told[:, self._decided]
        uncovered = self._uncovered - np.sum(told[:, : self._count] ** 2, axis=0)
        return self._gains(after, uncovered, chosen)

    def greedy(self, count: int, prices: np.ndarray | float = 0.0) -> list[int]:
        """The set of so many trainings to which each was added that gains most, less its price, with
        those before; where these are equal, that which explains most of the differences to what is
        recommended. prices: of each training [M], in nats."""
        # covariances with each training, of what those chosen so far leave open
        left = self._covariance[:, self._trained]
        after, uncovered = np.tile(self.mean, (DRAWS, 1)), self._uncovered
        chosen: list[int] = []
        available = np.arange(len(self._trained))
        prices = np.broadcast_to(prices, len(available))
        for draws in _draws(min(count, len(available)), DRAWS, SEED).T:
            told = left[:, available] / np.sqrt(left[self._trained[available], available])
            moved, covered = told[self._decided], told[: self._count] ** 2
            if self._first is not None and not chosen:
                at = self._first
            else:
                gains = [
                    self._gains(
                        after + np.outer(draws, moved[:, at]),
                        uncovered - covered[:, at],
                        [*chosen, int(index)],
                    ).mean()
                    for at, index in enumerate(available)
                ]
                explained = np.sum((moved - moved[self.recommended]) ** 2, axis=0)
                at = _highest(np.array(gains) - prices[available], explained)
            after = after + np.outer(draws, moved[:, at])
            uncovered = uncovered - covered[:, at]
            left = left - np.outer(told[:, at], told[self._trained, at])
            chosen.append(int(available[at]))
            available = np.delete(available, at)
        return chosen

    def _gains(self, after: np.ndarray, uncovered: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
        """Of each draw [D]. after [D, N or M]: what is decided about."""
        if self._of_trained:
            losses = after[:, chosen]
            before = losses[:, 0] if self._best is None else self._best
            return np.asarray(np.maximum(before - losses.min(axis=1), 0.0))
        best = np.argmin(after + self._charge(uncovered), axis=1)
        return np.asarray(after[:, self.recommended] - after[np.arange(len(after)), best])

    @staticmethod
    def _charge(variances: np.ndarray) -> np.ndarray:
        return CHARGE * np.sqrt(np.maximum(variances, 0.0))


def _highest(*criteria: np.ndarray) -> int:
    """Index of the highest, the first of those that are equal in all criteria."""
    indices = np.arange(len(criteria[0]))
    for values in criteria:
        indices = indices[values[indices] >= values[indices].max() - TIED]
    return int(indices[0])


@functools.cache
def _draws(count: int, draws: int, seed: int) -> np.ndarray:
    """Standard normal draws [draws, count]: the same quantiles in each column, in random order."""
    quantiles = ndtri((np.arange(draws) + 0.5) / draws)
    generator = np.random.default_rng(seed)
    return np.column_stack([generator.permutation(quantiles) for _ in range(count)])


def acquire(
    scorer: EvidenceScorer,
    candidates: Sequence[Architecture],
    count: int,
    *,
    observed: Callable[[Architecture], ObservedLoss],
    flops: Callable[[Architecture], float],
    known: Collection[Architecture] = (),
    price: Callable[[np.ndarray], np.ndarray] = np.zeros_like,
    of_trained: bool = False,
    best: float | None = None,
    at_most: int = MOST,
) -> Acquisition:
    """The trainings of the highest joint expected gain, whatever that is.

    The first one of a group of which nothing was observed says nothing alone: it is that of the
    recommended network, to which others compare.

    Args:
        scorer: knows what was trained so far.
        candidates: of which one is recommended, those that were trained among them. More than MOST
            are cut to those of the lowest values.
        count: how many are chosen; fewer where fewer candidates are left whose training this search
            did not observe, and at most MOST.
        observed: what is observed of the training of a candidate; `nats` does not count.
        flops: what it costs. known: candidates that are not trained, or not again.
        price: of so many FLOPs [..] in nats of the full training.
        of_trained: the objective is the loss that was trained, not that of the full training. best:
            the lowest one so far.
        at_most: of those chosen, how many may be trained.
    """
    networks = by_value(scorer, candidates)
    # one for each observation, from the lowest value of a network
    offers: dict[tuple[object, ...], tuple[Architecture, ObservedLoss]] = {}
    for network in networks:
        if network not in known:
            row = observed(network)
            offers.setdefault(identity(row), (network, row))
    done = set(map(identity, scorer.trained))  # other seeds of a training do not repeat it
    left = [offer for identity, offer in offers.items() if identity not in done][:MOST]
    if not left or count < 1:
        return Acquisition((), 0.0, 0.0)
    # nats of their own, because a group that repeats another one does not count
    rows = [replace(row, nats=nats) for nats, (_, row) in enumerate(left)]
    prospects = prospects_of(scorer, networks[:MOST], rows, of_trained=of_trained, best=best)
    costs = np.array([flops(network) for network, _ in left])
    chosen = prospects.greedy(count, price(costs))
    trained = tuple(left[index][0] for index in chosen)
    spent = costs[chosen[:at_most]].sum()
    return Acquisition(
        trained[:at_most],
        gain_nats=prospects.gain(chosen[:at_most]),
        flops=float(spent),
        price_nats=float(price(spent)),
        spare=trained[at_most:],
    )


def by_value(scorer: EvidenceScorer, candidates: Sequence[Architecture]) -> list[Architecture]:
    """The distinct ones, the lowest value first, in an order that does not depend on theirs."""
    distinct = {network.hash: network for network in candidates}
    networks = [distinct[key] for key in sorted(distinct)]
    return [networks[index] for index in np.argsort(scorer.values(networks), kind="stable")]


def prospects_of(
    scorer: EvidenceScorer,
    candidates: Sequence[Architecture],
    trainings: Sequence[ObservedLoss],
    *,
    of_trained: bool = False,
    best: float | None = None,
) -> Prospects:
    """What trainings would change of the choice among candidates, after all that the user trained."""
    model = scorer.publications
    joint = joint_of(
        model,
        rows_of_model(model, scorer.rows) if scorer.rows else None,
        model.table(candidates, scorer.tokens_of(candidates)),
        rows_of_model(model, trainings),
        scorer.reliability,
    )
    prices = COMPLEXITY_NATS * complexities(candidates)
    return Prospects(*joint, prices, of_trained=of_trained, best=best)


def rows_of_model(model: FullLoss, trainings: Sequence[ObservedLoss]) -> Rows:
    """Trainings of the publication that a model predicts for."""
    rows = rows_of(trainings, model.law)
    return replace(rows, publication=np.full(len(rows), model.publication, object))


def identity(row: ObservedLoss) -> tuple[object, ...]:
    """Equal for trainings that would repeat each other."""
    return row.level or row.group, row.specs, row.hidden, row.tokens


def acquisition_line(acquisition: Acquisition, tokens: int, of_trained: bool) -> str:
    """What trainings on so many tokens cost and are expected to gain."""
    networks, gain = acquisition.networks, acquisition.gain_nats
    if gain < LEAST_GAIN:
        expected = "no gain is expected"
    elif of_trained:
        expected = f"the lowest trained loss is expected to fall by {gain:.3g} nats"
    else:
        expected = f"the recommended network is expected to be {gain:.3g} nats better for it"
        if acquisition.price_nats >= LEAST_GAIN:
            expected += f", at a price of {acquisition.price_nats:.3g}"
    names = [compressed(network.notation) for network in networks if len(networks) <= LISTED]
    return (
        f"training {counted(len(networks), 'network')} on {tokens:,} tokens each,"
        f" {acquisition.flops:.1e} FLOPs in all: {expected}{': ' * bool(names)}{names_text(names)}"
    )
