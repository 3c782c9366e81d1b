"""The search algorithms by name. One is imported when it is made: torch only with `bayes`, optuna only with its own."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from flashnas.base.errors import ConfigError
from flashnas.base.hints import did_you_mean
from flashnas.registry import Registry
from flashnas.search.algorithm import Evaluation, Goals, LatencyOf, SearchAlgorithm

if TYPE_CHECKING:
    from flashnas.space import SearchSpace

__all__ = ["ALGORITHMS", "Evaluation", "Goals", "LatencyOf", "SearchAlgorithm", "algorithm_options", "make_algorithm"]

ALGORITHMS: Registry[type[SearchAlgorithm]] = Registry("sampler", "flashnas.samplers", {
    "aging-evolution": "flashnas.search.aging_evolution:AgingEvolution",
    "nsga2": "flashnas.search.optuna_samplers:Nsga2",
    "tpe": "flashnas.search.optuna_samplers:Tpe",
    "random": "flashnas.search.optuna_samplers:Random",
    "bayes": "flashnas.search.bayes:Bayes",
}, ConfigError, "name")

_SHARED = ("space", "seed", "latency_of", "cycle_size", "goals")


def algorithm_class(name: str) -> type[SearchAlgorithm]:
    """The algorithm of that name; raises ConfigError listing the known ones."""
    return ALGORITHMS[name]


def algorithm_options(name: str) -> dict[str, Any]:
    """The algorithm's own options and their defaults."""
    parameters = inspect.signature(algorithm_class(name)).parameters
    return {key: parameter.default for key, parameter in parameters.items() if key not in _SHARED}


def make_algorithm(name: str, *, space: SearchSpace, seed: int, latency_of: LatencyOf, cycle_size: int = 10,
                   goals: Goals | None = None, **options: Any) -> SearchAlgorithm:
    """Build an algorithm; raises ConfigError for an unknown name or option, or a wrong value."""
    cls = algorithm_class(name)
    allowed = algorithm_options(name)
    for key in options:
        if key not in allowed:
            raise ConfigError(f"sampler {name} has no option {key!r}{did_you_mean(key, allowed)};"
                              f" allowed: {', '.join(allowed) or 'none'}")
    return cls(space=space, seed=seed, latency_of=latency_of, cycle_size=cycle_size, goals=goals, **options)
