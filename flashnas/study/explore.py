"""A search without any training: what a scorer expects of the networks of a space within budgets.

A space of up to ENUMERATED networks, as that of served families, is enumerated. Of a larger one,
aging evolution looks at some thousand networks. A candidate takes a fraction of a millisecond.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError
from flashnas.families.programs import loading
from flashnas.latency.fitting import SIZES, Costs, Fitter, metric_of
from flashnas.operators import OperatorSpec
from flashnas.samplers import Goals, Trial
from flashnas.samplers.aging_evolution import AgingEvolution
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.scorer import ALIKE, Scorer, complexity
from flashnas.trials.objectives import FULL, RECALL, minimised, ranking
from flashnas.trials.pareto import pareto

ENUMERATED = 20_000  # networks up to which all of a space are scored
POPULATION, TOURNAMENT = 300, 30  # of the evolution; ..
CYCLE = 200  # .. candidates that are scored together
MAX_TRIED = 9_000  # genotypes that are fitted to the budgets
QUIET_CYCLES = 12  # in a row without a better network, after which the search ends; ..
QUIET_WHEN_SPARSE = 2  # .. where less than a quarter of a cycle is new: little is left to find
EVENED = 100  # of the best networks of an evolution, of which the even order is looked at, too
BETTER = 1e-4  # nats per token by which a network counts as better
ALIKE_NATS = 5e-4  # up to which above the lowest value the simplest network is recommended


@dataclass(frozen=True)
class Explored:
    """Trials of a space, in one order: genotypes, networks, and columns [N] by the names of the
    fields of `Trial`: latency_ms, and what the objectives are compared by. tried: genotypes that were
    fitted to the budgets. target: the genotype that is recommended although others have lower
    values."""

    genotypes: list[Any]
    networks: list[Any]
    columns: Mapping[str, np.ndarray]
    objectives: tuple[str, ...]
    tried: int
    target: Any = None

    @classmethod
    def of(
        cls, trials: Iterable[Trial], objectives: Sequence[str], tried: int, target: Any = None
    ) -> Self:
        trials = list(trials)
        names = dict.fromkeys((*map(ranking, objectives), "latency_ms"))
        return cls(
            [trial.genotype for trial in trials],
            [trial.architecture for trial in trials],
            {name: np.array([getattr(trial, name) for trial in trials], float) for name in names},
            tuple(objectives),
            tried,
            target,
        )

    @property
    def value(self) -> np.ndarray:
        """By which the scorer ranks."""
        return self.columns["value"]

    @property
    def latency_ms(self) -> np.ndarray:
        return self.columns["latency_ms"]

    def scored_by(self, scorer: Scorer) -> Explored:
        """The same networks by another scorer."""
        columns = {**self.columns, "value": scorer.values(self.networks)}
        return dataclasses.replace(self, columns=columns)

    @functools.cached_property
    def best(self) -> int:
        """Index of the network that is recommended."""
        return self.simplest(range(len(self.networks)))

    def simplest(self, indices: Sequence[int]) -> int:
        """Of the networks at these indices the target, or the simplest one whose value lies within
        ALIKE_NATS of the lowest."""
        if self.target is not None and (at := self.genotypes.index(self.target)) in indices:
            return at
        highest = self.value[list(indices)].min() + ALIKE_NATS
        low = (index for index in indices if self.value[index] <= highest)
        return min(low, key=lambda index: simplicity(self.networks[index]))

    @functools.cached_property
    def front(self) -> list[int]:
        """Indices of the networks that no other one dominates, fastest first; of equal ones the most
        even order first."""

        def place(index: int) -> tuple[float, ...]:
            network = self.networks[index]
            even = unevenness(network.operators) if isinstance(network, Architecture) else 0.0
            return float(self.latency_ms[index]), round(even, ALIKE)

        indices = np.flatnonzero(pareto(self.columns, self.objectives))
        return sorted(map(int, indices), key=place)

    def candidates(self, count: int) -> list[Architecture]:
        """Networks of which one may be recommended once more is observed: `count` with the lowest
        values, each of another composition or size than those before, and the best one of each set
        of token mixers."""
        distinct: dict[float, int] = {}
        of_mixers: dict[frozenset[str], int] = {}
        for index in (self.best, *map(int, np.argsort(self.value, kind="stable"))):
            if len(distinct) < count:
                distinct.setdefault(round(float(self.value[index]), ALIKE), index)
            of_mixers.setdefault(mixer_kinds(self.networks[index]), index)
        indices = dict.fromkeys([*distinct.values(), *of_mixers.values()])
        return [self.networks[index] for index in indices]

    def of_each(self, label: Callable[[Any], str]) -> dict[str, int]:
        """The best network of each group of genotypes with one label, the best group first."""
        groups: dict[str, list[int]] = {}
        for index, genotype in enumerate(self.genotypes):
            groups.setdefault(label(genotype), []).append(index)
        best = {name: self.simplest(indices) for name, indices in groups.items()}
        return dict(sorted(best.items(), key=lambda item: float(self.value[item[1]])))

    def take(self, indices: Sequence[int]) -> Explored:
        """Those at these indices."""
        chosen = list(indices)
        genotypes = [self.genotypes[index] for index in chosen]
        return dataclasses.replace(
            self,
            genotypes=genotypes,
            networks=[self.networks[index] for index in chosen],
            columns={name: column[chosen] for name, column in self.columns.items()},
            target=self.target if self.target in genotypes else None,
        )


def simplicity(network: Any) -> tuple[Any, ...]:
    """By which networks that are as good are ordered, the simplest first: how many programs load
    it, prices for complexity, layers, width, how even its order is, notation."""
    if not isinstance(network, Architecture):
        return (network.notation,)
    return (
        -len(loading(network)),
        complexity(network),
        len(network.operators),
        network.hidden,
        round(unevenness(network.operators), ALIKE),
        network.notation,
    )


def mixer_kinds(network: Architecture) -> frozenset[str]:
    """The kinds of its token mixers."""
    return frozenset(spec.kind for spec in network.operators if spec.mixes_tokens)


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
    objectives: Sequence[str] = (FULL, "latency_ms"),
    most: int | None = None,
    fit: Callable[..., dict[Any, Any]] = dict,
    target: Any = None,
) -> Explored:
    """Search a space by a scorer, the same for the same seed.

    Args:
        min_recall: networks of which less is expected are left out.
        objectives: of the front.
        most: genotypes that are fitted to the budgets, of a space that is not enumerated;
            MAX_TRIED by default.
        fit: of genotypes, with their largest networks and latency_ms, gives others.
        target: a genotype within the limits that is to be recommended.

    Raises:
        BudgetError: no network that was tried meets the budgets and has the recall.
    """

    def scored(genotypes: Iterable[Any]) -> dict[Any, Trial]:
        fitted = {genotype: fitter.fit_width(genotype) for genotype in genotypes}
        return _scored(fit(fitted), fitter.costs, scorer, min_recall, objectives)

    assert isinstance(space, OperatorSpace), "a scorer knows its operators"
    enumerated = space.count_networks() <= ENUMERATED
    if enumerated:
        genotypes = list(space.enumerate())
        trials, tried = scored(genotypes), len(genotypes)
    else:
        trials, tried = _evolved(
            space, fitter, scored, seed, len(objectives), MAX_TRIED if most is None else most
        )
    trials |= scored([] if target is None else [target])
    if not trials:
        raise BudgetError(
            f"none of {tried:,} networks of space {space.name!r} that were tried meets the budget"
            f" and has an expected recall of {min_recall:g} or more"
        )
    found = Explored.of(trials.values(), objectives, tried, target)
    if enumerated:
        return found
    even = set[Any]()
    for index in {*found.front, *np.argsort(found.value)[:EVENED].tolist()}:
        network = found.networks[index]
        ordered = dataclasses.replace(network, operators=evenly_spread(network.operators))
        even.add(space.locate(ordered))
    even -= {None, *trials}
    trials |= scored(even)
    return Explored.of(trials.values(), objectives, tried + len(even), target)


def _evolved(
    space: OperatorSpace[Any],
    fitter: Fitter[Any],
    scored: Callable[[Iterable[Any]], dict[Any, Trial]],
    seed: int,
    objectives: int,
    most: int,
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
        goals=Goals((True,) * objectives, _no_network),
        population=POPULATION,
        tournament=TOURNAMENT,
    )
    trials: dict[Any, Trial] = {}
    quiet, helped = 0, False
    enough = QUIET_CYCLES
    best = np.inf
    while tried < most and quiet < enough:
        genotypes = evolution.ask()
        new, before = scored(genotypes), len(trials)
        if not (trials or new or helped):  # what meets the budgets is rare
            new = scored([fitter.feasible(seed)])
            evolution.start_from(new.values())
            tried, helped = 0, True
        trials |= new
        enough = QUIET_CYCLES if len(trials) - before >= CYCLE / 4 else QUIET_WHEN_SPARSE
        evolution.tell(
            new.get(genotype) or Trial.of(None, genotype=genotype) for genotype in genotypes
        )
        level = min((trial.point[0] for trial in new.values()), default=np.inf)
        quiet = quiet + 1 if level > best - BETTER else 0
        best = min(best, level)
    return trials, tried


def _scored(
    fitted: dict[Any, Any],
    costs: Costs,
    scorer: Scorer,
    min_recall: float,
    objectives: Sequence[str],
) -> dict[Any, Trial]:
    """Trials of the genotypes of which a width meets the budgets, and that have the recall, with the
    fields that the objectives are compared by."""
    within = {genotype: network for genotype, (network, _) in fitted.items() if network is not None}
    recalls = scorer.recalls(list(within.values()))
    genotypes = [
        genotype for genotype, recall in zip(within, recalls, strict=True) if recall >= min_recall
    ]
    networks = [within[genotype] for genotype in genotypes]
    columns: dict[str, Any] = {
        "value": scorer.values(networks),
        RECALL: recalls[recalls >= min_recall],
        "latency_ms": [fitted[genotype][1] or 0.0 for genotype in genotypes],
    }
    for name in map(ranking, objectives):
        if name in SIZES:
            columns[name] = [costs.size(name, network) for network in networks]
        elif name not in columns:
            columns[name] = [metric_of(name, costs.metrics(network)) for network in networks]
    columns = {name: np.round(column, ALIKE).tolist() for name, column in columns.items()}
    points = zip(
        *(minimised(name, np.array(columns[ranking(name)])).tolist() for name in objectives),
        strict=True,
    )
    rows = zip(*columns.values(), strict=True)
    return {
        genotype: Trial(
            genotype=genotype,
            architecture=network,
            state="expected",
            values=values,
            **dict(zip(columns, row, strict=True)),
        )
        for genotype, network, values, row in zip(genotypes, networks, points, rows, strict=True)
    }


def _no_network(network: Any) -> tuple[float, ...]:
    raise AssertionError("all objectives of a candidate are told with it")
