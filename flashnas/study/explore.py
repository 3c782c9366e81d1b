"""A search without any training: `aging-evolution` on what a scorer expects.

It finds which networks of a space are expected to be the best within the budgets. A candidate takes
a fraction of a millisecond. The best pure stack of each mixer, which a hybrid has to beat, comes
from all of them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.algorithms import Goals, Trial
from flashnas.algorithms.aging_evolution import AgingEvolution
from flashnas.algorithms.objectives import non_dominated
from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import Fitter
from flashnas.loss.composition import outside_support
from flashnas.operators import OPERATORS, OperatorSpec
from flashnas.space import OperatorSpace
from flashnas.study.scorer import Scorer

POPULATION, TOURNAMENT = 300, 30  # of the evolution; ..
CYCLE = 200  # .. candidates that are scored together
MAX_TRIED = 9_000  # genotypes that are fitted to the budgets
QUIET_CYCLES = 8  # in a row without a better network, after which the search ends; ..
QUIET_WHEN_SPARSE = 2  # .. where less than a quarter of a cycle is new: little is left to find
KEEPING = 100.0  # nats by which it counts as better to have a network with the recall
BETTER = 1e-4  # nats per token by which a network counts as better


@dataclass(frozen=True)
class Explored:
    """What was scored, in one order: genotypes, networks, and arrays [N]: latency_ms, the value that
    ranks (`Scorer.values`) and recall."""

    genotypes: list[Any]
    networks: list[Architecture]
    latency_ms: np.ndarray
    value: np.ndarray
    recall: np.ndarray

    def front(self, min_recall: float | None) -> list[int]:
        """Indices of the networks that no other one beats in latency and value, fastest first; of
        those with the recall, where any has it."""
        kept = np.arange(len(self.networks))
        if min_recall is not None and (self.recall >= min_recall).any():
            kept = np.flatnonzero(self.recall >= min_recall)
        points = np.column_stack([self.value, self.latency_ms])[kept]
        # of orders of the same operators, which evidence cannot tell apart, the most even one
        alike: dict[tuple[float, ...], int] = {}
        for index, point in zip(kept, points.round(9).tolist(), strict=True):
            other = alike.setdefault(tuple(point), int(index))
            if unevenness(self.networks[index].operators) < unevenness(
                self.networks[other].operators
            ):
                alike[tuple(point)] = int(index)
        distinct = np.array(list(alike.values()), dtype=int)
        best = distinct[non_dominated(np.array(list(alike)))]
        return [int(index) for index in best[np.argsort(self.latency_ms[best], kind="stable")]]

    def best(self, min_recall: float | None) -> int:
        """Index of the network that is recommended."""
        return min(self.front(min_recall), key=lambda index: self.value[index])

    def ranked(self, min_recall: float, count: int) -> list[int]:
        """At most `count` networks with the recall, the recommended one first, each of another
        composition or size than those before."""
        kept = np.flatnonzero(self.recall >= min_recall)
        order = kept[np.argsort(self.value[kept], kind="stable")]
        distinct: dict[float, int] = {}
        for index in (self.best(min_recall), *order):
            distinct.setdefault(round(float(self.value[index]), 9), int(index))
        return list(distinct.values())[:count]

    def spread(self, front: Sequence[int], count: int) -> list[int]:
        """At most `count` of a front, with both ends, about equally far apart in latency."""
        if len(front) <= count:
            return list(front)
        latencies = self.latency_ms[list(front)]
        levels = np.linspace(latencies[0], latencies[-1], count)
        chosen = sorted({int(np.abs(latencies - level).argmin()) for level in levels})
        return [front[index] for index in chosen]


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
    space: OperatorSpace[Any],
    fitter: Fitter[Any],
    scorer: Scorer,
    *,
    seed: int,
    min_recall: float,
) -> Explored:
    """Search a space by a scorer, the same for the same seed.

    The population is selected by three objectives: the value that ranks, the latency, and what the
    recall lacks to the floor.

    Raises:
        BudgetError: no network that was tried meets the budgets.
    """
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
        goals=Goals((True, True, True), _no_network),
        population=POPULATION,
        tournament=TOURNAMENT,
    )
    scored: dict[Any, Trial] = {}
    quiet, enough, best = 0, QUIET_CYCLES, np.inf
    while tried < MAX_TRIED and quiet < enough:
        genotypes = evolution.ask()
        fitted = {genotype: evolution.fitted(genotype) for genotype in genotypes}
        new = _scored(fitted, scorer, min_recall)
        before = len(scored)
        scored |= new
        enough = QUIET_CYCLES if len(scored) - before >= CYCLE / 4 else QUIET_WHEN_SPARSE
        evolution.tell(
            new.get(genotype) or Trial.of(None, genotype=genotype) for genotype in genotypes
        )
        level = _level(scored.values())
        quiet, best = (quiet + 1 if level > best - BETTER else 0), min(best, level)
    if not scored:
        floor = ""
        if fitter.allowed is not None:
            floor = f" and has an expected recall of {min_recall:g} or more"
        raise BudgetError(
            f"none of {tried:,} networks of space {space.name!r} that were tried meets the"
            f" budget{floor}"
        )
    found = _explored(scored.values())
    even = {}
    for index in {*found.front(min_recall), *found.front(None)}:
        network = found.networks[index]
        ordered = dataclasses.replace(network, operators=evenly_spread(network.operators))
        genotype = space.locate(ordered)
        if genotype is not None:
            even[genotype] = fitter.fit_width(genotype)
    return _explored((scored | _scored(even, scorer, min_recall)).values())


def _scored(
    fitted: Mapping[Any, tuple[Any, float | None]], scorer: Scorer, min_recall: float
) -> dict[Any, Trial]:
    """Trials of the genotypes of which a width meets the budgets. Their values are the value that
    ranks, the latency, and what the recall lacks to the floor."""
    within = {
        genotype: (network, latency_ms)
        for genotype, (network, latency_ms) in fitted.items()
        if network is not None and latency_ms is not None
    }
    networks = [network for network, _ in within.values()]
    values, recalls = scorer.values(networks), scorer.recalls(networks)
    trials = {}
    for (genotype, (network, latency_ms)), value, recall in zip(
        within.items(), values.tolist(), recalls.tolist(), strict=True
    ):
        trials[genotype] = Trial(
            genotype=genotype,
            architecture=network,
            state="expected",
            latency_ms=latency_ms,
            expected_recall=recall,
            values=(value, latency_ms, max(0.0, min_recall - recall)),
        )
    return trials


def _explored(trials: Iterable[Trial]) -> Explored:
    trials = list(trials)
    return Explored(
        [trial.genotype for trial in trials],
        [trial.architecture for trial in trials],
        np.array([trial.latency_ms for trial in trials]),
        np.array([trial.point[0] for trial in trials]),
        np.array([trial.expected_recall for trial in trials]),
    )


def _no_network(network: Any) -> tuple[float, ...]:
    raise AssertionError("all objectives of a candidate are told with it")


def _level(trials: Iterable[Trial]) -> float:
    """The lowest value with the recall and without it, added up."""
    points = np.array([trial.point for trial in trials]).reshape(-1, 3)
    keeping = points[points[:, 2] == 0, 0]
    lowest = float(points[:, 0].min(initial=np.inf))
    return lowest + float(keeping.min()) - KEEPING if len(keeping) else lowest


# -- stacks of one mixer ----------------------------------------------------------------------------


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
            values = score([network for _, network in fitting])
            label, network = fitting[int(np.argmin(values))]
            result.append((f"pure {network.hidden}: {label}", network))
    return result


def _fitting(
    fitter: Fitter[Any], stacks: Sequence[tuple[str, Architecture]]
) -> list[tuple[str, Architecture]]:
    stacks = [pair for pair in stacks if fitter.holds(pair[1])]
    if fitter.allowed is not None:
        stacks = [pair for pair in stacks if fitter.allowed(pair[1])]
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
