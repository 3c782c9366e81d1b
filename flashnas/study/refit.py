"""Genotypes of earlier runs at the width that another question gives them, ranked by what their training may
bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from flashnas.base.errors import MissingRowsError
from flashnas.latency.costs import Costs, metric_of
from flashnas.latency.fitting import Fitter
from flashnas.reuse.known import KnownRuns, Trained, genotype_of
from flashnas.runs.run import rows
from flashnas.search.objectives import TRAINED, figure_of, larger_is_better, minimised
from flashnas.search.pareto import hypervolume, subsample_history
from flashnas.space import SearchSpace

LEAST_TRAINED = 5         # networks to which a model of the loss is fitted
MOST_TRAINED = 300        # of more, a part is chosen
MOST_ON_GRID = 24         # points of a front in three or four objectives
MOST_REFITS = 24          # that a search trains before its algorithm goes on
TOGETHER = 512            # candidates predicted together: their covariance is a square


@dataclass(frozen=True, kw_only=True)
class Refit:
    """A genotype whose network under the new question was not trained.

    Attributes:
        genotype, network: what would be trained.
        trained: the same genotype as a run trained it, with the lowest loss; None if no run did.
        stopped: the same genotype as a run trained it to a rung and not on: its row has `expected_loss`, the
            lowest one. None if no run did. Where it is of the same network, `paused_tokens` says how far.
        metrics: of the network under the new question.
        expected: trained objective -> expected value and its standard deviation, in its own direction; None
            where too few networks are known for a model.
        gain: expected increase of the front's hypervolume, as a share of it; of the reference box where the
            front is empty. None without a model.
    """

    genotype: Any
    network: Any
    trained: Trained | None
    stopped: Trained | None
    metrics: dict[str, float]
    expected: dict[str, tuple[float, float]] | None = None
    gain: float | None = None

    @property
    def paused_tokens(self) -> int | None:
        """After which a training of this very network was stopped at a rung; None if there was none."""
        same = self.stopped is not None and self.stopped.row.hash == self.network.hash
        return int(self.stopped.row.tokens) if same and self.stopped is not None else None

    @property
    def recorded(self) -> tuple[float, float] | None:
        """The final loss that the run expected of the stopped training of this network, and its standard
        deviation."""
        if self.stopped is None or self.paused_tokens is None:
            return None
        return float(self.stopped.row.expected_loss), float(self.stopped.row.expected_loss_sd)

    @property
    def known_loss(self) -> float:
        """Of the genotype at any width: the trained one, else the expected one; infinite without both."""
        return (float(self.trained.row.loss) if self.trained is not None else
                float(self.stopped.row.expected_loss) if self.stopped is not None else float("inf"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"notation": self.network.notation, "hash": self.network.hash, **self.metrics,
                "trained_as": None if self.trained is None else self.trained.row.notation,
                "trained_loss": None if self.trained is None else float(self.trained.row.loss),
                "paused_tokens": self.paused_tokens,
                "expected": None if self.expected is None else {
                    name: {"mean": mean, "sd": sd} for name, (mean, sd) in self.expected.items()},
                "gain": self.gain}


def refits(space: SearchSpace[Any], fitter: Fitter[Any], costs: Costs, known: KnownRuns, *,
           objectives: Sequence[str],
           front: np.ndarray) -> list[Refit]:
    """The genotypes whose network within the budgets was not trained to the end, the most promising first.

    A Gaussian process of each trained objective over the features of the space, the width and the parameters,
    fitted to all networks of the space that were trained (those outside the budgets, too), gives the expected
    value. It sees a training that was stopped at a rung with the loss that was expected of it, as the
    algorithms do; for that network itself the expected loss is the recorded one. The gain is the expected
    hypervolume improvement beyond the front. With fewer than LEAST_TRAINED networks the order is that of the
    known losses. What failed is left out.

    Args:
        space: of the genotypes.
        fitter: gives a genotype its largest network within the new budgets.
        costs: the metrics under the new question.
        known: the runs, those of other spaces included.
        objectives: trained ones first.
        front: points [N, M] of the trained networks within the budgets, all minimised.
    """
    over = known.failed | {one.row.hash for one in known.networks}
    own, stopped = _of_space(space, known.networks), _of_space(space, known.stopped)
    best: dict[Any, Trained] = {}
    for one in own:
        if one.genotype not in best or one.row.loss < best[one.genotype].row.loss:
            best[one.genotype] = one
    halted: dict[Any, Trained] = {}
    for one in stopped:
        if one.genotype not in halted or one.row.expected_loss < halted[one.genotype].row.expected_loss:
            halted[one.genotype] = one
    found: dict[str, Refit] = {}
    for genotype in genotypes_of(space, known):
        try:
            network = fitter.latency_of(genotype)[0]
        except MissingRowsError:  # the table does not answer for it at every width
            continue
        if network is not None and network.hash not in over:
            found.setdefault(network.hash, Refit(genotype=genotype, network=network,
                                                 trained=best.get(genotype),
                                                 stopped=halted.get(genotype),
                                                 metrics=costs.metrics(network)))
    candidates = list(found.values())
    if len(own) >= LEAST_TRAINED and candidates:
        candidates = _expected(space, [*own, *stopped], candidates, objectives, front)
    if any(one.gain is None for one in candidates):
        return sorted((one if one.recorded is None else replace(one, expected={"loss": one.recorded})
                       for one in candidates), key=lambda one: one.known_loss)
    return sorted(candidates, key=lambda one: -(one.gain or 0.0))


def genotypes_of(space: SearchSpace[Any], known: KnownRuns) -> list[Any]:
    """All that the runs of a space trained or proposed, each once, also what fitted no budget there."""
    proposed = [genotype_of(space, row) for run in known.runs if run.entry("space", "hash") == space.hash
                for row in rows(run.trials) if row.genotype]
    return list(dict.fromkeys([*(one.genotype for one in _of_space(space, known.networks)), *proposed]))


def _of_space(space: SearchSpace[Any], networks: Sequence[Trained]) -> list[Trained]:
    return [one for one in networks if one.genotype is not None and one.network is not None
            and one.run.entry("space", "hash") == space.hash]


def _expected(space: SearchSpace[Any], own: Sequence[Trained], candidates: Sequence[Refit],
              objectives: Sequence[str], front: np.ndarray) -> list[Refit]:
    """The candidates with expected values and gains."""
    from flashnas.search.improvement import expected_hypervolume_improvement
    from flashnas.search.surrogate import Surrogate  # loads torch

    trained = [name for name in objectives if name in TRAINED]
    exact = [name for name in objectives if name not in TRAINED]
    values = [[figure_of(name, expected_of(one.row), one.row.scores) for name in trained] for one in own]
    complete = [i for i, row in enumerate(values) if None not in row]
    if len(complete) < LEAST_TRAINED:
        return list(candidates)
    losses = np.array([[minimised(name, value or 0.0) for name, value in zip(trained, values[i], strict=True)]
                       for i in complete])
    part = subsample_history(losses, MOST_TRAINED)
    rows = np.stack([_features(space, own[complete[i]].genotype, own[complete[i]].network) for i in part])
    low, span = rows.min(axis=0), np.ptp(rows, axis=0)
    span = np.where(span > 1e-12, span, 1.0)
    trends = [_trend(rows, losses[part, k]) for k in range(len(trained))]
    models = [Surrogate((rows - low) / span, losses[part, k] - _sizes(rows) @ trends[k], seed=0)
              for k in range(len(trained))]
    known = np.array([[minimised(name, metric_of(name, one.metrics)) for name in exact] for one in candidates]
                     ).reshape(len(candidates), -1)
    # the improvement is computed on a grid through the points of the front
    if front.shape[1] > 2 and len(front):
        front = front[subsample_history(front, MOST_ON_GRID)]
    corner = _corner(losses, known, front, len(trained))
    whole = hypervolume(front, corner) if len(front) else 0.0
    whole = whole or float(np.prod(corner - np.concatenate([losses.min(axis=0), known.min(axis=0)])))
    result: list[Refit] = []
    for start in range(0, len(candidates), TOGETHER):
        some = candidates[start:start + TOGETHER]
        features = np.stack([_features(space, one.genotype, one.network) for one in some])
        beliefs = [model.predict((features - low) / span) for model in models]
        means = np.column_stack([mean + _sizes(features) @ trend
                                 for (mean, _), trend in zip(beliefs, trends, strict=True)])
        sds = np.column_stack([np.sqrt(np.maximum(np.diag(covariance), 0.0)) for _, covariance in beliefs])
        for i, recorded in enumerate(one.recorded for one in some):
            if recorded is not None and "loss" in trained:
                means[i, trained.index("loss")], sds[i, trained.index("loss")] = recorded
        gains = expected_hypervolume_improvement(
            np.column_stack([means, known[start:start + TOGETHER]]),
            np.column_stack([sds, np.zeros((len(some), len(exact)))]),
            front if len(front) else corner[None] + 1.0, corner)
        result += [replace(one, gain=float(gains[i] / whole), expected={
            name: (float(-means[i, k] if larger_is_better(name) else means[i, k]), float(sds[i, k]))
            for k, name in enumerate(trained)}) for i, one in enumerate(some)]
    return result


def _corner(losses: np.ndarray, known: np.ndarray, front: np.ndarray, trained: int) -> np.ndarray:
    """The reference of the hypervolume: a tenth of the range beyond the worst values."""
    exact = np.vstack([known, front[:, trained:]]) if len(front) else known
    corner = np.concatenate([column.max(axis=0) + 0.1 * np.ptp(column, axis=0) for column in (losses, exact)])
    return corner + 1e-9 * np.abs(corner) + 1e-12


def _features(space: SearchSpace[Any], genotype: Any, network: Any) -> np.ndarray:
    """The space's features, log width and log parameters: what the model of `bayes` sees."""
    sizes = [getattr(network, name, None) for name in ("hidden", "params")]  # a foreign network may lack them
    return np.array([*space.features(genotype), *(np.log(size) if size else 0.0 for size in sizes)],
                    dtype=np.float64)


def _sizes(rows: np.ndarray) -> np.ndarray:
    """[N, 3]: one, log width and log parameters."""
    return np.column_stack([np.ones(len(rows)), rows[:, -2:]])


def _trend(rows: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The linear trend of the loss in log width and log parameters. Another budget asks for sizes beyond
    those that were trained, where a Gaussian process alone returns to its mean."""
    sizes = _sizes(rows)
    centre, spread = sizes[:, 1:].mean(axis=0), np.maximum(sizes[:, 1:].std(axis=0), 1e-9)
    scaled = np.column_stack([sizes[:, 0], (sizes[:, 1:] - centre) / spread])
    ridge = np.diag([0.0, 1.0, 1.0])  # as much as one network that says that size does not matter
    intercept, *slopes = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ losses)
    per_unit = np.where(spread > 1e-9, np.array(slopes) / spread, 0.0)
    return np.array([intercept - per_unit @ centre, *per_unit])


def vars_of(row: Any) -> dict[str, Any]:
    """The figures of a trial by name."""
    return {name: getattr(row, name) for name in (*row._fields,) if name != "Index"}


def expected_of(row: Any) -> dict[str, Any]:
    """The same; the loss of a stopped training is the one that was expected of it."""
    figures = vars_of(row)
    return {**figures, "loss": figures["expected_loss"]} if row.state == "stopped" else figures
