"""How well losses order what publications found: shares of pairs with intervals, baselines, consensus.

A pair is two rows of one group, clear if their published losses differ by more than CLEAR_NATS. A tie counts
half. No torch.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from flashnas.evidence.proxies import full_networks, full_width
from flashnas.evidence.trainings import PublishedRow, comparable, composition, groups_of

CLEAR_NATS = 0.02      # a pair with a larger published gap is clear
CLOSE_NATS = 0.01      # one with a gap between this and CLEAR_NATS is counted apart
CONTEXT_TOKENS = 2048  # at which the baseline FLOPs are counted
CONFIDENCE, RESAMPLES = 0.95, 2000
MIN_RANKED = 3         # entries of which a rank correlation can be taken
Composition = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Pair:
    """Two rows of a group, by their places: the published loss of the first less that of the second, the
    predicted one and its standard deviation (None: not stated), in nats."""

    one: int
    other: int
    published: float
    predicted: float
    sd: float | None = None

    @property
    def clear(self) -> bool:
        return abs(self.published) > CLEAR_NATS

    @property
    def close(self) -> bool:
        return CLOSE_NATS < abs(self.published) <= CLEAR_NATS

    @property
    def right(self) -> float:
        """1 for the published order, 0.5 for a tie, 0 for the other order."""
        return 0.5 + 0.5 * float(np.sign(self.published) * np.sign(self.predicted))

    @property
    def order(self) -> tuple[int, int]:
        """The places, that of the lower published loss first."""
        return (self.one, self.other) if self.published < 0 else (self.other, self.one)


def pairs_of(rows: Sequence[PublishedRow], losses: np.ndarray, groups: Iterable[Sequence[int]] | None = None,
             ) -> list[Pair]:
    """All pairs within groups of rows that have a loss [N]; NaN: none. groups: None: `comparable` ones."""
    return [Pair(one, other, rows[one].nats - rows[other].nats, float(losses[one] - losses[other]))
            for places in (comparable(rows).values() if groups is None else groups)
            for one, other in itertools.combinations([place for place in places
                                                      if np.isfinite(losses[place])], 2)]


# -- shares of pairs -----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of some pairs: how many are ordered rightly, with a 95 % interval over resampled rows; the same of
    close ones, and the rank correlation of the rows. A figure of no pairs is None. wrong: `better | worse`,
    the clearest first."""

    pairs: int
    right: float
    share: float | None
    interval: tuple[float, float] | None
    spearman: float | None
    close_pairs: int = 0
    close_right: float = 0.0
    wrong: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"pairs": self.pairs, "right": _whole(self.right), "share": self.share,
                "interval": None if self.interval is None else list(self.interval), "spearman": self.spearman,
                "close": {"pairs": self.close_pairs, "right": _whole(self.close_right)}}


@dataclass(frozen=True, kw_only=True)
class GroupPair:
    """Two groups that have some compositions in common.

    one_publication: both have the same source. pairs, right: pairs of compositions that are clear in both
    groups, and those that both order alike. spearman: None for fewer than MIN_RANKED compositions.
    """

    groups: tuple[str, str]
    one_publication: bool
    compositions: int
    pairs: int
    right: int
    spearman: float | None

    def to_dict(self) -> dict[str, Any]:
        return {"groups": list(self.groups), "compositions": self.compositions, "pairs": self.pairs,
                "right": self.right, "spearman": self.spearman}


@dataclass(frozen=True, kw_only=True)
class PublishedTrust:
    """What `measure` finds: over all groups, by group, over the consensus, and for guesses that train
    nothing."""

    overall: Agreement
    groups: dict[str, Agreement]
    consensus: Agreement
    baselines: dict[str, Agreement]
    group_pairs: tuple[GroupPair, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        groups = [{"group": name, **agreement.to_dict(), "wrong": list(agreement.wrong)} for name, agreement
                  in self.groups.items()]
        return {"overall": self.overall.to_dict(), "groups": groups, "consensus": self.consensus.to_dict(),
                "baselines": {name: agreement.to_dict() for name, agreement in self.baselines.items()},
                "publications": _summed([two for two in self.group_pairs if not two.one_publication]),
                "scales": _summed([two for two in self.group_pairs if two.one_publication]),
                **self.facts}


def measure(rows: Sequence[PublishedRow], losses: np.ndarray) -> PublishedTrust:
    """Hold losses against the published ones.

    Args:
        losses: one per row, lower is better; NaN where there is none: its pairs do not count.
    """
    groups = {name: [place for place in places if np.isfinite(losses[place])]
              for name, places in groups_of(rows).items()}
    agreed = consensus_pairs(rows, itertools.chain(*groups.values()))
    return PublishedTrust(
        overall=_over(rows, losses, groups), consensus=_over(rows, losses, groups, agreed),
        groups={name: _over(rows, losses, {name: places}) for name, places in groups.items()},
        baselines={name: _over(rows, guess, groups) for name, guess in baselines(rows).items()},
        group_pairs=tuple(group_pairs(rows)))


def _over(rows: Sequence[PublishedRow], losses: np.ndarray, groups: dict[str, list[int]],
          only: set[tuple[int, int]] | None = None) -> Agreement:
    pairs = [pair for pair in pairs_of(rows, losses, groups.values()) if only is None or pair.order in only]
    clear, close = ([pair for pair in pairs if getattr(pair, name)] for name in ("clear", "close"))
    right = np.array([pair.right for pair in clear])
    missed = sorted((pair for pair in clear if pair.right < 1), key=lambda pair: -abs(pair.published))
    ranked = [places for places in groups.values() if len(places) > 1]
    nats = np.array([row.nats for row in rows])
    return Agreement(
        pairs=len(clear), right=float(right.sum()), share=float(right.mean()) if clear else None,
        interval=_interval(clear, right, groups.values()) if clear else None,
        spearman=float(np.average([rank_correlation(losses[places], nats[places]) for places in ranked],
                                  weights=list(map(len, ranked)))) if ranked and only is None else None,
        close_pairs=len(close), close_right=sum(pair.right for pair in close),
        wrong=tuple(" | ".join(rows[place].operators for place in pair.order) for pair in missed))


def _interval(pairs: Sequence[Pair], right: np.ndarray, groups: Iterable[Sequence[int]],
              ) -> tuple[float, float]:
    """Percentiles of the share with rows drawn again within their groups: pairs are not independent, rows
    are."""
    rng = np.random.default_rng(0)
    first, other = np.array([[pair.one, pair.other] for pair in pairs]).T
    times = np.zeros((RESAMPLES, 1 + max(map(max, filter(None, groups)))), dtype=int)
    for places in groups:
        if places:
            times[:, places] = rng.multinomial(len(places), [1 / len(places)] * len(places), size=RESAMPLES)
    weights = times[:, first] * times[:, other]
    totals = weights.sum(1)
    shares = (weights[totals > 0] @ right) / totals[totals > 0]
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Spearman's; 0 where one side is constant."""
    return float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


# -- what publications say among themselves ------------------------------------------------------------------


def _by_composition(rows: Sequence[PublishedRow], places: Iterable[int]) -> dict[Composition, float]:
    """Mean published loss of each composition, in nats."""
    losses: dict[Composition, list[float]] = defaultdict(list)
    for place in places:
        losses[composition(rows[place].specs)].append(rows[place].nats)
    return {key: float(np.mean(values)) for key, values in losses.items()}


def shared_pairs(rows: Sequence[PublishedRow]) -> dict[tuple[Composition, Composition], dict[str, float]]:
    """For each two compositions, the clear gaps by group: loss of the first minus that of the second, in
    nats."""
    gaps: dict[tuple[Composition, Composition], dict[str, float]] = defaultdict(dict)
    for name, places in groups_of(rows).items():
        means = _by_composition(rows, places)
        for left, other in itertools.combinations(sorted(means), 2):
            if abs(gap := means[left] - means[other]) > CLEAR_NATS:
                gaps[left, other][name] = gap
    return dict(gaps)


def group_pairs(rows: Sequence[PublishedRow]) -> list[GroupPair]:
    """What each two of groups say of each other that have at least two compositions in common."""
    groups = groups_of(rows)
    means = {name: _by_composition(rows, places) for name, places in groups.items()}
    sources = {name: {rows[place].source for place in places} - {""} for name, places in groups.items()}
    compared = []
    for left, other in itertools.combinations(groups, 2):
        both = sorted(means[left].keys() & means[other].keys())
        if len(both) < 2:
            continue
        first, second = (np.array([means[name][key] for key in both]) for name in (left, other))
        gaps = [(first[a] - first[b], second[a] - second[b]) for a, b
                in itertools.combinations(range(len(both)), 2)]
        alike = [x * y > 0 for x, y in gaps if min(abs(x), abs(y)) > CLEAR_NATS]
        compared.append(GroupPair(groups=(left, other), one_publication=bool(sources[left] & sources[other]),
                               compositions=len(both), pairs=len(alike), right=int(sum(alike)),
                               spearman=rank_correlation(first, second) if len(both) >= MIN_RANKED else None))
    return compared


def _summed(some: Sequence[GroupPair]) -> dict[str, Any]:
    pairs, right = sum(two.pairs for two in some), sum(two.right for two in some)
    ranked = [(two.spearman, two.compositions) for two in some if two.spearman is not None]
    mean = sum(rank * count for rank, count in ranked) / sum(count for _, count in ranked) if ranked else None
    return {"pairs": pairs, "right": right, "share": right / pairs if pairs else None, "spearman": mean,
            "twos": [two.to_dict() for two in some]}


def consensus_pairs(rows: Sequence[PublishedRow], places: Iterable[int]) -> set[tuple[int, int]]:
    """Pairs of rows (better, worse) whose compositions stand in at least two groups, which all agree on them.
    """
    agreed = {pair: next(iter(gaps.values())) > 0 for pair, gaps in shared_pairs(rows).items()
              if len(gaps) > 1 and len({gap > 0 for gap in gaps.values()}) == 1}
    known, pairs = np.full(len(rows), np.nan), set()
    known[list(places)] = 0.0
    for pair in pairs_of(rows, known, groups_of(rows).values()):
        better, worse = (composition(rows[place].specs) for place in pair.order)
        key = (min(better, worse), max(better, worse))
        if pair.clear and better != worse and key in agreed and agreed[key] == (worse == key[0]):
            pairs.add(pair.order)
    return pairs


# -- guesses that train nothing ------------------------------------------------------------------------------


def baselines(rows: Sequence[PublishedRow]) -> dict[str, np.ndarray]:
    """A guess for each row from its full-size network, more being better; and a coin, which calls all pairs
    ties."""
    guesses = {"parameters": [row.params for row in rows], "FLOPs": [_flops(row) for row in rows],
               "width": [full_width(row) for row in rows], "depth": [len(row.specs) for row in rows],
               "a coin": [0.0] * len(rows)}
    return {name: -np.asarray(guess, float) for name, guess in guesses.items()}


@functools.lru_cache(maxsize=1024)
def _flops(row: PublishedRow) -> float:
    """Per token, of the full-size network."""
    full = full_networks(row)
    return float(np.interp(full_width(row), [network.hidden for network in full],
                           [network.prefill_flops_per_token(CONTEXT_TOKENS) for network in full]))


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
