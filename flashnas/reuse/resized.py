"""Genotypes of earlier runs at the width that another question gives them, ranked by what their training may
bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashnas.base.errors import MissingRowsError
from flashnas.latency.costs import metric_of
from flashnas.latency.fitting import Fitter
from flashnas.reuse.known import KnownRuns, Trained, genotype_of
from flashnas.runs.run import rows
from flashnas.search.objectives import TRAINED, figure_of, larger_is_better, minimised
from flashnas.search.pareto import hypervolume, subsample_history
from flashnas.space import SearchSpace

MIN_TRAINED = 5           # networks to which a model of the loss is fitted
MAX_TRAINED = 300         # of more, a part is chosen
MAX_ON_GRID = 24          # points of a front in three or four objectives
MAX_RESIZED = 24          # networks that a search trains before its algorithm goes on
BATCH = 512               # candidates predicted together: their covariance is a square


@dataclass(frozen=True, kw_only=True)
class Resized:
    """A genotype whose network under the new question was not trained.

    trained, stopped: the same genotype as a run trained it, to the end with the lowest loss, or to a rung
    with the lowest expected loss. metrics: of the network under the new question. expected: trained objective
    -> expected value and its standard deviation, in its own direction; None where too few networks are known
    for a model. gain: expected increase of the front's hypervolume, as a share of it, or of the reference box
    where the front is empty.
    """

    genotype: Any
    network: Any
    trained: Trained | None
    stopped: Trained | None
    metrics: dict[str, float]
    expected: dict[str, tuple[float, float]] | None = None
    gain: float | None = None

    @property
    def paused(self) -> Trained | None:
        """The training of this very network, if one was stopped at a rung."""
        stopped = self.stopped
        return None if stopped is None or stopped.row.hash != self.network.hash else stopped

    @property
    def paused_tokens(self) -> int | None:
        return None if self.paused is None else int(self.paused.row.tokens)

    @property
    def recorded(self) -> tuple[float, float] | None:
        """The final loss that was expected of it, and its standard deviation."""
        paused = self.paused
        return None if paused is None else (paused.loss, float(paused.row.expected_loss_sd))

    @property
    def recorded_loss(self) -> float:
        """Of the genotype at any width: the trained one, else the expected one; infinite without both."""
        trial = self.trained or self.stopped
        return float("inf") if trial is None else trial.loss

    def to_dict(self) -> dict[str, Any]:
        return {"notation": self.network.notation, "hash": self.network.hash, **self.metrics,
                "trained_as": None if self.trained is None else self.trained.row.notation,
                "trained_loss": None if self.trained is None else self.trained.loss,
                "paused_tokens": self.paused_tokens,
                "expected": None if self.expected is None else {
                    name: {"mean": mean, "sd": sd} for name, (mean, sd) in self.expected.items()},
                "gain": self.gain}


def resized_networks(fitter: Fitter[Any], known: KnownRuns, *, objectives: Sequence[str],
                     front: np.ndarray) -> list[Resized]:
    """The genotypes whose network within the budgets was not trained to the end, the most promising first.

    A Gaussian process of each trained objective over the features of the space, the width and the parameters,
    fitted to all networks of the space that were trained, gives the expected value. It sees a stopped
    training with the loss that was expected of it; for that network itself the expected loss is the recorded
    one. The gain is the expected hypervolume improvement beyond the front. With fewer than MIN_TRAINED
    networks the order is that of the recorded losses. What failed is left out. fitter: gives a genotype its
    largest network within the new budgets. objectives: trained ones first. front: points [N, M] of the
    trained networks within the budgets, all minimised.
    """
    space = fitter.space
    over = known.failed | {trained.row.hash for trained in known.networks}
    own, stopped = _of_space(space, known.networks), _of_space(space, known.stopped)
    # of equal losses the first one
    best, halted = ({trial.genotype: trial for trial in sorted(trials, key=lambda trial: trial.loss)[::-1]}
                    for trials in (own, stopped))
    by_hash: dict[str, Resized] = {}
    for genotype in genotypes_of(space, known):
        try:
            network = fitter.latency_of(genotype)[0]
        except MissingRowsError:  # the table does not answer for it at every width
            continue
        if network is not None and network.hash not in over:
            by_hash.setdefault(network.hash, Resized(
                genotype=genotype, network=network, trained=best.get(genotype), stopped=halted.get(genotype),
                metrics=fitter.costs.metrics(network)))
    candidates = list(by_hash.values())
    if len(own) >= MIN_TRAINED and candidates:
        candidates = _expected(space, [*own, *stopped], candidates, objectives, front)
    if any(resized.gain is None for resized in candidates):
        return sorted((resized if resized.recorded is None else
                       replace(resized, expected={"loss": resized.recorded}) for resized in candidates),
                      key=lambda resized: resized.recorded_loss)
    return sorted(candidates, key=lambda resized: -(resized.gain or 0.0))


def genotypes_of(space: SearchSpace[Any], known: KnownRuns) -> list[Any]:
    """All that the runs of a space trained or proposed, each once, also what fitted no budget there."""
    proposed = [genotype_of(space, row) for run in known.runs if run.entry("space", "hash") == space.hash
                for row in rows(run.trials) if row.genotype]
    return list(dict.fromkeys([*(trial.genotype for trial in _of_space(space, known.networks)), *proposed]))


def _of_space(space: SearchSpace[Any], networks: Sequence[Trained]) -> list[Trained]:
    return [trial for trial in networks if trial.genotype is not None and trial.network is not None
            and trial.run.entry("space", "hash") == space.hash]


def _expected(space: SearchSpace[Any], own: Sequence[Trained], candidates: Sequence[Resized],
              objectives: Sequence[str], front: np.ndarray) -> list[Resized]:
    from flashnas.search.loss_model import LossModel, Scale, features_of  # loads torch

    trained = [name for name in objectives if name in TRAINED]
    exact = [name for name in objectives if name not in TRAINED]
    values = [[figure_of(name, {**trial.row._asdict(), "loss": trial.loss}, trial.row.scores)
               for name in trained] for trial in own]
    complete = [i for i, figures in enumerate(values) if None not in figures]
    if len(complete) < MIN_TRAINED:
        return list(candidates)
    losses = np.array([[minimised(name, value or 0.0) for name, value in zip(trained, values[i], strict=True)]
                       for i in complete])
    part = subsample_history(losses, MAX_TRAINED)
    fitted = [own[complete[i]] for i in part]
    features = np.stack([features_of(space, trial.genotype, trial.network) for trial in fitted])
    scale, columns = Scale(features), losses[part].T
    trends = [_trend(features, column) for column in columns]
    model = LossModel(scale(features), [column - _sizes(features) @ trend
                                        for column, trend in zip(columns, trends, strict=True)], seed=0)
    metrics = np.array([[minimised(name, metric_of(name, resized.metrics)) for name in exact]
                        for resized in candidates]).reshape(len(candidates), -1)
    # the improvement is computed on a grid through the points of the front
    if front.shape[1] > 2 and len(front):
        front = front[subsample_history(front, MAX_ON_GRID)]
    corner = _corner(losses, metrics, front, len(trained))
    whole = hypervolume(front, corner) if len(front) else 0.0
    whole = whole or float(np.prod(corner - np.concatenate([losses.min(axis=0), metrics.min(axis=0)])))
    result: list[Resized] = []
    for start in range(0, len(candidates), BATCH):
        batch = candidates[start:start + BATCH]
        features = np.stack([features_of(space, resized.genotype, resized.network) for resized in batch])
        posterior = model.posterior(scale(features), [_sizes(features) @ trend for trend in trends],
                                    metrics[start:start + BATCH])
        for i, resized in enumerate(batch):
            if resized.recorded is not None and "loss" in trained:
                k = trained.index("loss")
                posterior.means[k][i] = resized.recorded[0]
                posterior.covariances[k][i, i] = resized.recorded[1]**2
        gains = posterior.gain(front if len(front) else corner[None] + 1.0, corner)
        figures = list(zip(trained, posterior.means, posterior.sds(), strict=True))
        result += [replace(resized, gain=float(gains[i] / whole), expected={
            name: (float(-means[i] if larger_is_better(name) else means[i]), float(sds[i]))
            for name, means, sds in figures}) for i, resized in enumerate(batch)]
    return result


def _corner(losses: np.ndarray, metrics: np.ndarray, front: np.ndarray, trained: int) -> np.ndarray:
    """The reference of the hypervolume: a tenth of the range beyond the worst values."""
    exact = np.vstack([metrics, front[:, trained:]]) if len(front) else metrics
    corner = np.concatenate([column.max(axis=0) + 0.1 * np.ptp(column, axis=0) for column in (losses, exact)])
    return corner + 1e-9 * np.abs(corner) + 1e-12


def _sizes(features: np.ndarray) -> np.ndarray:
    """[N, 3]: one, log width and log parameters."""
    return np.column_stack([np.ones(len(features)), features[:, -2:]])


def _trend(features: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The linear trend of the loss in log width and log parameters. Another budget asks for sizes beyond
    those that were trained, where a Gaussian process alone returns to its mean."""
    sizes = _sizes(features)
    centre, spread = sizes[:, 1:].mean(axis=0), np.maximum(sizes[:, 1:].std(axis=0), 1e-9)
    scaled = np.column_stack([sizes[:, 0], (sizes[:, 1:] - centre) / spread])
    ridge = np.diag([0.0, 1.0, 1.0])  # as much as one network that says that size does not matter
    intercept, *slopes = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ losses)
    per_unit = np.where(spread > 1e-9, np.array(slopes) / spread, 0.0)
    return np.array([intercept - per_unit @ centre, *per_unit])
