"""A search without any training: which networks of a space publications expect to be the best
within the budgets, and the best pure stack of each mixer, which a hybrid has to beat. A candidate
takes microseconds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.evidence.composition import outside_support
from flashnas.latency.fitting import Fitter
from flashnas.operators import OperatorSpec
from flashnas.operators.feed_forward.spec import FeedForward
from flashnas.search.pareto import non_dominated
from flashnas.study.foresight import Foresight

CANDIDATES = 8000  # genotypes that are looked at
FIRST, EACH = 2500, 1100  # random ones at the start, and mutants in each round
BEST = 24  # lowest values whose mutants are tried, beside those of the front
QUIET_ROUNDS = 2  # rounds without a better front, after which the search ends


@dataclass(frozen=True)
class Foretold:
    """What was looked at, in one order: genotypes, networks, and arrays [N]: latency_ms, the value
    that ranks (`Foresight.value`), and recall."""

    genotypes: list[Any]
    networks: list[Architecture]
    latency_ms: np.ndarray
    value: np.ndarray
    recall: np.ndarray

    def front(self, min_recall: float | None) -> list[int]:
        """Places of the networks that no other one beats in latency and value, fastest first; of
        those with the recall, where any has it."""
        places = np.arange(len(self.networks))
        if min_recall is not None and (self.recall >= min_recall).any():
            places = np.flatnonzero(self.recall >= min_recall)
        points = np.column_stack([self.value, self.latency_ms])[places]
        # orders of the same operators, which evidence cannot tell apart
        alike: dict[tuple[float, ...], int] = {}
        for place, point in zip(places, points.round(9).tolist(), strict=True):
            other = alike.setdefault(tuple(point), int(place))
            if unevenness(self.networks[place].operators) < unevenness(
                self.networks[other].operators
            ):
                alike[tuple(point)] = int(place)
        distinct = np.array(list(alike.values()), dtype=int)
        best = distinct[non_dominated(np.array(list(alike)))]
        return [int(place) for place in best[np.argsort(self.latency_ms[best], kind="stable")]]

    def best(self, min_recall: float | None) -> int | None:
        return min(self.front(min_recall), key=lambda place: self.value[place], default=None)

    def lowest(self, min_recall: float | None) -> np.ndarray:
        """Places of the networks with the recall by their value, the lowest first."""
        kept = np.flatnonzero(self.recall >= (-np.inf if min_recall is None else min_recall))
        return kept[np.argsort(self.value[kept], kind="stable")]

    def nearest(self, min_recall: float, count: int) -> list[int]:
        """At most `count` of these, from the recommended one upwards, each of another composition
        or size than those before."""
        chosen = self.best(min_recall)
        distinct: dict[float, int] = {}
        for place in (*(() if chosen is None else (chosen,)), *self.lowest(min_recall)):
            distinct.setdefault(round(float(self.value[place]), 9), int(place))
        return list(distinct.values())[:count]

    def spread(self, places: Sequence[int], count: int) -> list[int]:
        """At most `count` places of a front, with both ends, about equally far apart in latency."""
        if len(places) <= count:
            return list(places)
        latencies = self.latency_ms[list(places)]
        levels = np.linspace(latencies[0], latencies[-1], count)
        return [
            places[i] for i in sorted({int(np.abs(latencies - value).argmin()) for value in levels})
        ]


def search_by_evidence(
    fitter: Fitter[Any],
    foresight: Foresight,
    *,
    seed: int,
    min_recall: float | None,
    candidates: int = CANDIDATES,
) -> Foretold:
    """Evolution on value and latency, deterministic for a seed, of the front with the recall and of
    that without a floor. candidates: genotypes to look at, at most."""
    space, rng = fitter.space, np.random.default_rng([seed, 1])
    told, seen = Foretold([], [], np.zeros(0), np.zeros(0), np.zeros(0)), set[Any]()

    def look(count: int, parents: Sequence[Any]) -> Foretold:
        """With random genotypes, or mutants of parents, that are new."""
        new: dict[Any, tuple[Architecture, float]] = {}
        for _ in range(count):
            genotype = (
                space.mutate(parents[int(rng.integers(len(parents)))], rng)
                if parents
                else space.sample(rng)
            )
            if genotype in seen:
                continue
            seen.add(genotype)
            network, latency_ms = fitter.latency_of(genotype)
            if network is not None and latency_ms is not None:
                new[genotype] = network, latency_ms
        networks = [network for network, _ in new.values()]
        return Foretold(
            [*told.genotypes, *new],
            [*told.networks, *networks],
            np.append(told.latency_ms, [latency_ms for _, latency_ms in new.values()]),
            np.append(told.value, foresight.value(networks)),
            np.append(told.recall, foresight.recalls(networks)),
        )

    told = look(FIRST, ())
    if not told.networks:
        floor = (
            f" and has an expected recall of {min_recall:g} or more"
            if fitter.allowed is not None
            else ""
        )
        raise BudgetError(
            f"none of {len(seen):,} networks of space {space.name!r} that were looked at meets"
            f" the budget{floor}"
        )
    quiet, before = 0, np.inf
    while len(seen) < candidates and len(told.networks) and quiet < QUIET_ROUNDS:
        places = dict.fromkeys(
            [
                *told.front(min_recall),
                *told.front(None),
                *(
                    int(place)
                    for floor in (None, min_recall)
                    for place in told.lowest(floor)[:BEST]
                ),
            ]
        )
        told = look(EACH, [told.genotypes[place] for place in places])
        level = float(np.sum(told.value[told.front(min_recall)[-3:]]))
        quiet, before = (quiet + 1 if level > before - 1e-4 else 0), min(before, level)
    return told


@functools.lru_cache(maxsize=65_536)
def unevenness(operators: tuple[OperatorSpec, ...]) -> float:
    """How far a stack is from one whose operators of each kind are spread evenly: 0 or more."""
    total = 0.0
    for kind in dict.fromkeys(
        spec.kind for spec in operators
    ):  # in a fixed order: sums keep their bits
        places = (np.flatnonzero([spec.kind == kind for spec in operators]) + 0.5) / len(operators)
        total += float(np.mean((places - (np.arange(len(places)) + 0.5) / len(places)) ** 2))
    return total


def pure_stacks(
    fitter: Fitter[Any],
    score: Callable[[Sequence[Architecture]], np.ndarray],
) -> list[tuple[str, Architecture]]:
    """The best pure stack of each mixer within the budgets: label and network.

    All depths up to the space's, all its widths, and every share of feed-forward layers that
    publications have are looked at: none, one behind every second mixer, one behind each. score:
    networks -> values [N], lower is better.
    """
    space: Any = fitter.space  # an OperatorSpace
    ffn = space.ffn or FeedForward()
    kinds = [spec.kind for spec in space.mixers]
    result = []
    for spec in space.mixers:
        name = spec.kind if kinds.count(spec.kind) == 1 else str(spec)
        blocks = {f"{name} f": (spec, ffn), f"{name} {name} f": (spec, spec, ffn), name: (spec,)}
        some: list[tuple[str, Architecture]] = []
        for text, block in blocks.items():
            for repeats in range(1, max(space.max_operators // len(block), 1) + 1):
                sizes = space.widths_of(block * repeats)
                some += [
                    (f"{repeats}x({text})", network)
                    for network in sizes
                    if not _unpublished(network.operators, network.hidden)
                ]
        fitting = _fitting(fitter, some)
        if fitting:
            values = score([network for _, network in fitting])
            label, network = fitting[int(np.argmin(values))]
            result.append((f"pure {label}", network))
    return result


def _fitting(
    fitter: Fitter[Any], some: Sequence[tuple[str, Architecture]]
) -> list[tuple[str, Architecture]]:
    some = [pair for pair in some if fitter.holds(pair[1])]
    if fitter.allowed is not None:
        some = [pair for pair in some if fitter.allowed(pair[1])]
    if all(budget.metric == "latency_ms" for budget in fitter.budgets):
        latencies = fitter.costs.latencies([network for _, network in some])
        return [
            pair
            for pair, latency_ms in zip(some, latencies, strict=True)
            if latency_ms is not None and fitter.fits({"latency_ms": latency_ms})
        ]
    return [pair for pair in some if fitter.fits_network(pair[1])]


@functools.lru_cache(maxsize=65_536)
def _unpublished(operators: tuple[Any, ...], hidden: int) -> bool:
    """True if publications have no stack of such a composition."""
    network = Architecture(hidden=hidden, operators=operators)
    return any("operators" in words for words in outside_support(network))
