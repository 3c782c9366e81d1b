"""What a network costs before it is evaluated, and width by construction: a genotype gets the
largest width that meets the budgets on its costs.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.base.errors import BudgetError, ConfigError
from flashnas.latency.metrics import LARGER_IS_BETTER, PREDICTED, Budget, observed_line
from flashnas.latency.prediction import LatencyModel
from flashnas.space.base import G, SearchSpace

REMEMBERED = 16_384  # networks whose metrics are kept
# before budgets are said to be out of reach: genotypes that are drawn first; those up to which all of
# a space are looked at; of a larger one those that are tried, and the share of them that is drawn anew
DRAWN, LISTED, CLIMBED, AFRESH = 64, 20_000, 2_000, 0.1
MEASURE_HOST = "measure yours: flashnas profile --runtime vllm --vllm-python PATH"

SIZES = ("memory_gb", "params", "active_params")  # metrics that no time is needed for

CostFunction = Callable[[Any], "float | Mapping[str, float]"]


class Costs(ABC):
    """The metrics of a network, by name (metrics.PREDICTED)."""

    known = True  # before a network is evaluated

    @abstractmethod
    def metrics(self, network: Any) -> dict[str, float]: ...

    def size(self, metric: str, network: Any) -> float:
        """One of SIZES."""
        return metric_of(metric, self.metrics(network))

    def latencies(self, networks: Sequence[Any]) -> Sequence[float | None]:
        """latency_ms of each; None where it is not known."""
        return [self.metrics(network).get("latency_ms") for network in networks]

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
    """By a latency table."""

    def __init__(self, model: LatencyModel) -> None:
        self.model = model
        self._metrics = functools.lru_cache(maxsize=REMEMBERED)(self._estimated)

    def metrics(self, network: Architecture) -> dict[str, float]:
        return self._metrics(network)

    def _estimated(self, network: Architecture) -> dict[str, float]:
        estimate = self.model.estimate(network)
        return {name: getattr(estimate, name) for name in PREDICTED}

    def size(self, metric: str, network: Architecture) -> float:
        if metric == "memory_gb":
            return self.model.memory_gb(network)
        return float(getattr(network, metric))

    def latencies(self, networks: Sequence[Architecture]) -> Sequence[float | None]:
        return list(map(float, self.model.latencies(networks)))

    def host_words(self) -> str:
        calibration = self.model.calibration
        fastest, slowest = calibration.host_range_us
        if not fastest or self.model.correction is not None:
            return ""
        return (
            f"; {calibration.host_us / 1000:.2f} ms of a step are the host's; programs that were"
            f" timed need {fastest / 1000:.2f} to {slowest / 1000:.2f} ms; {MEASURE_HOST}"
        )

    def notes(self) -> list[str]:
        return [observed_line(self.model.observed)] if self.model.observed else []

    def details(self, network: Architecture) -> dict[str, Any]:
        estimate = self.model.estimate(network)
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
    """What is asked of a network beside budgets. asked: in words. excess: network -> how many times it
    is off; up to 1 where it holds."""

    asked: str
    excess: Callable[[Any], float]


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
        self._answers = functools.lru_cache(maxsize=REMEMBERED)(self._answer)

    def fit_width(self, genotype: G) -> tuple[Any | None, float | None]:
        """The largest network of the genotype within the budgets, and its latency_ms; when none is,
        None and the latency of the smallest, where that is small enough."""
        return self._answers(genotype)

    def _answer(self, genotype: G) -> tuple[Any | None, float | None]:
        sizes = self.space.architectures(genotype)
        network, latency_ms = self.largest(sizes)
        if latency_ms is None and (network is not None or self._small_enough(sizes[-1])):
            latency_ms = self.costs.latencies([sizes[-1] if network is None else network])[0]
        return network, latency_ms

    def largest(self, sizes: Sequence[Any]) -> tuple[Any | None, float | None]:
        """The first of some networks of the same operators, the largest first, that meets every
        budget; and its latency_ms, where that was needed.
        """
        small = [network for network in sizes if self._small_enough(network)]
        if not small:
            return None, None
        timed = [budget for budget in self.budgets if budget.metric not in SIZES]
        # latency alone is answered for all widths at once; searches ask for it thousands of times a
        # cycle
        latency_alone = {budget.metric for budget in timed} == {"latency_ms"}
        latencies = self.costs.latencies(small) if latency_alone else [None] * len(small)
        for network, latency_ms in zip(small, latencies, strict=True):
            metrics: Mapping[str, float] = {}
            if latency_ms is not None:
                metrics = {"latency_ms": latency_ms}
            elif timed and not latency_alone:
                metrics = self.costs.metrics(network)
            within = (budget.holds(metric_of(budget.metric, metrics)) for budget in timed)
            if all(within) and all(rule.excess(network) <= 1 for rule in self.rules):
                return network, latency_ms
        return None, None

    def _small_enough(self, network: Any) -> bool:
        return all(
            budget.holds(self.costs.size(budget.metric, network))
            for budget in self.budgets
            if budget.metric in SIZES
        )

    def fits_network(self, network: Any) -> bool:
        return self.largest([network])[0] is not None

    def feasible(self, seed: int) -> G:
        """A genotype of which a width meets the budgets and the rules.

        Of a space of up to LISTED networks each one is looked at before it is refused. In a larger one
        CLIMBED genotypes are, most of them changes of the one that was nearest so far.

        Raises:
            BudgetError: none of these does; with the one that misses by the least.
        """
        rng, tried = np.random.default_rng(seed), 0
        best: tuple[float, Any, Any] = math.inf, None, None

        def fits(genotype: G) -> bool:
            nonlocal tried, best
            tried += 1
            if self.fit_width(genotype)[0] is not None:
                return True
            for network in self.space.architectures(genotype):
                if (most := max(self._excesses(network).values())) < best[0]:
                    best = most, genotype, network
            return False

        for _ in range(DRAWN):
            if fits(genotype := self.space.sample(rng)):
                return genotype
        if listed := self.space.size() <= LISTED:
            tried = 0
            for genotype in self.space.enumerate():
                if fits(genotype):
                    return genotype
        while not listed and tried < CLIMBED:
            far = best[1] is None or rng.random() < AFRESH
            if fits(genotype := self.space.sample(rng) if far else self.space.mutate(best[1], rng)):
                return genotype
        raise BudgetError(self._refusal(best[2], tried, listed))

    def _excesses(self, network: Any) -> dict[str, float]:
        """How many times over each budget and rule a network is; up to 1 within it."""
        found = {rule.asked: rule.excess(network) for rule in self.rules}
        for budget in self.budgets:
            found[budget.metric] = excess(self._metric(budget.metric, network), budget)
        return found

    def _metric(self, name: str, network: Any) -> float:
        if name in SIZES:
            return self.costs.size(name, network)
        if name == "latency_ms" and (value := self.costs.latencies([network])[0]) is not None:
            return value
        return metric_of(name, self.costs.metrics(network))

    def _refusal(self, network: Any, tried: int, listed: bool) -> str:
        """In one line. network: the nearest one."""
        genotypes = f"the {tried:,} genotypes" if listed else f"{tried:,} genotypes tried"
        over = {name: by for name, by in self._excesses(network).items() if by > 1}
        missed = [rule.asked for rule in self.rules if rule.asked in over]
        for budget in self.budgets:
            if (by := over.get(budget.metric)) is not None:
                value = self._metric(budget.metric, network)
                missed.append(
                    f"{budget.metric} {value:,.5g} where the budget is {budget.limit:,.6g}, by a"
                    f" factor of {by:,.4g}"
                )
        timed = any(b.metric in over and b.metric not in SIZES for b in self.budgets)
        host = self.costs.host_words() if timed else ""
        return (
            f"none of {genotypes} of space {self.space.name!r} meets what is asked; the nearest one"
            f" misses {' and '.join(missed)}: {compressed(network.notation)}{host}"
        )


def excess(value: float, budget: Budget) -> float:
    """How many times over the budget; below 1 within it."""
    return budget.limit / value if budget.metric in LARGER_IS_BETTER else value / budget.limit
