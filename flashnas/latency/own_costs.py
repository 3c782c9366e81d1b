"""What networks cost by a function of the user's, or by none: then the evaluator returns it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.base.text import one_of
from flashnas.latency.fitting import CostFunction, Costs
from flashnas.latency.metrics import PREDICTED


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
