"""How well losses of proxies order what publications found: shares of pairs with intervals, baselines, consensus.

A pair is two rows of one group. It is clear if the published losses differ by more than CLEAR_NATS. Losses order it
rightly if the lower one is the published one's; equal losses count half. No torch.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from flashnas.evidence.proxies import full_networks, full_width
from flashnas.evidence.rank_correlation import CONFIDENCE, LEAST, RESAMPLES, spearman
from flashnas.evidence.trainings import CLEAR_NATS, CLOSE_NATS, Pair, PublishedRow, composition, groups_of, pairs_of

CONTEXT_TOKENS = 2048  # at which the baseline FLOPs are counted
Composition = tuple[tuple[str, float], ...]


def agreement(losses: np.ndarray, pairs: Sequence[Pair]) -> np.ndarray:
    """1.0 for each pair whose order `losses` (one per row) has, 0.5 for a tie, 0.0 for a wrong order."""
    better = losses[[pair.better for pair in pairs]] if pairs else np.empty(0)
    worse = losses[[pair.worse for pair in pairs]] if pairs else np.empty(0)
    return np.where(better < worse, 1.0, np.where(better == worse, 0.5, 0.0))


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of some pairs: how many there are, how many are ordered rightly, the share with its 95 % interval over resampled
    rows, the same count of the pairs that are 0.01 to 0.02 nats apart, and the rank correlation of the rows.

    A figure of no pairs is None. wrong: `better | worse` by their operators, the clearest first.
    """

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
class Two:
    """Two groups that have some compositions in common.

    one_publication: both have the same source, where it is given: one paper at two scales or two budgets. pairs, right:
    pairs of compositions that are clear in both groups, and those that both order alike. spearman: rank correlation of
    their losses over the compositions; None for fewer than 3.
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
    """What `measure` finds: over all groups, by group, over the consensus, and for guesses that train nothing.

    twos: what each two of groups say of the compositions that both have.
    """

    overall: Agreement
    groups: dict[str, Agreement]
    consensus: Agreement
    baselines: dict[str, Agreement]
    twos: tuple[Two, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        groups = [{"group": name, **found.to_dict(), "wrong": list(found.wrong)} for name, found in self.groups.items()]
        return {"overall": self.overall.to_dict(), "groups": groups, "consensus": self.consensus.to_dict(),
                "baselines": {name: found.to_dict() for name, found in self.baselines.items()},
                "publications": _summed([two for two in self.twos if not two.one_publication]),
                "scales": _summed([two for two in self.twos if two.one_publication]),
                **self.facts}


def measure(rows: Sequence[PublishedRow], losses: np.ndarray) -> PublishedTrust:
    """Hold losses against the published ones.

    Args:
        rows: published rows.
        losses: one per row, lower is better; NaN where there is none: its pairs do not count.
    """
    known = [place for place in range(len(rows)) if np.isfinite(losses[place])]
    groups = {name: [place for place in places if place in set(known)] for name, places in groups_of(rows).items()}
    agreed = consensus_pairs(rows, known)
    return PublishedTrust(
        overall=_over(rows, losses, groups), consensus=_over(rows, losses, groups, agreed),
        groups={name: _over(rows, losses, {name: places}) for name, places in groups.items()},
        baselines={name: _over(rows, guess, groups) for name, guess in baselines(rows).items()},
        twos=tuple(twos_of(rows)))


def _over(rows: Sequence[PublishedRow], losses: np.ndarray, groups: dict[str, list[int]],
          only: set[tuple[int, int]] | None = None) -> Agreement:
    def wanted(least: float, most: float) -> list[Pair]:
        found = [pair for places in groups.values() for pair in pairs_of(rows, places, least, most)]
        return [pair for pair in found if only is None or (pair.better, pair.worse) in only]

    clear, close = wanted(CLEAR_NATS, math.inf), wanted(CLOSE_NATS, CLEAR_NATS)
    right = agreement(losses, clear)
    missed = sorted((pair for pair, good in zip(clear, right, strict=True) if good < 1), key=lambda pair: -pair.gap)
    sizes = [len(places) for places in groups.values() if len(places) > 1]
    nats = np.array([row.nats for row in rows])
    ranks = [float(spearman(losses[places], nats[places])) for places in groups.values() if len(places) > 1]
    return Agreement(
        pairs=len(clear), right=float(right.sum()), share=float(right.mean()) if clear else None,
        interval=_interval(clear, right, groups.values()) if clear else None,
        spearman=float(np.average(ranks, weights=sizes)) if sizes and only is None else None,
        close_pairs=len(close), close_right=float(agreement(losses, close).sum()),
        wrong=tuple(f"{rows[pair.better].operators} | {rows[pair.worse].operators}" for pair in missed))


def _interval(pairs: Sequence[Pair], right: np.ndarray, groups: Iterable[Sequence[int]]) -> tuple[float, float]:
    """Percentiles of the share when the rows of each group are drawn again with replacement: pairs are not independent,
    rows are."""
    rng = np.random.default_rng(0)
    better, worse = (np.array([getattr(pair, end) for pair in pairs]) for end in ("better", "worse"))
    count = 1 + int(max(better.max(), worse.max()))
    times = np.zeros((RESAMPLES, count), dtype=int)
    for places in groups:
        inside = [place for place in places if place < count]
        if places:
            drawn = rng.multinomial(len(places), [1 / len(places)] * len(places), size=RESAMPLES)
            times[:, inside] = drawn[:, [list(places).index(place) for place in inside]]
    weights = times[:, better] * times[:, worse]
    totals = weights.sum(1)
    shares = (weights[totals > 0] @ right) / totals[totals > 0]
    low, high = np.quantile(shares, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


# -- what publications say among themselves ----------------------------------------------------------------------


def _by_composition(rows: Sequence[PublishedRow], places: Iterable[int]) -> dict[Composition, float]:
    """Mean published loss of each composition, in nats."""
    found: dict[Composition, list[float]] = defaultdict(list)
    for place in places:
        found[composition(rows[place].specs)].append(rows[place].nats)
    return {key: float(np.mean(values)) for key, values in found.items()}


def shared_pairs(rows: Sequence[PublishedRow]) -> dict[tuple[Composition, Composition], dict[str, float]]:
    """For each two compositions, the clear gaps by group: loss of the first minus that of the second, in nats."""
    found: dict[tuple[Composition, Composition], dict[str, float]] = defaultdict(dict)
    for name, places in groups_of(rows).items():
        means = _by_composition(rows, places)
        for one, other in itertools.combinations(sorted(means), 2):
            if abs(gap := means[one] - means[other]) > CLEAR_NATS:
                found[one, other][name] = gap
    return dict(found)


def twos_of(rows: Sequence[PublishedRow]) -> list[Two]:
    """What each two of groups say of each other that have at least two compositions in common."""
    groups = groups_of(rows)
    means = {name: _by_composition(rows, places) for name, places in groups.items()}
    sources = {name: {rows[place].source for place in places} - {""} for name, places in groups.items()}
    found = []
    for one, other in itertools.combinations(groups, 2):
        both = sorted(means[one].keys() & means[other].keys())
        if len(both) < 2:
            continue
        first, second = (np.array([means[name][key] for key in both]) for name in (one, other))
        gaps = [(first[a] - first[b], second[a] - second[b]) for a, b in itertools.combinations(range(len(both)), 2)]
        alike = [x * y > 0 for x, y in gaps if min(abs(x), abs(y)) > CLEAR_NATS]
        found.append(Two(groups=(one, other), one_publication=bool(sources[one] & sources[other]),
                         compositions=len(both), pairs=len(alike), right=int(sum(alike)),
                         spearman=float(spearman(first, second)) if len(both) >= LEAST else None))
    return found


def _summed(twos: Sequence[Two]) -> dict[str, Any]:
    """Over some twos: their pairs, and their rank correlations weighted by the compositions."""
    pairs, right = sum(two.pairs for two in twos), sum(two.right for two in twos)
    ranked = [(two.spearman, two.compositions) for two in twos if two.spearman is not None]
    mean = sum(rank * count for rank, count in ranked) / sum(count for _, count in ranked) if ranked else None
    return {"pairs": pairs, "right": right, "share": right / pairs if pairs else None, "spearman": mean,
            "twos": [two.to_dict() for two in twos]}


def consensus_pairs(rows: Sequence[PublishedRow], places: Iterable[int]) -> set[tuple[int, int]]:
    """Pairs of rows (better, worse) whose compositions stand in at least two groups, and all of these agree on them."""
    agreed = {pair: next(iter(gaps.values())) > 0 for pair, gaps in shared_pairs(rows).items()
              if len(gaps) > 1 and len({gap > 0 for gap in gaps.values()}) == 1}
    known, found = set(places), set()
    for group in groups_of(rows).values():
        for pair in pairs_of(rows, [place for place in group if place in known]):
            better, worse = (composition(rows[place].specs) for place in (pair.better, pair.worse))
            key = (min(better, worse), max(better, worse))
            if better != worse and key in agreed and agreed[key] == (worse == key[0]):
                found.add((pair.better, pair.worse))
    return found


# -- guesses that train nothing ----------------------------------------------------------------------------------


def baselines(rows: Sequence[PublishedRow]) -> dict[str, np.ndarray]:
    """A guess of the loss for each row: more parameters, more FLOPs per token, more width, more depth; and a coin,
    which calls every pair a tie. Full-size networks, at the width that their number of parameters asks for."""
    widths = np.array([full_width(row) for row in rows])

    guesses: dict[str, Callable[[], list[float]]] = {
        "parameters": lambda: [row.params for row in rows],
        "FLOPs": lambda: [_flops(row) for row in rows],
        "width": lambda: list(widths),
        "depth": lambda: [len(row.specs) for row in rows],
        "a coin": lambda: [0.0] * len(rows),
    }
    return {name: -np.asarray(guess(), float) for name, guess in guesses.items()}


@functools.lru_cache(maxsize=1024)
def _flops(row: PublishedRow) -> float:
    """Per token, of the full-size network."""
    full = full_networks(row)
    return float(np.interp(full_width(row), [network.hidden for network in full],
                           [network.prefill_flops_per_token(CONTEXT_TOKENS) for network in full]))


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
