"""What a network costs, before it is evaluated: by a latency table, by the user's function, or not
known.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import one_of
from flashnas.latency.metrics import PREDICTED
from flashnas.latency.prediction import LatencyModel

REMEMBERED = 16_384  # networks whose metrics are kept

CostFunction = Callable[[Any], "float | Mapping[str, float]"]


class Costs(ABC):
    """The metrics of a network, by name (metrics.PREDICTED)."""

    known = True  # before a network is evaluated

    @abstractmethod
    def metrics(self, network: Any) -> dict[str, float]: ...

    def latencies(self, networks: Sequence[Any]) -> Sequence[float | None]:
        """latency_ms of each; None where it is not known."""
        return [self.metrics(network).get("latency_ms") for network in networks]

    def limits(self) -> str:
        """What no network can do about its latency, for the end of a message."""
        return ""

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

    def latencies(self, networks: Sequence[Architecture]) -> Sequence[float | None]:
        return list(map(float, self.model.latencies(networks)))

    def limits(self) -> str:
        calibration = self.model.calibration
        if not calibration.host_us:
            return ""
        return (
            f"; under calibration {calibration.name} no step takes less than"
            f" {calibration.host_us / 1000:.2f} ms, which the host needs"
        )

    def details(self, network: Architecture) -> dict[str, Any]:
        estimate = self.model.estimate(network)
        return {"operators_ms": estimate.operators_ms(), "sources": estimate.sources}


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


class RecordedCosts(Costs):
    """Those that runs recorded, by hash of the network: of a function or an evaluator of the
    user's.
    """

    def __init__(self, recorded: Mapping[str, dict[str, float]]) -> None:
        self._recorded = recorded

    def metrics(self, network: Any) -> dict[str, float]:
        return self._recorded[network.hash]


def _params(network: Any) -> dict[str, float]:
    params = getattr(network, "params", None)
    return {"params": params} if isinstance(params, int) else {}


def metric_of(name: str, metrics: Mapping[str, float]) -> float:
    """One metric; raises ConfigError where the cost function does not give it."""
    if name not in metrics:
        raise ConfigError(
            f"the cost function must return {name!r}, which a budget or an objective names;"
            f" got {', '.join(metrics) or 'nothing'}"
        )
    return metrics[name]


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
