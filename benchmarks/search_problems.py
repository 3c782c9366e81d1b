"""The problems of benchmarks/search.py: made-up surfaces, the rows of flashnas-bench, and a model
of it.

All have learning curves at a quarter, half, three quarters and all of the tokens, and the exact
latency of the shipped table h100_sxm for `decode-8k`.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from flashnas.algorithms.trial import non_dominated
from flashnas.architecture import Architecture
from flashnas.latency.prediction import LatencyModel
from flashnas.operators import OPERATORS
from flashnas.space import Genotype, SearchSpace, load_space
from flashnas.space.features import list_features
from flashnas.training.recipe import Recipe

TABLE, WORKLOAD = "h100_sxm", "decode-8k"
RUNGS = 4  # equal parts of a training, as in the curves of the bench
MIXERS = ("d", "a", "m2")
NOISE = 0.015  # nats: two seeds of a short training differ by 0.01 to 0.02
REFERENCE_SAMPLE = 400


class Problem:
    """What a search is asked, and what only the score knows.

    Attributes:
        space: what is searched.
        budget_ms: hard.
        reference: the loss at which the hypervolume ends; the latency ends at the budget.
    """

    space: SearchSpace[Any]
    budget_ms: float
    reference: float

    def fit_width(self, genotype: Any) -> tuple[Any | None, float | None]:
        """The network of a genotype and its exact latency; without a network, the latency that is
        above the budget.
        """
        raise NotImplementedError

    def curves(self, genotypes: Sequence[Any]) -> np.ndarray:
        """Losses as a search sees them, [N, RUNGS]; the same for the same genotype."""
        raise NotImplementedError

    def truth(self, genotypes: Sequence[Any]) -> np.ndarray:
        """Losses at the end as they are scored, [N]."""
        raise NotImplementedError

    def volume(self, points: np.ndarray) -> float:
        """Dominated nats times share of the budget, of points [N, 2] of (true loss, latency_ms)."""
        return (
            moocore.hypervolume(points / [1.0, self.budget_ms], ref=[self.reference, 1.0])
            if len(points)
            else 0.0
        )

    def best_volume(self) -> float:
        """That of the true front: of all genotypes, or of a long search that sees true losses."""
        raise NotImplementedError

    def _points(self, genotypes: Sequence[Any]) -> np.ndarray:
        latencies = [self.fit_width(genotype)[1] for genotype in genotypes]
        return np.column_stack([self.truth(genotypes), np.array(latencies, dtype=np.float64)])


@functools.cache
def nemotron() -> tuple[SearchSpace[Any], LatencyModel]:
    return load_space("nemotron_flash"), LatencyModel(TABLE, WORKLOAD, calibration="paper")


FITTED: dict[tuple[float, Any], tuple[Architecture | None, float]] = {}  # of all problems and seeds


class WholeSpace(Problem):
    """A problem over `nemotron_flash`: the largest width within the budget."""

    budget_ms = 12_000.0
    rounds, brood, patience = 60, 200, 5  # of the search for the true front

    def __init__(self) -> None:
        self.space, self.model = nemotron()

    def fit_width(self, genotype: Any) -> tuple[Architecture | None, float | None]:
        key = self.budget_ms, genotype
        if key not in FITTED:
            widths = [
                self.space.architecture(genotype, hidden) for hidden in self.space.hidden_sizes
            ]
            times = self.model.latencies(widths)
            fitting = [i for i, ms in enumerate(times) if ms <= self.budget_ms]
            FITTED[key] = (
                (widths[fitting[-1]], float(times[fitting[-1]]))
                if fitting
                else (None, float(times[0]))
            )
        return FITTED[key]

    @functools.cached_property
    def typical(self) -> list[Any]:
        """Random genotypes within the budget, the same for all seeds."""
        rng = np.random.default_rng(0)
        drawn = (self.space.sample(rng) for _ in range(REFERENCE_SAMPLE))
        return [genotype for genotype in drawn if self.fit_width(genotype)[0] is not None]

    def best_volume(self) -> float:
        """Mutants of the front, round after round, until some rounds gain less than a
        ten-thousandth.
        """
        rng = np.random.default_rng(1)
        known = dict.fromkeys(self.typical)
        front, points, volumes = list(known), self._points(list(known)), [0.0]
        for _ in range(self.rounds):
            mask = non_dominated(points)
            front, points = [g for g, on in zip(front, mask, strict=True) if on], points[mask]
            volumes.append(self.volume(points))
            if len(volumes) > self.patience and volumes[-1] < volumes[-1 - self.patience] * (
                1 + 1e-4
            ):
                break
            brood = []
            while len(brood) < self.brood:
                child = front[int(rng.integers(len(front)))]
                for _ in range(int(rng.integers(1, 4))):
                    child = self.space.mutate(child, rng)
                if child not in known:
                    known[child] = None
                    if self.fit_width(child)[0] is not None:
                        brood.append(child)
            front, points = front + brood, np.concatenate([points, self._points(brood)])
        return volumes[-1]


class Law:
    """A loss in nats per token for any architecture of the space, from coefficients drawn by
    `seed`.

    It follows the depth-width law of arXiv 2511.18890 section 2.1 plus terms of the kind its
    section 2.2 finds: a quality per token mixer and third of the depth, a bonus for pairs such as
    DeltaNet with Mamba2, a best share of FFNs, one attention at least.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        self.quality = rng.normal(0.0, 0.05, (3, len(MIXERS)))  # [third, mixer], lower is better
        self.pair = np.triu(rng.uniform(0.0, 0.15, (3, 3)), 1)  # bonus for two mixers side by side
        self.ffn_share = rng.uniform(0.35, 0.55)
        self.depth_exponent = rng.uniform(0.7, 1.1)

    def __call__(self, architecture: Architecture) -> float:
        kinds = [spec.kind for spec in architecture.operators]
        mixers = [MIXERS.index(kind) for kind in kinds if kind != "f"]
        thirds = [min(3 * i // len(mixers), 2) for i in range(len(mixers))]
        quality = sum(
            self.quality[third, mixer] for third, mixer in zip(thirds, mixers, strict=True)
        ) / len(mixers)
        pairs = [self.pair[min(a, b), max(a, b)] for a, b in itertools.pairwise(mixers)]
        share = 1 - len(mixers) / len(kinds)
        size = 3.0 * len(kinds) ** -self.depth_exponent + 60.0 * architecture.hidden**-0.75
        attention = 0.08 * (MIXERS.index("a") not in mixers)
        return float(
            2.5
            + size
            + quality
            - sum(pairs) / max(len(pairs), 1)
            + 1.5 * (share - self.ffn_share) ** 2
            + attention
        )


class Surface(WholeSpace):
    """Each seed draws another law. Early losses follow a second law in part: their rank correlation
    with the last one is about that of the bench's curves, and what makes them wrong is a property
    of the architecture."""

    correlation = (0.64, 0.9, 0.99)

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.law, self.early = Law(seed), Law(seed + 100_000)
        self._losses: dict[Any, float] = {}
        losses = self.truth(self.typical)
        early = np.array([self.early(self.fit_width(genotype)[0]) for genotype in self.typical])
        self.centre, self.spread = losses.mean(), losses.std()
        self.slope, self.offset = np.polyfit(losses, early, 1)
        self.early_spread = (early - self.slope * losses - self.offset).std()
        self.reference = float(np.percentile(losses, 90))

    def truth(self, genotypes: Sequence[Any]) -> np.ndarray:
        for genotype in genotypes:
            if genotype not in self._losses:
                self._losses[genotype] = self.law(self.fit_width(genotype)[0])
        return np.array([self._losses[genotype] for genotype in genotypes])

    def curves(self, genotypes: Sequence[Any]) -> np.ndarray:
        rows = []
        for genotype, loss in zip(genotypes, self.truth(genotypes), strict=True):
            network = self.fit_width(genotype)[0]
            good = (loss - self.centre) / self.spread
            other = (self.early(network) - self.slope * loss - self.offset) / self.early_spread
            row = [
                self.centre
                + 1.0
                - 0.3 * rung
                + self.spread * (r * good + np.sqrt(1 - r * r) * other)
                for rung, r in enumerate(self.correlation)
            ]
            noise = np.random.default_rng([int(network.hash[:8], 16), 5]).normal(0.0, NOISE)
            rows.append(np.array([*row, loss]) + noise)
        return np.array(rows)


# -- flashnas-bench --------------------------------------------------------------------------------


@functools.cache
def bench(source: str | None) -> Any:
    """Trainings with a latency and a whole curve, one a row."""
    frame = pd.read_parquet(bench_file(source)).dropna(subset="loss")
    frame = frame[
        frame[f"latency_ms/{TABLE}/{WORKLOAD}"].notna() & (frame["curve"].map(len) == RUNGS)
    ]
    return frame.reset_index(drop=True)


def bench_file(source: str | None) -> Path:
    """The file of a folder; of the shipped one."""
    return Path(source or Path(__file__).parents[1] / "bench_tables" / "cpu") / "bench.parquet"


@functools.cache
def header(source: str | None) -> tuple[Any, int]:
    """The recipe of the bench and its tokens of vocabulary."""
    read = json.loads(pq.read_schema(bench_file(source)).metadata[b"flashnas_bench"])
    return Recipe.from_dict(read["recipe"]), read["vocab"]


@dataclass(frozen=True)
class Row(Genotype):
    """A row of the bench by its number."""

    number: int


class RowSpace(SearchSpace[Row]):
    """The rows as a space: parameters that describe a network, and the nearest row to any values of
    them.

    A mutation goes to one of the `NEIGHBOURS` nearest rows in features.
    """

    NEIGHBOURS = 6

    def __init__(
        self, architectures: Sequence[Architecture], trained: Sequence[Architecture]
    ) -> None:
        self.networks = list(architectures)
        self.codes = [_code(network) for network in self.networks]
        seen: Counter[Any] = Counter()
        for code in self.codes:  # rows with equal parameters are told apart by a number
            key = tuple(code.values())
            code["variant"], seen[key] = seen[key], seen[key] + 1
        self.rows = np.array(
            [_features(*pair) for pair in zip(self.networks, trained, strict=True)]
        )
        span = np.ptp(self.rows, axis=0)
        self.rows = (self.rows - self.rows.min(axis=0)) / np.where(span > 0, span, 1.0)
        gaps = np.linalg.norm(self.rows[:, None] - self.rows[None], axis=2)
        self.near = np.argsort(gaps + 1e9 * np.eye(len(gaps)), axis=1, kind="stable")[
            :, : self.NEIGHBOURS
        ]
        self.names = list(self.codes[0])
        self.numeric = [name for name in self.names if not isinstance(self.codes[0][name], str)]
        self.numbers = np.array(
            [[code[name] for name in self.numeric] for code in self.codes], dtype=np.float64
        )
        self.span = np.maximum(np.ptp(self.numbers, axis=0), 1e-9)
        self.weight = np.array([0.05 if name == "variant" else 1.0 for name in self.numeric])

    def sample(self, rng: np.random.Generator) -> Row:
        return Row(int(rng.integers(len(self.networks))))

    def mutate(self, genotype: Row, rng: np.random.Generator) -> Row:
        return Row(int(rng.choice(self.near[genotype.number])))

    def encode(self, genotype: Row) -> dict[str, Any]:
        return dict(self.codes[genotype.number])

    def decode(self, params: Mapping[str, Any]) -> Row:
        wanted = np.array([params[name] for name in self.numeric], dtype=np.float64)
        gaps = (self.weight * np.abs(self.numbers - wanted) / self.span).sum(axis=1)
        gaps += [
            0.5 * sum(code[name] != params[name] for name in self.names if name not in self.numeric)
            for code in self.codes
        ]
        return Row(int(np.argmin(gaps)))

    def distributions(self) -> dict[str, Any]:
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        result: dict[str, Any] = {}
        for name in self.names:
            values = [code[name] for code in self.codes]
            if name not in self.numeric:
                result[name] = CategoricalDistribution(sorted(set(values)))
            else:
                kind = FloatDistribution if isinstance(values[0], float) else IntDistribution
                result[name] = kind(min(values), max(values))
        return result

    def architectures(self, genotype: Row) -> list[Architecture]:
        return [self.networks[genotype.number]]

    def features(self, genotype: Row) -> np.ndarray:
        return self.rows[genotype.number]

    def size(self) -> int:
        return len(self.networks)

    def enumerate(self) -> Any:
        return map(Row, range(len(self.networks)))


def _code(network: Architecture) -> dict[str, Any]:
    mixers = [spec.kind for spec in network.operators if spec.mixes_tokens]
    third = -(-len(mixers) // 3)
    common = [
        Counter(part).most_common(1)[0][0] if part else mixers[-1]
        for part in (mixers[:third], mixers[third : 2 * third], mixers[2 * third :])
    ]
    counts = Counter(mixers).most_common()
    return {
        "width": network.hidden,
        "depth": len(network.operators),
        "ffn_share": 1 - len(mixers) / len(network.operators),
        "early": common[0],
        "middle": common[1],
        "late": common[2],
        "second": counts[1][0] if len(counts) > 1 else "none",
    }


def _features(network: Architecture, trained: Architecture) -> np.ndarray:
    """Counts and shares of operators by kind, depth, sizes of the network that is trained in its
    place.
    """
    specs = {kind: OPERATORS[kind]() for kind in OPERATORS.shipped}
    plain = [specs[spec.kind] for spec in network.operators]
    described = list_features(plain, list(specs.values()))
    counts = described[: len(specs)]
    return np.concatenate(
        [
            np.log1p(counts),
            described[len(specs) :],
            [
                np.log(len(plain)),
                np.log(trained.hidden),
                np.log(trained.params),
                float(network.meta_tokens > 0),
            ],
        ]
    )


class Rows(Problem):
    """The networks of the bench that were trained under seed 0, with their real losses, curves and
    latencies. Seeds differ in what the sampler draws. The true front is known."""

    budget_ms = 18_000.0

    def __init__(self, source: str | None) -> None:
        frame = bench(source)
        frame = frame[frame["seed"] == 0].reset_index(drop=True)
        self.losses = np.array([[loss for _, loss in curve] for curve in frame["curve"]])
        self.losses[:, -1] = frame["loss"]
        self.latencies = frame[f"latency_ms/{TABLE}/{WORKLOAD}"].to_numpy(dtype=np.float64)
        self.space = RowSpace(
            *(list(map(Architecture.parse, frame[name])) for name in ("architecture", "proxy"))
        )
        inside = [Row(int(i)) for i in np.flatnonzero(self.latencies <= self.budget_ms)]
        self.reference = float(np.percentile(self.truth(inside), 90))
        self._best = self.volume(self._points(inside))

    def fit_width(self, genotype: Row) -> tuple[Architecture | None, float | None]:
        latency_ms = float(self.latencies[genotype.number])
        return self.space.networks[
            genotype.number
        ] if latency_ms <= self.budget_ms else None, latency_ms

    def curves(self, genotypes: Sequence[Row]) -> np.ndarray:
        return self.losses[[genotype.number for genotype in genotypes]]

    def truth(self, genotypes: Sequence[Row]) -> np.ndarray:
        return self.losses[[genotype.number for genotype in genotypes], -1]

    def best_volume(self) -> float:
        return self._best


class CurveModel:
    """Predicts the curve of any network from the bench's rows: the mean of boosted trees and a
    Gaussian process with one length for all features, one of each for every point of the curve. No
    sampler or peer models the loss so."""

    def __init__(self, features: np.ndarray, curves: np.ndarray) -> None:
        self.low = features.min(axis=0)
        self.span = np.where(np.ptp(features, axis=0) > 0, np.ptp(features, axis=0), 1.0)
        self.centre, self.spread = curves.mean(axis=0), curves.std(axis=0)
        scaled = (features - self.low) / self.span
        self.models = [_fit(scaled, column) for column in ((curves - self.centre) / self.spread).T]

    def predict(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self.low) / self.span
        columns = [
            np.mean([model.predict(scaled) for model in pair], axis=0) for pair in self.models
        ]
        return np.column_stack(columns) * self.spread + self.centre


def _fit(features: np.ndarray, values: np.ndarray) -> tuple[Any, Any]:
    import warnings

    from sklearn.ensemble import GradientBoostingRegressor
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0) * RBF(2.0, (0.1, 100.0)) + WhiteKernel(0.1)
    trees = GradientBoostingRegressor(
        n_estimators=200, max_depth=3, subsample=0.7, learning_rate=0.05, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return trees.fit(features, values), GaussianProcessRegressor(kernel).fit(features, values)


@functools.cache
def curve_model(source: str | None) -> tuple[CurveModel, float]:
    """The model of all networks of the bench (their mean over seeds), and the noise of one training
    in nats.
    """
    features, curves, noise = curve_data(source)
    return CurveModel(features, curves), noise


def curve_data(source: str | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Features [N, D] and mean curves [N, RUNGS] of the bench's networks; standard deviation
    between seeds, pooled.
    """
    frame = bench(source)
    features, curves, squares, degrees = [], [], 0.0, 0
    for _, rows in frame.groupby("proxy_hash", sort=False):
        seeds = np.array(
            [
                [*(loss for _, loss in curve[:-1]), final]
                for curve, final in zip(rows["curve"], rows["loss"], strict=True)
            ]
        )
        features.append(
            _features(
                *(Architecture.parse(rows[name].iloc[0]) for name in ("architecture", "proxy"))
            )
        )
        curves.append(seeds.mean(axis=0))
        squares += float(((seeds[:, -1] - seeds[:, -1].mean()) ** 2).sum())
        degrees += len(seeds) - 1
    return np.array(features), np.array(curves), (squares / degrees) ** 0.5 if degrees else NOISE


def held_out(source: str | None, folds: int = 20) -> dict[str, list[float]]:
    """Of predictions for networks that were left out, a twentieth at a time: R2 and Spearman for
    each point of the curve."""
    from scipy.stats import spearmanr

    features, curves, _ = curve_data(source)
    predicted = np.empty_like(curves)
    fold = np.random.default_rng(0).permutation(len(curves)) % folds
    for k in range(folds):
        rest = fold != k
        predicted[~rest] = CurveModel(features[rest], curves[rest]).predict(features[~rest])
    errors = ((predicted - curves) ** 2).sum(axis=0) / ((curves - curves.mean(axis=0)) ** 2).sum(
        axis=0
    )
    return {
        "r2": (1 - errors).round(3).tolist(),
        "spearman": [
            round(float(spearmanr(predicted[:, r], curves[:, r]).statistic), 3)
            for r in range(RUNGS)
        ],
    }


class Modelled(WholeSpace):
    """The whole space with losses that `CurveModel` predicts; each seed draws other noise."""

    def __init__(self, source: str | None, seed: int) -> None:
        super().__init__()
        self.curve_model, self.noise = curve_model(source)
        self.recipe, self.vocab = header(source)
        self.seed = seed
        self._known: dict[Any, np.ndarray] = {}
        self.reference = float(np.percentile(self.truth(self.typical), 90))

    def truth(self, genotypes: Sequence[Any]) -> np.ndarray:
        return self._predicted(genotypes)[:, -1]

    def curves(self, genotypes: Sequence[Any]) -> np.ndarray:
        noise = [
            np.random.default_rng(
                [int(self.fit_width(genotype)[0].hash[:8], 16), self.seed]
            ).normal(0.0, 1.0)
            for genotype in genotypes
        ]
        return self._predicted(genotypes) + self.noise * np.array(noise)[:, None]

    def _predicted(self, genotypes: Sequence[Any]) -> np.ndarray:
        new = [genotype for genotype in dict.fromkeys(genotypes) if genotype not in self._known]
        if new:
            networks = [self.fit_width(genotype)[0] for genotype in new]
            rows = self.curve_model.predict(
                np.array(
                    [_features(net, self.recipe.proxy_of(net, self.vocab)) for net in networks]
                )
            )
            self._known |= dict(zip(new, rows, strict=True))
        return np.array([self._known[genotype] for genotype in genotypes])


@functools.lru_cache(maxsize=2)
def make_problem(name: str, seed: int, source: str | None = None) -> Problem:
    """`surface`, `rows` or `model`; shared by the methods, since it only remembers what it
    computed.
    """
    return {
        "surface": lambda: Surface(seed),
        "rows": lambda: Rows(source),
        "model": lambda: Modelled(source, seed),
    }[name]()


PROBLEMS = {
    "surface": "made-up losses over nemotron_flash; each seed is another problem",
    "rows": "the networks of flashnas-bench themselves",
    "model": "losses over nemotron_flash as a model of flashnas-bench predicts them",
}
