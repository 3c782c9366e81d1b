"""Pairs of published rows, and what groups say of the mixes that they share.

A pair is two rows of one group, clear if their published losses differ by more than CLEAR_NATS. A
tie counts half. No torch.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from flashnas.evidence.trainings import PublishedRow, comparable, composition, groups_of

CLEAR_NATS = 0.02  # a pair with a larger published gap is clear
MIN_RANKED = 3  # entries of which a rank correlation can be taken
Composition = tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Pair:
    """Two rows of a group, by their places: the published loss of the first less that of the
    second, the predicted one and its standard deviation (None: not stated), in nats."""

    one: int
    other: int
    published: float
    predicted: float
    sd: float | None = None

    @property
    def clear(self) -> bool:
        return abs(self.published) > CLEAR_NATS

    @property
    def right(self) -> float:
        """1 for the published order, 0.5 for a tie, 0 for the other order."""
        return 0.5 + 0.5 * float(np.sign(self.published) * np.sign(self.predicted))


def pairs_of(rows: Sequence[PublishedRow], losses: np.ndarray) -> list[Pair]:
    """All pairs within comparable groups of rows that have a loss [N]; NaN: none."""
    pairs = []
    for places in comparable(rows).values():
        trained = [place for place in places if np.isfinite(losses[place])]
        for one, other in itertools.combinations(trained, 2):
            pairs.append(
                Pair(
                    one,
                    other,
                    rows[one].nats - rows[other].nats,
                    float(losses[one] - losses[other]),
                )
            )
    return pairs


def rank_correlation(x: Sequence[float] | np.ndarray, y: Sequence[float] | np.ndarray) -> float:
    """Spearman's; 0 where one side is constant."""
    return float(spearmanr(x, y).statistic) if np.ptp(x) > 0 and np.ptp(y) > 0 else 0.0


# -- what publications say among themselves --------------------------------------------------------


def _by_composition(
    rows: Sequence[PublishedRow], places: Iterable[int]
) -> dict[Composition, float]:
    """Mean published loss of each composition, in nats."""
    losses: dict[Composition, list[float]] = defaultdict(list)
    for place in places:
        losses[composition(rows[place].specs)].append(rows[place].nats)
    return {key: float(np.mean(values)) for key, values in losses.items()}


@dataclass(frozen=True, kw_only=True)
class GroupPair:
    """Two groups that have some compositions in common.

    one_publication: both have the same source. pairs, right: pairs of compositions that are clear
    in both groups, and those that both order alike.
    """

    groups: tuple[str, str]
    one_publication: bool
    compositions: int
    pairs: int
    right: int


def group_pairs(rows: Sequence[PublishedRow]) -> list[GroupPair]:
    """What each two of groups say of each other that have at least two compositions in common."""
    groups = groups_of(rows)
    means = {name: _by_composition(rows, places) for name, places in groups.items()}
    sources = {
        name: {rows[place].source for place in places} - {""} for name, places in groups.items()
    }
    compared = []
    for left, other in itertools.combinations(groups, 2):
        both = sorted(means[left].keys() & means[other].keys())
        if len(both) < 2:
            continue
        first, second = (np.array([means[name][key] for key in both]) for name in (left, other))
        gaps = [
            (first[a] - first[b], second[a] - second[b])
            for a, b in itertools.combinations(range(len(both)), 2)
        ]
        alike = [x * y > 0 for x, y in gaps if min(abs(x), abs(y)) > CLEAR_NATS]
        compared.append(
            GroupPair(
                groups=(left, other),
                one_publication=bool(sources[left] & sources[other]),
                compositions=len(both),
                pairs=len(alike),
                right=int(sum(alike)),
            )
        )
    return compared
