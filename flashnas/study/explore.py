"""A search without any training: what a scorer expects of the networks of a space within budgets.

A small space is enumerated. Of a large one, aging evolution looks at some thousand networks. A
candidate takes a fraction of a millisecond. The best pure stack of each mixer, which a hybrid has
to beat, is found among all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.algorithms import Goals, Trial
from flashnas.algorithms.aging_evolution import AgingEvolution
from flashnas.algorithms.trial import non_dominated
from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import Fitter
from flashnas.loss.composition import outside_support
from flashnas.operators import OPERATORS, OperatorSpec
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.scorer import ALIKE, Scorer

ENUMERATED = 20_000  # networks up to which all of a space are scored
POPULATION, TOURNAMENT = 300, 30  # of the evolution; ..
CYCLE = 200  # .. candidates that are scored together
MAX_TRIED = 9_000  # genotypes that are fitted to the budgets
QUIET_CYCLES = 12  # in a row without a better network, after which the search ends; ..
QUIET_WHEN_SPARSE = 2  # .. where less than a quarter of a cycle is new: little is left to find
BETTER = 1e-4  # nats per token by which a network counts as better


@dataclass(frozen=True)
class Explored:
    """What was scored, in one order: genotypes, networks, and arrays [N]: latency_ms, and the value
    that ranks (`Scorer.values`). tried: genotypes that were fitted to the budgets."""

    genotypes: list[Any]
    networks: list[Architecture]
    latency_ms: np.ndarray
    value: np.ndarray
    tried: int

    @classmethod
    def of(cls, trials: Iterable[Trial], tried: int) -> Self:
        """Trials whose values are the value that ranks and the latency."""
        trials = list(trials)
        points = np.array([trial.point for trial in trials]).reshape(-1, 2)
        return cls(
            [trial.genotype for trial in trials],
            [trial.architecture for trial in trials],
            points[:, 1],
            points[:, 0],
            tried,
        )

    def scored_by(self, scorer: Scorer) -> Explored:
        """The same networks by another scorer."""
        return dataclasses.replace(self, value=scorer.values(self.networks))

    @functools.cached_property
    def front(self) -> list[int]:
        """Indices of the networks that no other one beats in latency and value, fastest first."""
        points = np.column_stack([self.value, self.latency_ms]).round(ALIKE)
        # of orders of the same operators, which evidence cannot tell apart, the most even one
        alike: dict[tuple[float, ...], int] = {}
        for index, point in enumerate(map(tuple, points.tolist())):
            other = alike.setdefault(point, index)
            if unevenness(self.networks[index].operators) < unevenness(
                self.networks[other].operators
            ):
                alike[point] = index
        distinct = np.array(list(alike.values()), dtype=int)
        best = distinct[non_dominated(points[distinct])]
        return [int(index) for index in best[np.argsort(self.latency_ms[best], kind="stable")]]

    @property
    def best(self) -> int:
        """Index of the network that is recommended: the last one of the front has the lowest value."""
        return self.front[-1]

    def candidates(self, count: int) -> list[Architecture]:
        """Networks of which one may be recommended once more is observed: `count` with the lowest
        values, each of another composition or size than those before, and the best one of each set
        of token mixers."""
        distinct: dict[float, int] = {}
        of_mixers: dict[frozenset[OperatorSpec], int] = {}
        for index in (self.best, *map(int, np.argsort(self.value, kind="stable"))):
            if len(distinct) < count:
                distinct.setdefault(round(float(self.value[index]), ALIKE), index)
            operators = self.networks[index].operators
            of_mixers.setdefault(frozenset(s for s in operators if s.mixes_tokens), index)
        indices = dict.fromkeys([*distinct.values(), *of_mixers.values()])
        return [self.networks[index] for index in indices]

    def spread(self, count: int) -> list[int]:
        """At most `count` of the front, with both ends, about equally far apart in latency."""
        if len(self.front) <= count:
            return self.front
        latencies = self.latency_ms[self.front]
        levels = np.linspace(latencies[0], latencies[-1], count)
        chosen = sorted({int(np.abs(latencies - level).argmin()) for level in levels})
        return [self.front[index] for index in chosen]


@functools.lru_cache(maxsize=65_536)
def unevenness(operators: tuple[OperatorSpec, ...]) -> float:
    """How far a stack is from one whose operators of each kind are spread evenly: 0 or more."""
    total = 0.0
    # in a fixed order: sums keep their bits
    for kind in dict.fromkeys(spec.kind for spec in operators):
        positions = (np.flatnonzero([spec.kind == kind for spec in operators]) + 0.5) / len(
            operators
        )
        total += float(
            np.mean((positions - (np.arange(len(positions)) + 0.5) / len(positions)) ** 2)
        )
    return total


def evenly_spread(operators: Sequence[OperatorSpec]) -> tuple[OperatorSpec, ...]:
    """The same operators in an even order: the mixers of each kind are spread over the stack, and the
    feed-forward layers over the mixers, behind which they stand."""
    mixers = [spec for spec in operators if spec.mixes_tokens]
    others = [spec for spec in operators if not spec.mixes_tokens]
    ordered: list[OperatorSpec] = []
    rest = _spread(others)
    for number, spec in enumerate(_spread(mixers), 1):
        ordered.append(spec)
        while rest and len(others) - len(rest) < number * len(others) // len(mixers):
            ordered.append(rest.pop(0))
    return (*ordered, *rest)


def _spread(specs: Sequence[OperatorSpec]) -> list[OperatorSpec]:
    """Each kind at equal distances, the most frequent one first where two have the same place."""
    spread = []
    for spec in dict.fromkeys(specs):
        count = specs.count(spec)
        spread += [((number + 0.5) / count, -count, str(spec), spec) for number in range(count)]
    return [spec for *_, spec in sorted(spread, key=lambda entry: entry[:3])]


def explore(
    space: SearchSpace[Any],
    fitter: Fitter[Any],
    scorer: Scorer,
    *,
    seed: int,
    min_recall: float,
) -> Explored:
    """Search a space by a scorer, the same for the same seed.

    Args:
        min_recall: networks of which less is expected are left out.

    Raises:
        BudgetError: no network that was tried meets the budgets and has the recall.
    """

    def scored(genotypes: Iterable[Any]) -> dict[Any, Trial]:
        return _scored(genotypes, fitter, scorer, min_recall)

    assert isinstance(space, OperatorSpace), "a scorer knows its operators"
    if space.size() * len(space.hidden_sizes) <= ENUMERATED:
        genotypes = list(space.enumerate())
        trials, tried = scored(genotypes), len(genotypes)
    else:
        trials, tried = _evolved(space, fitter, scored, seed)
    if not trials:
        raise BudgetError(
            f"none of {tried:,} networks of space {space.name!r} that were tried meets the budget"
            f" and has an expected recall of {min_recall:g} or more"
        )
    even = set()
    found = Explored.of(trials.values(), tried)
    for index in found.front:
        network = found.networks[index]
        ordered = dataclasses.replace(network, operators=evenly_spread(network.operators))
        even.add(space.locate(ordered))
    return Explored.of((trials | scored(even - {None})).values(), tried)


def _evolved(
    space: OperatorSpace[Any],
    fitter: Fitter[Any],
    scored: Callable[[Iterable[Any]], dict[Any, Trial]],
    seed: int,
) -> tuple[dict[Any, Trial], int]:
    """Trials that aging evolution finds, and the number of genotypes that were tried."""
    tried = 0

    def fit_width(genotype: Any) -> tuple[Any | None, float | None]:
        nonlocal tried
        tried += 1
        return fitter.fit_width(genotype)

    evolution = AgingEvolution(
        space=space,
        seed=seed,
        fit_width=fit_width,
        cycle_size=CYCLE,
        goals=Goals((True, True), _no_network),
        population=POPULATION,
        tournament=TOURNAMENT,
    )
    trials: dict[Any, Trial] = {}
    quiet, enough, best = 0, QUIET_CYCLES, np.inf
    while tried < MAX_TRIED and quiet < enough:
        genotypes = evolution.ask()
        new, before = scored(genotypes), len(trials)
        trials |= new
        enough = QUIET_CYCLES if len(trials) - before >= CYCLE / 4 else QUIET_WHEN_SPARSE
        evolution.tell(
            new.get(genotype) or Trial.of(None, genotype=genotype) for genotype in genotypes
        )
        level = min((trial.point[0] for trial in new.values()), default=np.inf)
        quiet, best = (quiet + 1 if level > best - BETTER else 0), min(best, level)
    return trials, tried


def _scored(
    genotypes: Iterable[Any], fitter: Fitter[Any], scorer: Scorer, min_recall: float
) -> dict[Any, Trial]:
    """Trials of the genotypes of which a width meets the budgets, and that have the recall. Their
    values are the value that ranks, and the latency."""
    fitted = {genotype: fitter.fit_width(genotype) for genotype in genotypes}
    networks = {
        genotype: network for genotype, (network, _) in fitted.items() if network is not None
    }
    recalls = scorer.recalls(list(networks.values()))
    keeping = {
        genotype: network
        for (genotype, network), recall in zip(networks.items(), recalls, strict=True)
        if recall >= min_recall
    }
    values = scorer.values(list(keeping.values())).tolist()
    return {
        genotype: Trial(
            genotype=genotype,
            architecture=network,
            state="expected",
            values=(value, round(fitted[genotype][1] or 0.0, ALIKE)),
        )
        for (genotype, network), value in zip(keeping.items(), values, strict=True)
    }


def _no_network(network: Any) -> tuple[float, ...]:
    raise AssertionError("all objectives of a candidate are told with it")


# -- stacks of one mixer ----------------------------------------------------------------------------


def pure_stacks(fitter: Fitter[Any], scorer: Scorer) -> list[tuple[str, Architecture]]:
    """The best pure stack of each mixer within the budgets: label and network.

    All depths up to the space's, all its widths, and every share of feed-forward layers that
    publications have are looked at: none, one behind every second mixer, one behind each.
    """
    space: Any = fitter.space  # an OperatorSpace
    ffn = space.ffn or OPERATORS["f"]()
    kinds = [spec.kind for spec in space.mixers]
    result = []
    for spec in space.mixers:
        name = spec.kind if kinds.count(spec.kind) == 1 else str(spec)
        blocks = {f"{name} f": (spec, ffn), f"{name} {name} f": (spec, spec, ffn), name: (spec,)}
        stacks: list[tuple[str, Architecture]] = []
        for text, block in blocks.items():
            for repeats in range(1, max(space.max_operators // len(block), 1) + 1):
                sizes = space.widths_of(block * repeats)
                stacks += [
                    (f"{repeats}x({text})", network)
                    for network in sizes
                    if not _unpublished(network.operators, network.hidden)
                ]
        fitting = _fitting(fitter, stacks)
        if fitting:
            values = scorer.values([network for _, network in fitting])
            label, network = fitting[int(np.argmin(values))]
            result.append((f"pure {network.hidden}: {label}", network))
    return result


def _fitting(
    fitter: Fitter[Any], stacks: Sequence[tuple[str, Architecture]]
) -> list[tuple[str, Architecture]]:
    stacks = [pair for pair in stacks if fitter.holds(pair[1])]
    if all(budget.metric == "latency_ms" for budget in fitter.budgets):
        latencies = fitter.costs.latencies([network for _, network in stacks])
        return [
            pair
            for pair, latency_ms in zip(stacks, latencies, strict=True)
            if latency_ms is not None and fitter.fits({"latency_ms": latency_ms})
        ]
    return [pair for pair in stacks if fitter.fits_network(pair[1])]


@functools.lru_cache(maxsize=65_536)
def _unpublished(operators: tuple[Any, ...], hidden: int) -> bool:
    """True if publications have no stack of such a composition."""
    network = Architecture(hidden=hidden, operators=operators)
    return any("operators" in words for words in outside_support(network))
