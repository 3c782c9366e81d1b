"""What a network costs before it is evaluated, and width by construction: a genotype gets the
largest width that meets the budgets on its costs.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic

import numpy as np

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.base.errors import BudgetError, ConfigError
from flashnas.latency.metrics import LARGER_IS_BETTER, PREDICTED, Budget, observed_line
from flashnas.latency.prediction import LatencyModel
from flashnas.space.base import G, SearchSpace

REMEMBERED = 16_384  # networks whose metrics are kept
PROBES = 256  # genotypes of which the fastest is taken
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

    def by_fastest_host(self) -> tuple[str, Costs] | None:
        """What the host takes of a step, in words for a message, and the costs with the fastest
        host of the table's interval; None where it has none."""
        return None

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

    def by_fastest_host(self) -> tuple[str, Costs] | None:
        model, calibration = self.model, self.model.calibration
        fastest, slowest = calibration.host_range_us
        if not fastest or model.observed:
            return None
        faster = replace(calibration, host_us=fastest)
        words = (
            f"{calibration.host_us / 1000:.2f} ms of a step are the host's; programs that were"
            f" timed need {fastest / 1000:.2f} to {slowest / 1000:.2f} ms"
        )
        return words, TableCosts(LatencyModel(model.table, model.workload, calibration=faster))

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


class Fitter(Generic[G]):
    """Turns genotypes of a space into networks within budgets on their costs. holds: network ->
    whether it may be proposed."""

    def __init__(
        self,
        space: SearchSpace[G],
        costs: Costs,
        budgets: Sequence[Budget],
        holds: Callable[[Any], bool] = lambda _: True,
    ) -> None:
        self.space, self.costs, self.holds = space, costs, holds
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
            if all(within) and self.holds(network):
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

    def fits(self, metrics: Mapping[str, float]) -> bool:
        return all(budget.holds(metric_of(budget.metric, metrics)) for budget in self.budgets)

    def fastest(self, seed: int, *, enough: bool = False) -> tuple[Any, dict[str, float]] | None:
        """The network farthest below the budgets, or without budgets of the lowest latency_ms,
        among PROBES of the smallest ones, and its metrics; None where nothing is known before an
        evaluation. enough: end with the first network within all budgets."""
        if not self.costs.known:
            return None
        rng = np.random.default_rng(seed)
        best: tuple[float, G, Any, dict[str, float]] | None = None
        for _ in range(PROBES):
            genotype = self.space.sample(rng)
            if best is not None and rng.random() < 0.7:
                genotype = self.space.mutate(best[1], rng)
            network = next(filter(self.holds, reversed(self.space.architectures(genotype))), None)
            if network is None:
                continue
            metrics = self.costs.metrics(network)
            if enough and self.fits(metrics):
                return network, metrics
            worst = max(
                [excess(metric_of(budget.metric, metrics), budget) for budget in self.budgets]
                or [metrics.get("latency_ms", 0.0)]
            )
            if best is None or worst < best[0]:
                best = (worst, genotype, network, metrics)
        assert best is not None
        return best[2], best[3]

    def check_possible(self, seed: int) -> None:
        """Raise BudgetError when the budgets look out of reach of the whole space."""
        if not self.budgets:
            return
        fastest = self.fastest(seed, enough=True)
        assert fastest is not None, "budgets without costs are refused earlier"
        network, metrics = fastest
        if self.fits(metrics):
            return
        listed = ", ".join(
            f"{b.metric} {metrics[b.metric]:,.5g} (budget {b.limit:,.6g})" for b in self.budgets
        )
        raise BudgetError(
            f"no architecture of space {self.space.name!r} meets the budget; the fastest found"
            f" has {listed}: {compressed(network.notation)}{self._by_other_hosts(metrics, seed)}"
        )

    def _by_other_hosts(self, metrics: Mapping[str, float], seed: int) -> str:
        """What a faster host would allow, where a time is over its budget."""
        found = self.costs.by_fastest_host()
        late = sorted({b.metric for b in self.budgets if not b.holds(metrics[b.metric])})
        if found is None or not {*late} - {*SIZES}:
            return ""
        words, costs = found
        rng, fitter = (
            np.random.default_rng(seed),
            Fitter(self.space, costs, self.budgets, self.holds),
        )
        fitted = [fitter.fit_width(self.space.sample(rng))[0] for _ in range(PROBES)]
        answer = "no network found fits either"
        if fitting := [network for network in fitted if network is not None]:
            largest = max(fitting, key=lambda network: int(network.params))
            values = costs.metrics(largest)
            listed = ", ".join(f"{name} {values[name]:,.5g}" for name in late)
            answer = f"this fits, with {listed}: {compressed(largest.notation)}"
        return f"; {words}; with the fastest of these hosts {answer}; {MEASURE_HOST}"


def excess(value: float, budget: Budget) -> float:
    """How many times over the budget; below 1 within it."""
    return budget.limit / value if budget.metric in LARGER_IS_BETTER else value / budget.limit
