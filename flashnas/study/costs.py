"""What is known of a network before it is evaluated: by a latency table, by a function of the user's, or nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.hints import one_of
from flashnas.latency.estimate import Estimate
from flashnas.latency.metrics import PREDICTED
from flashnas.latency.prediction import LatencyModel

CostFunction = Callable[[Any], "float | Mapping[str, float]"]


class Costs(Protocol):
    """The figures of a network (`flashnas.latency.metrics.FIGURES`, and `lower_ms`, `upper_ms`)."""

    known: bool  # True if figures are known before a network is evaluated

    def figures(self, network: Any) -> dict[str, float]:
        """Name -> value."""

    def latencies(self, networks: Sequence[Any]) -> Sequence[float | None]:
        """latency_ms of each network; None where it is not known."""

    def details(self, network: Any) -> dict[str, Any]:
        """`breakdown` and `sources` of the latency, for an entry of the front."""


class TableCosts:
    """Figures by a latency table; the estimates are kept."""

    known = True

    def __init__(self, model: LatencyModel) -> None:
        self.model = model
        self._estimates: dict[Architecture, Estimate] = {}

    def estimate(self, architecture: Architecture) -> Estimate:
        if architecture not in self._estimates:
            self._estimates[architecture] = self.model.estimate(architecture)
        return self._estimates[architecture]

    def figures(self, network: Architecture) -> dict[str, float]:
        estimate = self.estimate(network)
        return {name: getattr(estimate, name) for name in PREDICTED}

    def latencies(self, networks: Sequence[Architecture]) -> Sequence[float | None]:
        return list(map(float, self.model.latencies(networks)))

    def details(self, network: Architecture) -> dict[str, Any]:
        data = self.estimate(network).to_dict()
        return {"breakdown": data["breakdown"], "sources": data["sources"]}


class OwnCosts:
    """Figures by a function of the user's: network -> latency_ms, or a mapping of figures."""

    known = True

    def __init__(self, function: CostFunction) -> None:
        self.function = function
        self._figures: dict[str, dict[str, float]] = {}

    def figures(self, network: Any) -> dict[str, float]:
        """Raises ConfigError for an unknown figure or a value that is not a finite number."""
        if network.hash not in self._figures:
            found = self.function(network)
            values = dict(found) if isinstance(found, Mapping) else {"latency_ms": found}
            params = getattr(network, "params", None)
            known = {"params": params} if isinstance(params, int) else {}
            self._figures[network.hash] = {**known, **{name: _checked(name, value) for name, value in values.items()}}
        return self._figures[network.hash]

    def latencies(self, networks: Sequence[Any]) -> Sequence[float | None]:
        return [self.figures(network).get("latency_ms") for network in networks]

    def details(self, network: Any) -> dict[str, Any]:
        return {"breakdown": [], "sources": {}}


class NoCosts:
    """Nothing is known before the evaluation: the evaluator returns the figures together with the loss."""

    known = False

    def figures(self, network: Any) -> dict[str, float]:
        params = getattr(network, "params", None)
        return {"params": params} if isinstance(params, int) else {}

    def latencies(self, networks: Sequence[Any]) -> Sequence[float | None]:
        return [None] * len(networks)

    def details(self, network: Any) -> dict[str, Any]:
        return {"breakdown": [], "sources": {}}


def figure_of_costs(name: str, figures: Mapping[str, float]) -> float:
    """One figure; raises ConfigError where the cost function does not give it."""
    if name not in figures:
        raise ConfigError(f"the cost function must return {name!r}, which a budget or an objective names;"
                          f" got {', '.join(figures) or 'nothing'}")
    return figures[name]


def _checked(name: str, value: Any) -> float:
    if name not in PREDICTED:
        raise ConfigError(one_of("figure of the cost function", name, PREDICTED))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"the cost function must return finite numbers; got {name} = {value!r}")
    return number
