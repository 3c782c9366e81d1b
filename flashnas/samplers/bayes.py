"""Bayesian search: a model of each trained quality, exact latency, expected hypervolume
improvement.

Only trained qualities are uncertain. BoTorch's
ExpectedHypervolumeImprovement would need a model of the metrics too, which the table knows; the
acquisition is therefore a closed form (`loss_model.py`), exact and vectorised over the pool.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from flashnas.samplers.loss_model import Posterior, Scale, Surrogate, features_of
from flashnas.samplers.sampler import (
    DRAWS,
    REMEMBERED,
    Genotype,
    Sampler,
    check_whole,
)
from flashnas.trials.pareto import Points, non_dominated
from flashnas.trials.trial import Trial

SAMPLE = 256  # random genotypes that fix the scale of the features and the reference latency
RECENT_GOOD = 10  # best trained candidates whose mutants join the pool, beside the front's
CLIMBS = 2  # rounds of mutating the pool's best by acquisition
MODELLED = 300  # candidates that the model is fitted to; of more, a part is chosen
DESIGN = 8  # draws for each candidate before there is a model
# percentile of the losses predicted for random candidates beyond which nothing is gained
REFERENCE = 50


class Bayes(Sampler):
    """A Gaussian process for each trained quality, expected hypervolume improvement, a pool of
    fresh candidates.

    The first `initial` candidates spread over the latencies. Then a cycle's candidates are chosen
    one after another as a kriging believer: each pick counts as observed at its mean, which leaves
    the mean as it is, shrinks the variance around it and moves the front. The pool (about `pool`
    genotypes): half random, half mutants of the front and of the best, then mutants of the pool's
    best. Failed candidates get the worst loss modelled, so that similar ones are avoided.
    """

    name = "bayes"
    max_proposals = 500

    def __init__(self, *, initial: int = 5, pool: int = 400, **shared: Any) -> None:
        super().__init__(**shared)
        self.initial = check_whole("bayes: initial", initial, 2)
        self.pool_size = check_whole("bayes: pool", pool, 8)
        self._drawn = 0
        self._design: list[Genotype] = []  # the next candidates before there is a model
        self._row = functools.lru_cache(maxsize=REMEMBERED)(
            lambda genotype: features_of(self.space, genotype, self.fitted(genotype)[0])
        )
        # those within the budgets, their qualities (None for a failed one) and exact objectives
        self._trained: list[Trial] = []
        self._values: list[tuple[float, ...] | None] = []
        self._exact: list[tuple[float, ...]] = []
        self._qualities_count = self._exact_objectives.count(False)

    def _learn_unasked(self, trial: Trial) -> None:
        self._drawn += 1  # it takes the place of a random candidate at the start
        self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        if trial.feasible:
            self._trained.append(trial)
            self._values.append(self._qualities(trial) if trial.complete else None)
            self._exact.append(self._exact_of(trial.genotype))

    def _propose(self, count: int) -> Iterator[Genotype]:
        complete = sum(values is not None for values in self._values)
        random = count if complete < 2 else min(max(self.initial - self._drawn, 0), count)
        self._drawn += count
        for _ in range(random):
            yield self._start()
        if random < count:
            yield from self._choose(count - random)

    def _start(self) -> Genotype:
        """The next candidate before there is a model. Of DESIGN times `initial` random ones, cut
        into `initial` ranges of latency, each range gives the network with the most parameters,
        since size is what most often lowers a loss."""
        while True:
            if not self._design:
                drawn: dict[Genotype, None] = {}
                self._fill(drawn, DESIGN * self.initial, None)
                ordered = sorted(drawn, key=lambda genotype: self.fitted(genotype)[1] or 0.0)
                parts = np.array_split(np.arange(len(ordered)), self.initial)
                self._design = [
                    max(
                        (ordered[i] for i in part),
                        key=lambda genotype: getattr(self.fitted(genotype)[0], "params", None) or 0,
                    )
                    for part in parts
                    if len(part)
                ]
            if not self._design:  # nothing fresh was drawn
                return self.draw_fresh(lambda: self.space.sample(self.rng))
            genotype = self._design.pop(0)
            if self.fresh(genotype):
                return genotype

    # -- choosing a batch --------------------------------------------------------------------------

    def _choose(self, count: int) -> Iterator[Genotype]:
        losses = [
            _modelled([None if values is None else values[k] for values in self._values])
            for k in range(self._qualities_count)
        ]
        model = self._model(losses)
        points = np.array(
            [
                [*values, *exact]
                for values, exact in zip(self._values, self._exact, strict=True)
                if values is not None
            ]
        )
        reference = self._reference(losses, model, points[:, self._qualities_count :])
        pending = [g for g in self.pending if self.feasible(g)]
        pool = self._pool(model, points, reference)
        for _ in range(count - len(pool)):
            yield self.draw_fresh(lambda: self.space.sample(self.rng))
        if not pool:
            return
        posterior = self._posterior(model, [*pending, *pool])
        for index in range(len(pending)):
            points = posterior.condition_on_mean(index, points)
        open_ = np.arange(len(pending) + len(pool)) >= len(pending)
        for _ in range(min(count, len(pool))):
            gain = posterior.gain(points, reference)
            # among equal gains the lowest loss
            index = int(np.lexsort((posterior.means[0], -gain, ~open_))[0])
            open_[index] = False
            points = posterior.condition_on_mean(index, points)
            yield pool[index - len(pending)]

    def _model(self, columns: Sequence[np.ndarray]) -> list[Surrogate]:
        """A process of each quality."""
        part = subsample_history(np.column_stack([*columns, self._exact]), MODELLED)
        features = self._scaled([self._trained[i].genotype for i in part])
        return [Surrogate(features, column[part], seed=self.seed) for column in columns]

    def _reference(
        self, losses: Sequence[np.ndarray], model: Sequence[Surrogate], exact: np.ndarray
    ) -> np.ndarray:
        """Where gains end. Of an exact objective: a tenth of the range beyond the highest value in
        the space. Of a modelled loss: what half of random candidates are expected to reach, and at
        least a tenth of the range beyond the best. With the worst loss in its place, nearly all
        gain would lie at the fast end."""
        sample = self._sample
        sampled = np.array([self._exact_of(g) for g in sample]).reshape(len(sample), exact.shape[1])
        corner = []
        for column, process in zip(losses, model, strict=True):
            level = column.min() + 0.1 * np.ptp(column)
            if sample:
                expected, _ = process.predict(self._scaled(sample))
                level = max(level, np.percentile(expected, REFERENCE))
            corner.append(level)
        corner += [
            column.max() + 0.1 * np.ptp(column) for column in np.concatenate([exact, sampled]).T
        ]
        return np.array(corner) + 1e-9 * np.abs(corner)

    def _posterior(self, model: Sequence[Surrogate], genotypes: Sequence[Genotype]) -> Posterior:
        exact = np.array([self._exact_of(g) for g in genotypes]).reshape(len(genotypes), -1)
        return Posterior.of(model, self._scaled(genotypes), exact)

    # -- the pool ----------------------------------------------------------------------------------

    def _pool(
        self, model: Sequence[Surrogate], points: np.ndarray, reference: np.ndarray
    ) -> list[Genotype]:
        """Fresh, feasible, distinct genotypes; may be empty in an exhausted space."""
        pool: dict[Genotype, None] = {}
        self._fill(pool, self.pool_size // 2, None)
        complete = [
            e for e, values in zip(self._trained, self._values, strict=True) if values is not None
        ]
        front = [complete[i].genotype for i in np.flatnonzero(non_dominated(points))]
        best = [
            complete[i].genotype
            for k in range(self._qualities_count)
            for i in np.argsort(points[:, k], kind="stable")[:RECENT_GOOD]
        ]
        self._fill(pool, self.pool_size // 4, list(dict.fromkeys([*front, *best])))
        for _ in range(CLIMBS):
            candidates = list(pool)
            if not candidates:
                break
            gain = self._posterior(model, candidates).gain(points, reference)
            top = np.argsort(-gain, kind="stable")[:RECENT_GOOD]
            self._fill(pool, self.pool_size // 8, [candidates[i] for i in top])
        return list(pool)

    def _fill(
        self, pool: dict[Genotype, None], count: int, parents: Sequence[Genotype] | None
    ) -> None:
        """Add up to `count` random genotypes, or mutants of the parents in turn."""
        target = len(pool) + count
        misses = 0
        turns = itertools.count()
        while len(pool) < target and misses < max(DRAWS, count):
            genotype = (
                self.space.sample(self.rng)
                if parents is None
                else self.space.mutate(parents[next(turns) % len(parents)], self.rng)
            )
            if genotype in pool or not self.fresh(genotype):
                misses += 1
            else:
                pool[genotype] = None

    # -- objectives and features -------------------------------------------------------------------

    def _qualities(self, trial: Trial) -> tuple[float, ...]:
        return tuple(
            value
            for value, known in zip(trial.point, self._exact_objectives, strict=True)
            if not known
        )

    def _exact_of(self, genotype: Genotype) -> tuple[float, ...]:
        """The objectives of a feasible genotype that need no training."""
        architecture, latency_ms = self.fitted(genotype)
        if self.goals is None:
            return (0.0 if latency_ms is None else latency_ms,)
        assert architecture is not None
        return self.goals.exact_of(architecture)

    @functools.cached_property
    def _sample(self) -> list[Genotype]:
        """Random feasible genotypes, drawn once per search."""
        rng = np.random.default_rng([self.seed, 2])
        return [g for g in (self.space.sample(rng) for _ in range(SAMPLE)) if self.feasible(g)]

    @functools.cached_property
    def _scale(self) -> Scale:
        """By the sample and what was complete when it was needed first."""
        return Scale(
            np.stack(
                [self._row(g) for g in [*self._sample, *(e.genotype for e in self.complete())]]
            )
        )

    def _scaled(self, genotypes: Sequence[Genotype]) -> np.ndarray:
        """Features [N, D], about within 0..1 in the space."""
        return self._scale(np.stack([self._row(g) for g in genotypes]))


def _modelled(losses: Sequence[float | None]) -> np.ndarray:
    """Losses [N] for the model: failures (None) at the worst, stragglers drawn in to 3
    interquartile ranges."""
    seen = np.array([loss for loss in losses if loss is not None], dtype=np.float64)
    low, high = np.percentile(seen, [25, 75])
    cap = min(seen.max(), high + 3 * (high - low)) if high > low else seen.max()
    return np.array([cap if loss is None else min(loss, cap) for loss in losses])


def subsample_history(points: Points, limit: int) -> np.ndarray:
    """Indices of at most `limit` of the points [N, M], oldest first, that are enough for a model
    whose cost grows with its history.

    A third is the front (where it is larger: spread along its first objective), a third the most
    recent ones, and the rest is spread evenly over the order of the first objective, best and worst
    included, so that a model keeps the scale of what is bad.
    """
    values = np.asarray(points, dtype=np.float64)
    count = len(values)
    if count <= limit:
        return np.arange(count)
    front = np.flatnonzero(non_dominated(values))
    front = _spread(front[np.argsort(values[front, 0], kind="stable")], limit // 3)
    chosen = np.zeros(count, dtype=bool)
    chosen[front] = True
    chosen[count - limit // 3 :] = True
    rest = np.flatnonzero(~chosen)
    chosen[_spread(rest[np.argsort(values[rest, 0], kind="stable")], limit - int(chosen.sum()))] = (
        True
    )
    return np.flatnonzero(chosen)


def _spread(ordered: np.ndarray, count: int) -> np.ndarray:
    """`count` entries at equal distances, the first and the last included; all if there are
    fewer.
    """
    if len(ordered) <= count:
        return ordered
    return ordered[np.unique(np.linspace(0, len(ordered) - 1, count).round().astype(int))]
