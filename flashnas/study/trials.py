"""The trials of a search as columns. A `Trial` or an `Architecture` is built for what is shown, trained,
or asked for by a user's own code."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.networks import identities, joined, taken
from flashnas.families.programs import loading
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import SIZES
from flashnas.operators import OperatorSpec
from flashnas.study.scorer import ALIKE, Scorer, complexities
from flashnas.trials.pareto import FULL, QUALITY, RECALL, minimised, pareto, point, ranking
from flashnas.trials.trial import Trial

ALIKE_NATS = 5e-4  # up to which above the lowest value the simplest network is recommended
DEEPEST = 2_000  # of the best trials, among which candidates of an acquisition are looked for


class Trials:
    """Networks of a space within its limits: each width of a composition that is within them is one.

    Args:
        fitter: of the space, with its limits.
        objectives: names; the quality first.
        scorer: ranks the trials; None: their trained losses do.
        min_recall: networks of which less is expected are left out.
        train_each: samplers learn from trained losses, also where a scorer has expected ones.

    Attributes:
        proposed: genotype -> indices of its trials, the widest first; empty where no width is within
            the limits. Genotypes that build one network share its trial.
        looked_at: networks of these genotypes, within the limits or not.
        networks, genotypes: of each trial [N].
        columns: names of fields of `Trial` -> values [N], NaN where there is none.
        results: index -> the fields that its evaluation filled.
        target: index of the trial that is to be recommended although others rank before it.
    """

    def __init__(
        self,
        fitter: Fitter[Any],
        objectives: Sequence[str],
        scorer: Scorer | None,
        min_recall: float | None = None,
        *,
        train_each: bool = False,
    ) -> None:
        self.fitter, self.scorer, self.min_recall = fitter, scorer, min_recall
        self.objectives = tuple(objectives)
        self.ranks_by = ranking(self.objectives[0])
        expected = scorer is not None and not train_each
        self.guides = (FULL if expected else self.objectives[0], *self.objectives[1:])
        self.proposed: dict[Any, Sequence[int]] = {}
        self.looked_at = 0
        self.networks: Sequence[Any] = []
        self.genotypes: list[Any] = []
        self._places: dict[Any, int] = {}  # what tells a network apart -> its index
        self.results: dict[int, dict[str, Any]] = {}
        self.target: int | None = None
        names = (*map(ranking, objectives), "loss", "value", "latency_ms", *SIZES)
        self.columns = {name: np.zeros(0) for name in names}

    def __len__(self) -> int:
        return len(self.genotypes)

    # -- what is tried -----------------------------------------------------------------------------

    def find(self, network: Any) -> int | None:
        """The index of a network; None where it is no trial."""
        return self._places.get(*identities([network]))

    def add(self, genotypes: Iterable[Any]) -> None:
        """Add every width within the limits of the genotypes that were not proposed before, scored
        where there is a scorer."""
        new = [each for each in dict.fromkeys(genotypes) if each not in self.proposed]
        networks, owner = self.fitter.space.networks(new)
        self.looked_at += len(networks)
        within = self.fitter.within(networks)
        if self.scorer is not None and self.min_recall is not None:
            index = np.flatnonzero(within)
            recalls = self.scorer.recalls(taken(networks, index))
            within[index] = recalls >= self.min_recall
        index = np.flatnonzero(within)
        start, first = len(self), []
        indices: dict[Any, list[int]] = {genotype: [] for genotype in new}
        for place, identity in zip(index.tolist(), identities(taken(networks, index)), strict=True):
            genotype, number = new[owner[place]], self._places.setdefault(identity, len(self))
            if number == len(self):
                self.genotypes.append(genotype)
                first.append(place)
            indices[genotype].append(number)
        self.proposed |= indices
        networks = taken(networks, np.array(first, int))
        self.networks = joined(self.networks, networks) if start else networks
        found = self._known(networks)
        missing = np.full(len(networks), np.nan)
        for name, column in self.columns.items():
            rounded = np.round(found.get(name, missing), ALIKE)
            self.columns[name] = np.concatenate([column, rounded])
        self._forget()

    def _known(self, networks: Sequence[Any]) -> dict[str, np.ndarray]:
        """The columns that are known before any training."""
        trained = (*QUALITY, "value", RECALL)
        names = [name for name in self.columns if name not in trained]
        found = self.fitter.costs.columns(networks, names)
        if self.scorer is not None:
            found["value"] = self.scorer.values(networks)
            if RECALL in self.columns:
                found[RECALL] = self.scorer.recalls(networks)
        return found

    def score(self, scorer: Scorer) -> None:
        """Score all trials anew by a scorer that knows more."""
        self.scorer = scorer
        self.columns["value"] = scorer.values(self.networks)
        for index, fields in self.results.items():
            if fields["state"] == "failed":
                self.columns["value"][index] = np.nan
        self._forget()

    def learn(self, index: int, fields: Mapping[str, Any]) -> None:
        """Take what the evaluation of a network filled; a failed one ranks no more."""
        self.results[index] = dict(fields)
        failed = fields["state"] == "failed"
        for name, column in self.columns.items():
            if failed or fields.get(name) is not None:
                column[index] = np.nan if failed else fields[name]
        self._forget()

    def _forget(self) -> None:
        for name in ("best", "front"):
            self.__dict__.pop(name, None)

    # -- what came of it ---------------------------------------------------------------------------

    @property
    def value(self) -> np.ndarray:
        """By which trials rank [N]: the scorer's value, or the loss that was trained."""
        return self.columns[self.ranks_by]

    @property
    def lowest(self) -> float:
        """The lowest value by which samplers are guided; infinite where there is none yet."""
        return float(np.nanmin(self.columns[ranking(self.guides[0])], initial=np.inf))

    @property
    def latency_ms(self) -> np.ndarray:
        return self.columns["latency_ms"]

    @property
    def ranked(self) -> np.ndarray:
        """Indices of the trials that have a value, the best one first."""
        return _sorted(self.value)

    @property
    def by_guide(self) -> np.ndarray:
        """The same by what guides samplers."""
        return _sorted(self.columns[ranking(self.guides[0])])

    @functools.cached_property
    def best(self) -> int:
        """Index of the network that is recommended."""
        return self.simplest(self.ranked)

    def simplest(
        self, indices: Sequence[int] | np.ndarray, values: np.ndarray | None = None
    ) -> int:
        """Of the trials at these indices the target, or the simplest one whose value lies within
        ALIKE_NATS of the lowest; of trained losses the lowest one. values: of all trials [N], in place
        of their own."""
        index = np.asarray(indices)
        if self.target is not None and self.target in index:
            return self.target
        tolerance = ALIKE_NATS if self.ranks_by == "value" else 0.0
        value = self.value if values is None else values
        low = index[value[index] <= value[index].min() + tolerance]
        return min(map(int, low), key=lambda each: simplicity(self.networks[each]))

    @functools.cached_property
    def front(self) -> list[int]:
        """Indices of the trials that no other one dominates, fastest first; of equal ones the most
        even order first."""

        def place(index: int) -> tuple[float, ...]:
            network = self.networks[index]
            even = unevenness(network.operators) if isinstance(network, Architecture) else 0.0
            return float(self.latency_ms[index]), round(even, ALIKE)

        return sorted(map(int, np.flatnonzero(pareto(self.columns, self.objectives))), key=place)

    def candidates(self, count: int, *, evaluated: bool = True) -> list[int]:
        """Trials of which one may be recommended once more is observed, at most `count`: that which is
        now, the best one of each set of token mixers, and those with the lowest values, those of
        another composition or size than those before first. evaluated: or without a result alone;
        where trained losses rank, another order of a trained composition is another network."""
        values = self.columns["value"]
        known = {} if evaluated else self.results
        ranked = list(map(int, _sorted(values)))
        if self.ranks_by != "value":
            ranked = [index for index in ranked if index not in known]
        distinct: dict[float, int] = {}
        of_mixers: dict[frozenset[str], int] = {}
        for index in ranked[: DEEPEST + count]:
            distinct.setdefault(float(values[index]), index)
            of_mixers.setdefault(mixer_kinds(self.networks[index]), index)
        recommended = [self.best] if len(self.ranked) else []
        found = [*recommended, *of_mixers.values(), *distinct.values(), *ranked]
        return list(dict.fromkeys(index for index in found if index not in known))[:count]

    def of_each(self, label: Callable[[Any], str]) -> dict[str, int]:
        """The best trial of each group of genotypes with one label, the best group first."""
        groups: dict[str, list[int]] = {}
        for index in self.ranked:
            groups.setdefault(label(self.genotypes[index]), []).append(int(index))
        return {name: self.simplest(indices) for name, indices in groups.items()}

    def untrained(self, genotypes: Iterable[Any]) -> list[int]:
        """Of each genotype with a trial the widest one, unless that has a result."""
        widest = dict.fromkeys(self.proposed[each][0] for each in genotypes if self.proposed[each])
        return [index for index in widest if index not in self.results]

    def told(self, genotypes: Iterable[Any]) -> list[Trial]:
        """What a sampler learns of genotypes, one trial each: of the widths of one that which the
        fewest trials dominate, and of these the widest."""
        genotypes = list(genotypes)
        columns = np.column_stack(
            [minimised(name, self.columns[ranking(name)]) for name in self.guides]
        )
        front = columns[pareto(self.columns, self.guides)]
        indices = [index for genotype in genotypes for index in self.proposed[genotype]]
        own = columns[indices]
        dominating = np.zeros(len(own))
        for member in front:  # one after another: a front and a batch may have thousands each
            dominating += (member <= own).all(axis=1)
        dominating[np.isnan(own).any(axis=1)] = len(front) + 1  # what is unknown comes last
        rank = dict(zip(indices, dominating.tolist(), strict=True))
        found = []
        for genotype in genotypes:
            if not self.proposed[genotype]:
                found.append(Trial.of(None, genotype=genotype))
                continue
            index = min(self.proposed[genotype], key=rank.__getitem__)
            values = tuple(columns[index].tolist())
            if index in self.results:  # whole, for samplers that read more than the objectives
                trial = self.trial(index)
                found.append(dataclasses.replace(trial, genotype=genotype, values=values))
            else:
                found.append(Trial(genotype=genotype, state="expected", values=values))
        return found

    def trial(self, index: int) -> Trial:
        """One trial with all that is known of it."""
        proposal = {"number": index, "genotype": self.genotypes[index]}
        return self.described(self.networks[index], self.results.get(index, {}), **proposal)

    def described(self, network: Any, result: Mapping[str, Any], **proposal: Any) -> Trial:
        """A trial of a network with what costs, its evaluation and the scorer say of it."""
        fields = {"state": "expected", **self.fitter.costs.metrics(network), **result}
        if self.scorer is not None:
            fields |= self.scorer.figures(network)
        if fields.get("params") is not None:
            fields["params"] = int(fields["params"])
        values = point(self.objectives, fields)
        return Trial.of(network, **{**proposal, **fields, "values": values})


def _sorted(values: np.ndarray) -> np.ndarray:
    """Indices of the numbers, the lowest first."""
    order = np.argsort(values, kind="stable")
    return order[~np.isnan(values[order])]


# -- orders among networks that the evidence takes as equal ------------------------------------------


def simplicity(network: Any) -> tuple[Any, ...]:
    """By which networks that are as good are ordered, the simplest first: how many programs load
    it, prices for complexity, layers, width, how even its order is, notation."""
    if not isinstance(network, Architecture):
        return (network.notation,)
    return (
        -len(loading(network)),
        int(complexities([network])[0]),
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
