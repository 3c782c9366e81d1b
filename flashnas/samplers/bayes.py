"""Bayesian search: a Gaussian process of each objective that only an evaluation tells, and expected
hypervolume improvement.

Latency and parameters are known before anything is evaluated, and so is what is gained along them.
Optuna's GPSampler models them too: it costs more for each proposal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from scipy.special import ndtr

from flashnas.samplers.sampler import Genotype, Sampler, check_whole
from flashnas.trials.pareto import non_dominated
from flashnas.trials.trial import Trial

BEST = 10  # networks of the lowest loss, and of the highest gain, whose mutants join the pool
DESIGN = 8  # draws for each of the first candidates
FIT_STEPS = 60  # of L-BFGS-B; more made the search slower, not better
LEAST_NOISE = 1e-4  # of one observation, as a share of the variance of all
# prior of the logarithms of length scales (for one feature; they grow as the root of the number of
# features: Hvarfner et al. 2024, arXiv 2402.02229) and of the variance of the noise: mean and
# standard deviation
LENGTH, LENGTH_SD = 2**0.5 - 3, 3**0.5
NOISE, NOISE_SD = -5.0, 1.0


class Bayes(Sampler):
    """A Gaussian process of each objective that only an evaluation tells, expected hypervolume
    improvement, a pool of fresh candidates.

    The first `initial` candidates spread over the latencies. Then a cycle's candidates are chosen
    one after another as a kriging believer: each pick counts as observed at its mean, which leaves
    the mean as it is, shrinks the variance around it and moves the front. Of the pool of `pool`
    networks a half is random and a half are mutants of the front and of the best; mutants of those
    that gain most join it. Failed candidates count as the worst seen, so that similar ones are
    avoided.
    """

    name = "bayes"
    max_proposals = 500

    def __init__(self, *, initial: int = 5, pool: int = 400, **shared: Any) -> None:
        super().__init__(**shared)
        self.initial = check_whole("bayes: initial", initial, 2)
        self.pool_size = check_whole("bayes: pool", pool, 8)
        self._design: list[Genotype] = []  # the next candidates before there is a model
        self._known = np.array(self._exact_objectives)

    def _learn(self, trial: Trial) -> None:
        pass  # `history` is all that it needs

    def _propose(self, count: int) -> Iterator[Genotype]:
        left = self.initial - len(self.history) - len(self.pending)
        first = count if len(self.complete()) < 2 else min(max(left, 0), count)
        for _ in range(first):
            yield self._start()
        if first < count:
            yield from self._choose(count - first)

    def _start(self) -> Genotype:
        """Of DESIGN times `initial` random networks, cut into `initial` ranges of latency, each range
        gives the one with the most parameters, since size is what most often lowers a loss."""
        if not self._design:
            drawn = sorted(self._fresh(DESIGN * self.initial), key=lambda g: self.fitted(g)[1] or 0)
            parts = np.array_split(np.arange(len(drawn)), self.initial)
            self._design = [
                max((drawn[i] for i in part), key=lambda g: self._size(g, "params"))
                for part in parts
                if len(part)
            ]
        genotype = self._design.pop(0) if self._design else None
        if genotype is not None and self.fresh(genotype):
            self.drawn_at_random += 1
            return genotype
        return self.draw_random()

    # -- choosing a batch --------------------------------------------------------------------------

    def _choose(self, count: int) -> Iterator[Genotype]:
        points = np.array([trial.point for trial in self.complete()])
        random, mutants = self._pool(points)
        pool = list(dict.fromkeys([*random, *mutants]))
        if pool:
            belief = self._belief(pool)
            reference = self._reference(points, belief.mean[: len(random) or len(pool)])
            gain = belief.gain(points, reference)
            top = [pool[i] for i in np.argsort(-gain, kind="stable")[:BEST]]
            pool = list(dict.fromkeys([*pool, *self._fresh(self.pool_size // 4, top)]))
            belief = self._belief([*pool, *filter(self.feasible, self.pending)])
            for index in range(len(pool), len(belief.mean)):
                points = belief.observe_mean(index, points)
        left = np.arange(len(pool))
        for _ in range(min(count, len(pool))):
            gain = belief.gain(points, reference)[left]
            # among equal gains the lowest loss
            index = int(left[np.lexsort((belief.mean[left, 0], -gain))[0]])
            left = left[left != index]
            points = belief.observe_mean(index, points)
            yield pool[index]
        for _ in range(count - len(pool)):
            yield self.draw_random()

    def _pool(self, points: np.ndarray) -> tuple[list[Genotype], list[Genotype]]:
        """Random networks, and mutants of the front and of the best."""
        good = [*np.flatnonzero(non_dominated(points)), *np.argsort(points[:, 0])[:BEST]]
        complete, half = self.complete(), self.pool_size // 2
        parents = [complete[i].genotype for i in dict.fromkeys(good)]
        return self._fresh(half), self._fresh(half, parents)

    def _fresh(self, count: int, parents: Sequence[Genotype] = ()) -> list[Genotype]:
        """Up to `count` fresh genotypes: random ones, or mutants of the parents in turn."""
        found: dict[Genotype, None] = {}
        for turn in range(2 * count):
            genotype = (
                self.space.mutate(parents[turn % len(parents)], self.rng)
                if parents
                else self.space.sample(self.rng)
            )
            if len(found) < count and self.fresh(genotype):
                found[genotype] = None
        return list(found)

    def _belief(self, genotypes: Sequence[Genotype]) -> Belief:
        """What is known and expected of them, after all that was told."""
        told = [trial for trial in self.history if trial.feasible]
        rows = self._scaled([*(trial.genotype for trial in told), *genotypes])
        mean = np.zeros((len(genotypes), len(self._known)))
        mean[:, self._known] = [self._exact_of(genotype) for genotype in genotypes]
        covariances, noises = {}, {}
        for k in np.flatnonzero(~self._known).tolist():
            values = np.array([trial.point[k] if trial.complete else np.nan for trial in told])
            process = Process(rows[: len(told)], without_outliers(values))
            mean[:, k], covariances[k] = process.predict(rows[len(told) :])
            noises[k] = process.noise
        return Belief(mean, covariances, noises)

    def _reference(self, points: np.ndarray, random: np.ndarray) -> np.ndarray:
        """Where gains end. Of a known objective: a tenth of the range beyond the highest value. Of a
        modelled one: what half of random candidates are expected to reach, and at least a tenth of
        the range beyond the best. With the worst loss in its place, nearly all gain would lie at the
        fast end."""
        every = np.concatenate([points, random])
        known = every.max(axis=0) + 0.1 * np.ptp(every, axis=0)
        modelled = points.min(axis=0) + 0.1 * np.ptp(points, axis=0)
        modelled = np.maximum(modelled, np.median(random, axis=0))
        return np.where(self._known, known, modelled)

    def _scaled(self, genotypes: Sequence[Genotype]) -> np.ndarray:
        """The space's features of genotypes, logarithms of width and parameters of their networks,
        each from 0 to 1 [N, D]."""
        sizes = [[self._size(g, name) for name in ("hidden", "params")] for g in genotypes]
        rows = np.column_stack(
            [[self.space.features(g) for g in genotypes], np.log(np.maximum(sizes, 1))]
        )
        spans = np.ptp(rows, axis=0)
        return (rows - rows.min(axis=0)) / np.where(spans > 1e-12, spans, 1)

    def _size(self, genotype: Genotype, name: str) -> float:
        """0 where a foreign network lacks it."""
        return getattr(self.fitted(genotype)[0], name, None) or 0

    def _exact_of(self, genotype: Genotype) -> tuple[float, ...]:
        architecture, latency_ms = self.fitted(genotype)
        return (latency_ms or 0.0,) if self.goals is None else self.goals.exact_of(architecture)


def without_outliers(losses: np.ndarray) -> np.ndarray:
    """Losses [N] for a model: failures (NaN) at the worst, stragglers drawn in to 3 interquartile
    ranges."""
    low, high = np.nanpercentile(losses, [25, 75])
    cap = np.nanmax(losses)
    return np.fmin(losses, min(cap, high + 3 * (high - low)) if high > low else cap)


# -- the model -------------------------------------------------------------------------------------


class Process:
    """A Gaussian process, Matern-5/2 with a length scale for each feature, at the mode of length
    scales and noise after losses [N] of features [N, D] within about 0..1.

    noise: variance of one observation.
    """

    def __init__(self, features: np.ndarray, losses: np.ndarray) -> None:
        count, dimensions = features.shape
        self.features = features
        self.center, self.scale = losses.mean(), losses.std() or 1.0
        scaled = (losses - self.center) / self.scale
        gaps = (features[:, None] - features) ** 2
        mode = np.array([*[LENGTH + np.log(dimensions) / 2] * dimensions, NOISE])
        sds = np.array([*[LENGTH_SD] * dimensions, NOISE_SD])

        def cost(logs: np.ndarray) -> tuple[float, np.ndarray]:
            """Of the logarithms of length scales and noise: the negative logarithm of their density,
            and its gradient."""
            weights, noise = np.exp(-2 * logs[:-1]), np.exp(logs[-1])
            covariance, slope = matern(gaps @ weights)
            covariance[np.diag_indices(count)] += noise + LEAST_NOISE
            root = np.linalg.cholesky(covariance)
            solved, inverse = (cho_solve((root, True), b) for b in (scaled, np.eye(count)))
            by_covariance = (inverse - np.outer(solved, solved)) / 2
            by_weights = np.tensordot(by_covariance * slope, gaps)
            gradient = [*(-2 * weights * by_weights), noise * np.trace(by_covariance)]
            off = (logs - mode) / sds
            value = scaled @ solved / 2 + np.log(np.diag(root)).sum() + off @ off / 2
            return value, np.array(gradient) + off / sds

        fit = minimize(cost, mode, jac=True, method="L-BFGS-B", options={"maxiter": FIT_STEPS})
        logs = np.round(fit.x, 3)  # the last bits depend on the processor
        self.weights = np.exp(-2 * logs[:-1])
        noise = np.exp(logs[-1]) + LEAST_NOISE
        self.noise = float(noise * self.scale**2)
        self._root = np.linalg.cholesky(
            self._covariance(features, features) + noise * np.eye(count)
        )
        self._solved = cho_solve((self._root, True), scaled)

    def _covariance(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        return matern(cdist(one * self.weights**0.5, other * self.weights**0.5, "sqeuclidean"))[0]

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [N] and covariance [N, N] of the loss without noise at features [N, D]."""
        cross = self._covariance(features, self.features)
        known = solve_triangular(self._root, cross.T, lower=True)
        covariance = self._covariance(features, features) - known.T @ known
        return cross @ self._solved * self.scale + self.center, covariance * self.scale**2


def matern(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Matern-5/2 of squared distances, and its slope along them."""
    distance = np.sqrt(5 * squares)
    decay = np.exp(-distance)
    return (1 + distance + distance**2 / 3) * decay, -5 / 6 * (1 + distance) * decay


# -- expected improvement over a few objectives, of which some are known exactly -------------------


@dataclass
class Belief:
    """Objectives of N networks: mean [N, M], and of those that are modelled the covariance [N, N] and
    the variance of the noise of one observation, by their place."""

    mean: np.ndarray
    covariances: dict[int, np.ndarray]
    noises: dict[int, float]

    def gain(self, points: np.ndarray, reference: np.ndarray) -> np.ndarray:
        sd = np.zeros_like(self.mean)
        for k, covariance in self.covariances.items():
            sd[:, k] = np.sqrt(np.maximum(np.diag(covariance), 0))
        return expected_hypervolume_improvement(self.mean, sd, points, reference)

    def observe_mean(self, index: int, points: np.ndarray) -> np.ndarray:
        """Observe a network at its mean: shrink the covariances, and return the points with it."""
        for k, covariance in self.covariances.items():
            column = covariance[:, index].copy()
            covariance -= np.outer(column, column) / (column[index] + self.noises[k])
        return np.vstack([points, self.mean[index]])


def expected_improvement(mean: np.ndarray, sd: np.ndarray, level: np.ndarray) -> np.ndarray:
    """E[max(level - Y, 0)] for Y ~ N(mean, sd²); arrays that broadcast, sd > 0."""
    z = (level - mean) / sd
    return np.maximum(
        (level - mean) * ndtr(z) + sd * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi), 0.0
    )


def expected_hypervolume_improvement(
    mean: np.ndarray,
    sd: np.ndarray,
    points: np.ndarray,
    reference: np.ndarray,
) -> np.ndarray:
    """How much volume each of N candidates is expected to dominate beyond `points` [P, M], below
    `reference` [M].

    mean, sd: [N, M], independent normal beliefs; sd 0: known exactly. Lower is better. The planes
    through the points cut the space into a grid. In a cell that no point dominates a candidate at y
    gains the product over objectives of max(upper - y, 0) - max(lower - y, 0), and the expectation
    of a product of independent factors is the product of ordinary expected improvements. Exact (as
    the box decompositions of Yang et al. 2019), on the full grid, which is small enough for fronts
    of tens of points in up to four objectives.
    """
    inside = points[(points < reference).all(axis=1)]
    inside = inside[non_dominated(inside)] if len(inside) else inside
    dimensions = range(len(reference))
    levels = [np.unique(inside[:, m]) for m in dimensions]  # upper edges but the last
    # cells that a point dominates
    taken = np.zeros([len(level) + 1 for level in levels], dtype=bool)
    taken[tuple(np.searchsorted(levels[m], inside[:, m]) + 1 for m in dimensions)] = True
    for m in dimensions:
        taken = np.logical_or.accumulate(taken, axis=m)
    widths_NL = []  # expected widths of the cells
    for m in dimensions:
        below = expected_improvement(
            mean[:, m, None],
            np.maximum(sd[:, m, None], 1e-12),
            np.append(levels[m], reference[m])[None, :],
        )
        widths_NL.append(np.diff(below, axis=1, prepend=0.0))
    # the sum over all cells, one objective after the other; the first as a product of matrices,
    # which is the large one
    gain = np.tensordot(widths_NL[-1], (~taken).astype(np.float64), axes=(1, -1))
    for width_NL in reversed(widths_NL[:-1]):
        gain = np.einsum("n...l,nl->n...", gain, width_NL)
    return gain
