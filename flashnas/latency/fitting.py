"""What a network costs before it is evaluated, and width by construction: a genotype gets the
largest width that meets the budgets on its costs.
"""

from __future__ import annotations

import functools
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.architecture.networks import taken
from flashnas.base.errors import BudgetError, ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import one_of
from flashnas.latency.metrics import (
    LARGER_IS_BETTER,
    PREDICTED,
    SERVING,
    STATED,
    UNTIMED,
    UPPER_END,
    Budget,
    observed_line,
)
from flashnas.latency.prediction import LatencyModel
from flashnas.space.base import G, SearchSpace

REMEMBERED = 1024  # networks whose estimates are kept
# before budgets are said to be out of reach: genotypes that are drawn first; those up to which all of
# a space are looked at; of a larger one those that are tried, and the share of them that is drawn anew
DRAWN, LISTED, CLIMBED, AFRESH = 64, 20_000, 2_000, 0.1
# share of the others that differ by one mutation; where all do, the climb ends too early
ONE_CHANGE = 0.5
AT_ONCE = 256  # genotypes of a list: few arrays, and few calls of a cost function
MEASURE_HOST = "measure yours: flashnas profile --runtime vllm --vllm-python PATH"

CostFunction = Callable[[Any], "float | Mapping[str, float]"]


class Costs(ABC):
    """The metrics of a network, by name (latency/metrics.py)."""

    known = True  # before a network is evaluated

    @abstractmethod
    def metrics(self, network: Any) -> dict[str, float]: ...

    def columns(self, networks: Sequence[Any], names: Iterable[str]) -> dict[str, np.ndarray]:
        """Some metrics of each network by name, float64 [N]; NaN where one is not known, infinite
        where a network has no room on the device."""
        metrics = [self.metrics(network) for network in networks]
        return {
            name: np.array([each.get(name, np.nan) for each in metrics], float) for name in names
        }

    def host_words(self) -> str:
        """What the host takes of a step, where other hosts take less; for a message."""
        return ""

    def notes(self) -> list[str]:
        """Lines on what the metrics rest on, beside the table."""
        return []

    def details(self, network: Any) -> dict[str, Any]:
        """`operators_ms` and `sources` of the latency, for an entry of the front."""
        return {"operators_ms": {}, "sources": {}}


class TableCosts(Costs):
    """By a latency table. asked: names, of which `metrics` states those of SERVING, too, and the upper
    ends of times."""

    def __init__(self, model: LatencyModel, asked: Iterable[str] = ()) -> None:
        self.model = model
        self.further = {UPPER_END.get(name, name) for name in asked} & {
            *UPPER_END.values(),
            *SERVING,
        }
        self._estimate = functools.lru_cache(maxsize=REMEMBERED)(model.estimate)

    def metrics(self, network: Architecture) -> dict[str, float]:
        estimate = self._estimate(network)
        stated = {name: getattr(estimate, name) for name in (*STATED, "lower_ms", "upper_ms")}
        if self.further <= stated.keys():
            return stated
        further = self.columns([network], self.further)
        return {name: float(values[0]) for name, values in further.items()} | stated

    def columns(
        self, networks: Sequence[Architecture], names: Iterable[str]
    ) -> dict[str, np.ndarray]:
        return self.model.columns(networks, names)

    def host_words(self) -> str:
        calibration = self.model.calibration
        fastest, slowest = calibration.host_range_us
        if not fastest or self.model.correction is not None:
            return ""
        return (
            f"; {calibration.host_us / 1000:.2f} ms of a step are the host's"
            f" ({fastest / 1000:.2f} to {slowest / 1000:.2f} ms); {MEASURE_HOST}"
        )

    def notes(self) -> list[str]:
        return [observed_line(self.model.observed)] if self.model.observed else []

    def details(self, network: Architecture) -> dict[str, Any]:
        estimate = self._estimate(network)
        return {"operators_ms": estimate.operators_ms(), "sources": estimate.sources}


def metric_of(name: str, metrics: Mapping[str, float]) -> float:
    """One metric; raises ConfigError where the cost function does not give it."""
    if name not in metrics:
        raise ConfigError(
            f"the cost function must return {name!r}, which a budget or an objective names;"
            f" got {', '.join(metrics) or 'nothing'}"
        )
    return metrics[name]


@dataclass(frozen=True)
class Requirement:
    """What is asked of networks beside budgets. asked: in words. excess: networks -> how many times
    each is off, [N]; up to 1 where it holds."""

    asked: str
    excess: Callable[[Sequence[Any]], np.ndarray]


class Fitter(Generic[G]):
    """Turns genotypes of a space into networks within budgets on their costs, by which the rules
    hold."""

    def __init__(
        self,
        space: SearchSpace[G],
        costs: Costs,
        budgets: Sequence[Budget],
        rules: Sequence[Requirement] = (),
    ) -> None:
        self.space, self.costs, self.rules = space, costs, rules
        self.budgets = list(budgets)

    def fit_width(self, genotype: G) -> tuple[Any | None, float | None]:
        """The largest network of the genotype within the budgets, and its latency_ms; when none is,
        None and the latency of the smallest, where that is small enough."""
        return self.largest(self.space.networks([genotype])[0])

    def largest(self, sizes: Sequence[Any]) -> tuple[Any | None, float | None]:
        """`fit_width` of some networks of the same operators, the largest first."""
        columns = self.costs.columns(sizes, {*self._metrics, "latency_ms"})
        within = self.within(sizes, columns)
        index = int(within.argmax()) if within.any() else -1
        small = all(
            budget.holds(columns[budget.column][index])
            for budget in self.budgets
            if budget.metric in UNTIMED
        )
        latency_ms = float(columns["latency_ms"][index])
        return (
            sizes[index] if within[index] else None,
            latency_ms if small and math.isfinite(latency_ms) else None,
        )

    def within(
        self, networks: Sequence[Any], columns: Mapping[str, np.ndarray] | None = None
    ) -> np.ndarray:
        """Which of some networks meet all budgets and rules, bool [N]. columns: their metrics."""
        columns = columns or self.costs.columns(networks, self._metrics)
        within = np.ones(len(networks), bool)
        for budget in self.budgets:
            if (unknown := np.isnan(columns[budget.column])).any():  # of a cost function
                metric_of(budget.metric, self.costs.metrics(networks[int(unknown.argmax())]))
            within &= budget.holds(columns[budget.column])
        for rule in self.rules:
            (left,) = np.nonzero(within)
            if len(left):
                within[left] = rule.excess(taken(networks, left)) <= 1
        return within

    @property
    def _metrics(self) -> list[str]:
        return [budget.column for budget in self.budgets]

    def feasible(self, seed: int) -> G:
        """A genotype of which a width meets the budgets and the rules.

        Of a space of up to LISTED networks each one is looked at before it is refused. In a larger one
        CLIMBED genotypes are, most of them changes of the one that was nearest so far.

        Raises:
            BudgetError: none of these does; with the one that misses by the least.
        """
        rng, tried = np.random.default_rng(seed), 0
        listed = self.space.size() <= LISTED
        # by how much it misses what it misses most, its genotype, itself
        nearest: tuple[float, Any, Any] = math.inf, None, None

        def proposed() -> Iterator[Sequence[G]]:
            yield from ([self.space.sample(rng)] for _ in range(DRAWN))
            genotypes = iter(self.space.enumerate()) if listed else iter(())
            while some := list(itertools.islice(genotypes, AT_ONCE)):
                yield some
            for _ in range(0 if listed else CLIMBED - DRAWN):
                other = self.space.sample(rng) if rng.random() < AFRESH else nearest[1]
                for _ in range(rng.geometric(ONE_CHANGE)):
                    other = self.space.mutate(other, rng)
                yield [other]

        for genotypes in proposed():
            tried += len(genotypes)
            networks, genotype = self.space.networks(genotypes)
            within = self.within(networks)
            if within.any():
                return genotypes[genotype[within.argmax()]]
            most = np.max(list(self._excesses(networks).values()), axis=0)
            n = int(most.argmin())
            if nearest[1] is None or most[n] < nearest[0]:
                nearest = float(most[n]), genotypes[genotype[n]], networks[n]
        compositions = f"{tried:,} compositions tried"
        if listed:
            compositions = f"the {tried - DRAWN:,} compositions"
        raise BudgetError(self._refusal(nearest[2], compositions))

    def _excesses(self, networks: Sequence[Any]) -> dict[str, np.ndarray]:
        """How many times over each budget and rule the networks are, [N]; up to 1 within it, and
        where a network has no room on the device at all, which is a matter of memory_gb."""
        columns = self.costs.columns(networks, self._metrics)
        found = {rule.asked: rule.excess(networks) for rule in self.rules}
        for budget in self.budgets:
            by = excess(columns[budget.column], budget)
            found[budget.metric] = np.where(np.isfinite(by), by, 1.0)
        return found

    def _refusal(self, network: Any, compositions: str) -> str:
        """In one line. network: the nearest one."""
        excesses = {name: float(by[0]) for name, by in self._excesses([network]).items()}
        over = {name: by for name, by in excesses.items() if by > 1}
        missed = [rule.asked for rule in self.rules if rule.asked in over]
        options = [f"another --{asked.partition(' ')[0]}" for asked in missed]
        columns = self.costs.columns([network], self._metrics)
        for budget in self.budgets:
            if (by := over.get(budget.metric)) is not None:
                value = columns[budget.column][0]
                missed.append(
                    f"{budget.column} {value:,.5g} where the budget is {budget.limit:,.6g}, by a"
                    f" factor of {by:,.4g}"
                )
                options.append(f"--budget {budget.metric}={_admitting(budget, value):.12g}")
        timed = any(b.metric in over and b.metric not in UNTIMED for b in self.budgets)
        host = self.costs.host_words() if timed else ""
        return (
            f"none of {compositions} of space {self.space.name!r} meets what is asked; the nearest one"
            f" misses {' and '.join(missed)}: {compressed(network.notation)};"
            f" {' and '.join(options)} would admit it{host}"
        )


def _admitting(budget: Budget, value: float) -> float:
    """The tightest limit of four digits that a value meets."""
    step = 10.0 ** (math.floor(math.log10(max(value, 1e-9))) - 3)
    return step * (math.floor if budget.metric in LARGER_IS_BETTER else math.ceil)(value / step)


def excess(values: np.ndarray, budget: Budget) -> np.ndarray:
    """How many times over the budget; below 1 within it. Of sequences none counts as half of one."""
    values = np.maximum(values, 0.5) if budget.metric == "sequences" else values
    with np.errstate(divide="ignore"):
        return budget.limit / values if budget.metric in LARGER_IS_BETTER else values / budget.limit


# -- costs of the user's own -----------------------------------------------------------------------


class OwnCosts(Costs):
    """By a function of the user's: network -> latency_ms, or a mapping of metrics."""

    def __init__(self, function: CostFunction) -> None:
        self.function = function
        self._metrics: dict[str, dict[str, float]] = {}

    def metrics(self, network: Any) -> dict[str, float]:
        """Raises ConfigError for an unknown metric or a value that is not a finite number."""
        if network.hash not in self._metrics:
            with foreign_errors(("cost function", self.function)):
                result = self.function(network)
            values = dict(result) if isinstance(result, Mapping) else {"latency_ms": result}
            self._metrics[network.hash] = {
                **_params(network),
                **{name: _checked(name, value) for name, value in values.items()},
            }
        return self._metrics[network.hash]


class NoCosts(Costs):
    """The evaluator returns the metrics together with the loss."""

    known = False

    def metrics(self, network: Any) -> dict[str, float]:
        return _params(network)


def _params(network: Any) -> dict[str, float]:
    params = getattr(network, "params", None)
    return {"params": params} if isinstance(params, int) else {}


def _checked(name: str, value: Any) -> float:
    if name not in PREDICTED:
        raise ConfigError(one_of("metric of the cost function", name, PREDICTED))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"the cost function must return finite numbers; got {name} = {value!r}")
    return number
