"""Can short training be trusted? Rank correlations between trainings of the same architectures, with
intervals.

A table holds one row for each `trust.study.RankedTraining`; several seeds of a variant are replicates. No
torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from flashnas.base.errors import RunError
from flashnas.evidence.agreement import CONFIDENCE, MIN_RANKED, RESAMPLES

VARIANTS = ("short", "long", "wide")  # what a search does; more tokens; a smaller width factor
TOP = (1, 3, 5)     # candidates that a user might take on to longer training
BATCH_CELLS = 1 << 21  # pairs of entries compared at once in all resamples


@dataclass(frozen=True, kw_only=True)
class OrderAgreement:
    """How far two orders of the same architectures agree; `count`: architectures that have both."""

    first: str
    second: str
    count: int
    spearman: Interval
    kendall: Interval


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What two seeds of one architecture differ by. sd: of one training's loss, without what a seed adds to
    all alike; `degrees` of freedom behind it. detectable: the least difference of two trainings under one
    seed that is not noise at 95 %; `detectable_mean`: of means over `seeds`. pairs_tied: share of pairs that
    differ by less."""

    variant: str
    seeds: int
    sd: float
    degrees: int
    detectable: float
    detectable_mean: float
    pairs_tied: float


@dataclass(frozen=True, kw_only=True)
class Pick:
    """Take the best `top` by `rule`, train them long, keep the best: how much its long loss is above the best
    of all. by_chance: the same for `top` drawn at random, on average."""

    rule: str
    top: int
    regret: float
    by_chance: float


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Everything that a table of trainings says; parts that it does not allow are None or empty.

    ceiling: the correlation that seeds leave room for if short and long trainings agreed perfectly. gains:
    Spearman of short with long training less that of the parameter count and of the width. tied_neighbours:
    of `neighbours` on the front, those that one short training cannot tell apart.
    """

    architectures: int
    trainings: int
    failed: int
    tokens: dict[str, int]
    agreements: tuple[OrderAgreement, ...]
    noise: tuple[Noise, ...]
    ceiling: float | None
    gains: dict[str, Interval]
    picks: tuple[Pick, ...]
    neighbours: int
    tied_neighbours: int

    def agreement(self, first: str, second: str) -> OrderAgreement | None:
        return next((a for a in self.agreements if (a.first, a.second) == (first, second)), None)

    def noise_of(self, variant: str) -> Noise | None:
        return next((n for n in self.noise if n.variant == variant), None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return dataclasses.asdict(self)


def analyse(table: pd.DataFrame, front: Sequence[str] = ()) -> Trust:
    """What a table of trainings says of short training. front: hashes, neighbours in latency side by side.

    Raises RunError for fewer than MIN_RANKED architectures with a loss and for a variant of two lengths or
    widths.
    """
    for variant, rows in table.groupby("variant"):
        for column in ("tokens", "width_factor"):
            if rows[column].nunique() > 1:
                values = ", ".join(f"{value:,}" for value in sorted(rows[column].unique()))
                raise RunError(f"results: {variant!r} trainings must share one {column}; got {values}")
    trained = table[table["loss"].notna()]
    facts = trained.drop_duplicates("hash").set_index("hash")
    if len(facts) < MIN_RANKED:
        raise RunError(f"proxy-trust needs at least {MIN_RANKED} architectures with a loss; the results hold"
                       f" {len(facts)}")
    losses = {variant: trained[trained["variant"] == variant].pivot(index="hash", columns="seed",
                                                                    values="loss")
              for variant in VARIANTS if (trained["variant"] == variant).any()}
    means = {variant: frame.mean(axis=1) for variant, frame in losses.items()}
    # what can be known without training, larger guessed better
    guesses = {"parameters": -facts["params"], **_widths(facts), "latency": -facts["latency_ms"]}
    agreements = [*_between_variants(means, guesses), *_between_seeds(losses)]
    noise = tuple(measured for variant in losses if (measured := _noise(variant, losses[variant])))
    tied, neighbours = _tied_neighbours(losses.get("short"), front, noise)
    return Trust(
        architectures=len(facts), trainings=len(trained), failed=int(table["loss"].isna().sum()),
        tokens={variant: int(trained.loc[trained["variant"] == variant, "tokens"].max()) for variant
                in losses},
        agreements=tuple(agreements), noise=noise, ceiling=_ceiling(losses),
        gains={name: gain for name in ("parameters", "width") if (gain := _gain(means, guesses.get(name)))},
        picks=tuple(_picks(means, guesses)), neighbours=neighbours, tied_neighbours=tied)


def _widths(facts: pd.DataFrame) -> dict[str, pd.Series]:
    """The hidden size as a guess, which each notation starts with; none where all are equal."""
    width = pd.to_numeric(facts["notation"].str.extract(r"^\s*(\d+)", expand=False))
    return {"width": -width} if width.notna().all() and width.nunique() > 1 else {}


# -- rank correlations; along the last axis, so that all resamples are computed at once ----------------------


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


def spearman(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """Pearson correlation of the ranks, ties in the mean; 0 where one side is constant (a resample may
    be)."""
    ranks = [stats.rankdata(side, axis=axis) for side in (x, y)]
    a, b = (r - r.mean(axis, keepdims=True) for r in ranks)
    scale = np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return np.asarray((a * b).sum(axis) / np.where(scale > 0, scale, 1.0))


def kendall(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
    """tau-b: agreeing minus disagreeing pairs over those that are not tied; 0 where one side is constant."""
    x, y = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    first, second = np.triu_indices(x.shape[-1], 1)
    a, b = (np.sign(side[..., first] - side[..., second]) for side in (x, y))
    scale = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.asarray((a * b).sum(-1) / np.where(scale > 0, scale, 1.0))


def interval(columns: Sequence[np.ndarray], statistic: Callable[..., np.ndarray]) -> Interval:
    """The statistic with a bootstrap interval over the entries of paired columns, the same resamples in every
    call: bias-corrected and accelerated (Efron 1987); percentiles where resamples that all agree leave that
    undefined."""
    value = float(statistic(*columns))
    batch = max(1, BATCH_CELLS // len(columns[0]) ** 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of degenerate resamples
        sampled = stats.bootstrap(columns, statistic, paired=True, n_resamples=RESAMPLES,
                                confidence_level=CONFIDENCE,
                                method="BCa", vectorized=True, batch=batch, rng=np.random.default_rng(0))
    low, high = sampled.confidence_interval
    if not np.isfinite([low, high]).all():
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(sampled.bootstrap_distribution, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


# -- agreement -----------------------------------------------------------------------------------------------


def _agreement(first: str, x: pd.Series, second: str, y: pd.Series) -> OrderAgreement | None:
    both = pd.concat([x, y], axis=1, keys=["x", "y"]).dropna()
    if len(both) < MIN_RANKED:
        return None
    columns = [both["x"].to_numpy(float), both["y"].to_numpy(float)]
    return OrderAgreement(first=first, second=second, count=len(both), spearman=interval(columns, spearman),
                     kendall=interval(columns, kendall))


def _between_variants(means: dict[str, pd.Series], guesses: dict[str, pd.Series]) -> Iterable[OrderAgreement]:
    for first, second in itertools.combinations(means, 2):
        if agreement := _agreement(first, means[first], second, means[second]):
            yield agreement
    target = "long" if "long" in means else next(iter(means))
    for name, guess in guesses.items():
        if agreement := _agreement(name, guess, target, means[target]):
            yield agreement


def _between_seeds(losses: dict[str, pd.DataFrame]) -> Iterable[OrderAgreement]:
    for variant, frame in losses.items():
        for i, j in itertools.combinations(frame.columns, 2):
            if agreement := _agreement(f"{variant} seed {i}", frame[i], f"{variant} seed {j}", frame[j]):
                yield agreement


def _gain(means: dict[str, pd.Series], guess: pd.Series | None) -> Interval | None:
    if guess is None or not {"short", "long"} <= set(means):
        return None
    all_three = pd.concat([means["short"], means["long"], guess], axis=1).dropna()
    if len(all_three) < MIN_RANKED:
        return None
    columns = [all_three.iloc[:, column].to_numpy(float) for column in range(3)]
    return interval(columns, lambda short, long, guessed, axis=-1: (
        spearman(short, long, axis) - spearman(guessed, long, axis)))


# -- noise ---------------------------------------------------------------------------------------------------


def _noise(variant: str, frame: pd.DataFrame) -> Noise | None:
    """From differences between two seeds over architectures: their variance is twice that of one training."""
    squares, degrees = 0.0, 0
    for i, j in itertools.combinations(frame.columns, 2):
        difference = (frame[i] - frame[j]).dropna()
        if len(difference) > 1:
            squares += float(difference.var()) / 2 * (len(difference) - 1)
            degrees += len(difference) - 1
    if not degrees:
        return None
    sd, seeds = float(np.sqrt(squares / degrees)), frame.shape[1]
    degrees = max(1, degrees * 2 // seeds)  # the pairs of three and more seeds are not independent
    least = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * np.sqrt(2) * sd
    of_mean = least / np.sqrt(seeds)
    mean = frame.dropna().mean(axis=1).to_numpy(float)
    apart = np.abs(np.subtract.outer(mean, mean))[np.triu_indices(len(mean), 1)]
    return Noise(variant=variant, seeds=seeds, sd=sd, degrees=degrees, detectable=float(least),
                 detectable_mean=float(of_mean), pairs_tied=float(np.mean(apart < of_mean)) if len(apart)
                 else 0.0)


def _reliability(frame: pd.DataFrame) -> float | None:
    """Mean correlation of two seeds: the share of the variance of one training that the architecture
    explains."""
    pairs = [frame[[i, j]].dropna() for i, j in itertools.combinations(frame.columns, 2)]
    ranks = [float(spearman(*pair.to_numpy(float).T)) for pair in pairs if len(pair) >= MIN_RANKED]
    return float(np.mean(ranks)) if ranks else None


def _ceiling(losses: dict[str, pd.DataFrame]) -> float | None:
    """sqrt of the product of both reliabilities, each raised to that of its seed mean (Spearman 1904,
    1910)."""
    if not {"short", "long"} <= set(losses):
        return None
    product = 1.0
    for variant in ("short", "long"):
        reliability = _reliability(losses[variant])
        if reliability is None:
            return None
        reliability, seeds = max(reliability, 0.0), losses[variant].shape[1]
        product *= seeds * reliability / (1 + (seeds - 1) * reliability)
    return float(np.sqrt(product))


def _tied_neighbours(short: pd.DataFrame | None, front: Sequence[str], noise: Sequence[Noise],
                     ) -> tuple[int, int]:
    measured = next((n for n in noise if n.variant == "short"), None)
    if short is None or measured is None:
        return 0, 0
    first = short[short.columns.min()].dropna()
    shown = [float(first[key]) for key in front if key in first.index]
    steps = np.abs(np.diff(shown))
    return int((steps < measured.detectable).sum()), len(steps)


# -- regret --------------------------------------------------------------------------------------------------


def _picks(means: dict[str, pd.Series], guesses: dict[str, pd.Series]) -> Iterable[Pick]:
    if "long" not in means:
        return
    rules = {variant: means[variant] for variant in ("short", "wide") if variant in means} | guesses
    for rule, order in rules.items():
        both = pd.concat([order, means["long"]], axis=1, keys=["order", "long"]).dropna().sort_values("order")
        if len(both) < MIN_RANKED:
            continue
        long = both["long"].to_numpy(float)
        for top in TOP:
            if top < len(long):
                yield Pick(rule=rule, top=top, regret=float(long[:top].min() - long.min()),
                           by_chance=expected_minimum(long, top) - float(long.min()))


def expected_minimum(values: np.ndarray, drawn: int) -> float:
    """Mean of the least of `drawn` values taken without replacement."""
    n, ordered = len(values), np.sort(values)
    ways = stats.hypergeom  # P(least is the i-th) = P(none of the first i) - P(none of the first i + 1)
    none = np.array([ways.pmf(0, n, i, drawn) for i in range(n + 1)])
    return float((ordered * -np.diff(none)).sum())
