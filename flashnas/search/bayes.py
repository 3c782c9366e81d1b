"""Bayesian search: a model of the loss, exact latency, expected hypervolume improvement.

Only the loss is uncertain; the latency of any candidate is known from the table before it is trained. BoTorch's
ExpectedHypervolumeImprovement would need a model that pretends to predict it, so the acquisition is the closed form of
`hypervolume_improvement.py` instead: exact, and vectorised over the whole pool. BoTorch fits the Gaussian process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flashnas.pareto import non_dominated
from flashnas.search.algorithm import DRAWS, Evaluation, LatencyOf, SearchAlgorithm, check_whole
from flashnas.search.hypervolume_improvement import expected_hypervolume_improvement
from flashnas.search.surrogate import Surrogate

if TYPE_CHECKING:
    from flashnas.space import Genotype, SearchSpace

SAMPLE = 256             # random genotypes that fix the scale of the features and the reference latency
RECENT_GOOD = 10         # best trained candidates whose mutants join the pool, beside the front's
CLIMBS = 2               # rounds of mutating the pool's best by acquisition


class Bayes(SearchAlgorithm):
    """Gaussian process plus expected hypervolume improvement over a pool of fresh, feasible candidates.

    The first `initial` candidates are random. Then a cycle's candidates are chosen one after another as a kriging
    believer: each pick counts as observed at its mean loss, which leaves the mean as it is, shrinks the variance around
    it and moves the front. The pool (about `pool` genotypes): half random, half mutants of the front and of the best,
    then mutants of the pool's best. Failed candidates count as the worst loss modelled, so that their like is avoided.
    """

    name = "bayes"

    def __init__(self, *, space: SearchSpace, seed: int, latency_of: LatencyOf, cycle_size: int = 10,
                 initial: int = 10, pool: int = 400) -> None:
        super().__init__(space=space, seed=seed, latency_of=latency_of, cycle_size=cycle_size)
        self.initial = check_whole("bayes: initial", initial, 2)
        self.pool_size = check_whole("bayes: pool", pool, 8)
        self._asked = 0
        self._features: dict[Genotype, np.ndarray] = {}
        self._scaling: tuple[np.ndarray, np.ndarray] | None = None
        self._sampled: list[Genotype] | None = None

    def _learn(self, evaluation: Evaluation) -> None:
        """Nothing to do: the surrogate is fitted to `history` when a cycle is asked for."""

    def _propose(self, count: int) -> Iterator[Genotype]:
        random = count if len(self.complete()) < 2 else min(max(self.initial - self._asked, 0), count)
        self._asked += count
        for _ in range(random):
            yield self.draw_fresh(lambda: self.space.sample(self.rng))
        if random < count:
            yield from self._choose(count - random)

    # -- choosing a batch ----------------------------------------------------------------------------------------

    def _choose(self, count: int) -> Iterator[Genotype]:
        trained = [e for e in self.history if e.feasible]
        losses = _modelled_losses(trained)
        surrogate = Surrogate(self._scaled([e.genotype for e in trained]), losses, seed=self.seed)
        points = np.array([[e.loss, self._latency(e.genotype)] for e in self.complete()])
        reference = self._reference(losses, points[:, 1])
        pending = [g for g in self.pending if self.feasible(g)]
        pool = self._pool(surrogate, points, reference)
        for _ in range(count - len(pool)):
            yield self.draw_fresh(lambda: self.space.sample(self.rng))
        if not pool:
            return
        mean, covariance = surrogate.predict(self._scaled([*pending, *pool]))
        latency = np.array([self._latency(g) for g in [*pending, *pool]])
        for index in range(len(pending)):
            points = self._believe(index, mean, covariance, latency, points, surrogate.noise)
        open_ = np.arange(len(mean)) >= len(pending)
        for _ in range(min(count, len(pool))):
            sd = np.sqrt(np.maximum(np.diag(covariance), 0.0))
            gain = expected_hypervolume_improvement(mean, sd, latency, points, reference)
            index = int(np.lexsort((mean, -gain, ~open_))[0])  # among equal gains the lowest loss
            open_[index] = False
            points = self._believe(index, mean, covariance, latency, points, surrogate.noise)
            yield pool[index - len(pending)]

    def _reference(self, losses: np.ndarray, latencies: np.ndarray) -> np.ndarray:
        """(loss, latency) a tenth of the range beyond the worst modelled loss and the space's highest latency."""
        seen = np.concatenate([latencies, [self._latency(g) for g in self._sample()]])
        corner = [losses.max() + 0.1 * np.ptp(losses), seen.max() + 0.1 * np.ptp(seen)]
        return np.array(corner) + 1e-9 * np.abs(corner)

    @staticmethod
    def _believe(index: int, mean: np.ndarray, covariance: np.ndarray, latency: np.ndarray, points: np.ndarray,
                 noise: float) -> np.ndarray:
        """Observe the candidate at its mean: shrink `covariance` in place, return the points with it."""
        column = covariance[:, index].copy()
        covariance -= np.outer(column, column) / (column[index] + noise + 1e-12)
        return np.vstack([points, [mean[index], latency[index]]])

    # -- the pool ------------------------------------------------------------------------------------------------

    def _pool(self, surrogate: Surrogate, points: np.ndarray, reference: np.ndarray) -> list[Genotype]:
        """Fresh, feasible, distinct genotypes; may be empty in an exhausted space."""
        pool: dict[Genotype, None] = {}
        self._fill(pool, self.pool_size // 2, None)
        complete = self.complete()
        front = [complete[int(i)].genotype for i in np.flatnonzero(non_dominated(points))]
        best = sorted(complete, key=lambda e: e.loss or 0.0)[:RECENT_GOOD]
        self._fill(pool, self.pool_size // 4, list(dict.fromkeys([*front, *(e.genotype for e in best)])))
        for _ in range(CLIMBS):
            candidates = list(pool)
            if not candidates:
                break
            mean, covariance = surrogate.predict(self._scaled(candidates))
            latency = np.array([self._latency(g) for g in candidates])
            gain = expected_hypervolume_improvement(mean, np.sqrt(np.maximum(np.diag(covariance), 0.0)), latency,
                                                    points, reference)
            top = np.argsort(-gain, kind="stable")[:RECENT_GOOD]
            self._fill(pool, self.pool_size // 8, [candidates[int(i)] for i in top])
        return list(pool)

    def _fill(self, pool: dict[Genotype, None], count: int, parents: Sequence[Genotype] | None) -> None:
        """Add up to `count` random genotypes, or mutants of the parents in turn."""
        target = len(pool) + count
        misses = 0
        turn = 0
        while len(pool) < target and misses < max(DRAWS, count):
            if parents is None:
                genotype = self.space.sample(self.rng)
            else:
                genotype = self.space.mutate(parents[turn % len(parents)], self.rng)
                turn += 1
            if genotype in pool or not self.fresh(genotype):
                misses += 1
            else:
                pool[genotype] = None

    # -- features ------------------------------------------------------------------------------------------------

    def _latency(self, genotype: Genotype) -> float:
        latency_ms = self.fitted(genotype)[1]
        return 0.0 if latency_ms is None else latency_ms

    def _row(self, genotype: Genotype) -> np.ndarray:
        """The space's features, log hidden size and log parameters; for a feasible genotype."""
        if genotype not in self._features:
            architecture = self.fitted(genotype)[0]
            sizes = (0.0, 0.0) if architecture is None else (np.log(architecture.hidden), np.log(architecture.params))
            self._features[genotype] = np.array([*self.space.features(genotype), *sizes], dtype=np.float64)
        return self._features[genotype]

    def _sample(self) -> list[Genotype]:
        """Random feasible genotypes, fixed once per search, that stand for the space."""
        if self._sampled is None:
            rng = np.random.default_rng([self.seed, 2])
            self._sampled = [g for g in (self.space.sample(rng) for _ in range(SAMPLE)) if self.feasible(g)]
        return self._sampled

    def _scaled(self, genotypes: Sequence[Genotype]) -> np.ndarray:
        """[N, D]: features shifted and scaled so that they lie about within 0..1 in the space."""
        if self._scaling is None:
            rows = np.stack([self._row(g) for g in [*self._sample(), *(e.genotype for e in self.complete())]])
            span = np.ptp(rows, axis=0)
            self._scaling = rows.min(axis=0), np.where(span > 1e-12, span, 1.0)
        low, span = self._scaling
        return (np.stack([self._row(g) for g in genotypes]) - low) / span


def _modelled_losses(evaluations: Sequence[Evaluation]) -> np.ndarray:
    """Losses [N] for the surrogate: failures at the worst seen, stragglers drawn in to 3 interquartile ranges."""
    seen = np.array([e.loss for e in evaluations if e.complete], dtype=np.float64)
    low, high = np.percentile(seen, [25, 75])
    cap = min(float(seen.max()), float(high + 3 * (high - low)) if high > low else float(seen.max()))
    return np.array([min(e.loss, cap) if e.complete and e.loss is not None else cap for e in evaluations])
