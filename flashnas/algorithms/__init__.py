"""The search algorithms by name. One is imported when it is made: torch only with `bayes`, optuna
only with its own."""

from __future__ import annotations

import inspect
from typing import Any

from flashnas.algorithms.algorithm import FitWidth, Goals, SearchAlgorithm
from flashnas.algorithms.trial import Trial
from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.base.text import did_you_mean
from flashnas.space import SearchSpace

__all__ = [
    "ALGORITHMS",
    "FitWidth",
    "Goals",
    "SearchAlgorithm",
    "Trial",
    "algorithm_class",
    "algorithm_options",
    "make_algorithm",
    "sampler_name",
]

ALGORITHMS: Registry[type[SearchAlgorithm]] = Registry(
    "sampler",
    "flashnas.samplers",
    {
        "aging-evolution": "flashnas.algorithms.aging_evolution:AgingEvolution",
        "nsga2": "flashnas.algorithms.optuna_samplers:Nsga2",
        "tpe": "flashnas.algorithms.optuna_samplers:Tpe",
        "random": "flashnas.algorithms.algorithm:Random",
        "bayes": "flashnas.algorithms.bayes:Bayes",
    },
    ConfigError,
    "name",
    base="flashnas.algorithms.algorithm:SearchAlgorithm",
    summaries={
        "aging-evolution": "Tournament winners of a population are mutated; the oldest members"
        " leave",
        "nsga2": "NSGA-II; `population` is small so that tens of candidates make several"
        " generations",
        "tpe": "Multivariate TPE; the pending candidates of a cycle are treated as bad ones, so that"
        " a cycle is spread out",
        "random": "Draws from the space: the baseline for all other algorithms",
        "bayes": "A Gaussian process for each trained quality, expected hypervolume improvement, a"
        " pool of fresh candidates",
    },
)

SHARED_OPTIONS = ("space", "seed", "fit_width", "cycle_size", "goals")


def algorithm_class(sampler: str | type[SearchAlgorithm]) -> type[SearchAlgorithm]:
    """The algorithm of that name, or the class itself; raises ConfigError listing the known
    names.
    """
    return ALGORITHMS[sampler] if isinstance(sampler, str) else sampler


def sampler_name(sampler: str | type[SearchAlgorithm]) -> str:
    return sampler if isinstance(sampler, str) else sampler.name


def algorithm_options(sampler: str | type[SearchAlgorithm]) -> dict[str, Any]:
    parameters = inspect.signature(algorithm_class(sampler)).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in SHARED_OPTIONS and parameter.kind is not parameter.VAR_KEYWORD
    }


def make_algorithm(
    sampler: str | type[SearchAlgorithm],
    *,
    space: SearchSpace[Any],
    seed: int,
    fit_width: FitWidth,
    **options: Any,
) -> SearchAlgorithm:
    """Build a search algorithm; arguments as of `SearchAlgorithm`, with the algorithm's own
    options.

    Raises:
        ConfigError: for an unknown name or option, or a wrong value.
    """
    allowed = algorithm_options(sampler)
    for key in options:
        if key not in (*allowed, *SHARED_OPTIONS):
            raise ConfigError(
                f"sampler {sampler_name(sampler)} has no option {key!r}"
                f"{did_you_mean(key, allowed)}; allowed: {', '.join(allowed) or 'none'}"
            )
    return algorithm_class(sampler)(space=space, seed=seed, fit_width=fit_width, **options)
