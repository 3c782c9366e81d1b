"""The search algorithms by name. One is imported when it is made: optuna only with its own."""

from __future__ import annotations

import inspect
from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.base.text import did_you_mean
from flashnas.samplers.sampler import FitWidth, Goals, Sampler
from flashnas.space import SearchSpace
from flashnas.trials.trial import Trial

__all__ = [
    "SAMPLERS",
    "FitWidth",
    "Goals",
    "Sampler",
    "Trial",
    "make_sampler",
    "sampler_class",
    "sampler_name",
    "sampler_options_of",
]

SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    "flashnas.samplers",
    {
        "exhaustive": "flashnas.samplers.exhaustive:Exhaustive",
        "aging-evolution": "flashnas.samplers.aging_evolution:AgingEvolution",
        "nsga2": "flashnas.samplers.optuna_samplers:Nsga2",
        "tpe": "flashnas.samplers.optuna_samplers:Tpe",
        "random": "flashnas.samplers.sampler:Random",
        "bayes": "flashnas.samplers.bayes:Bayes",
    },
    ConfigError,
    "name",
    base="flashnas.samplers.sampler:Sampler",
    summaries={
        "exhaustive": "Lists the space: the default where networks are scored and there are few",
        "aging-evolution": "Tournament winners of a population are mutated; the oldest members"
        " leave",
        "nsga2": "NSGA-II; `population` is small so that tens of candidates make several"
        " generations",
        "tpe": "Multivariate TPE; the pending candidates of a cycle are treated as bad ones, so that"
        " a cycle is spread out",
        "random": "Draws from the space: the baseline for all other algorithms",
        "bayes": "A Gaussian process of each objective that only an evaluation tells, expected"
        " hypervolume improvement, a pool of fresh candidates",
    },
)

SHARED_OPTIONS = ("space", "seed", "fit_width", "cycle_size", "goals")


def sampler_class(sampler: str | type[Sampler]) -> type[Sampler]:
    """The algorithm of that name, or the class itself; raises ConfigError listing the known
    names.
    """
    return SAMPLERS[sampler] if isinstance(sampler, str) else sampler


def sampler_name(sampler: str | type[Sampler]) -> str:
    return sampler if isinstance(sampler, str) else sampler.name


def sampler_options_of(sampler: str | type[Sampler]) -> dict[str, Any]:
    parameters = inspect.signature(sampler_class(sampler)).parameters
    return {
        key: parameter.default
        for key, parameter in parameters.items()
        if key not in SHARED_OPTIONS and parameter.kind is not parameter.VAR_KEYWORD
    }


def make_sampler(
    sampler: str | type[Sampler],
    *,
    space: SearchSpace[Any],
    seed: int,
    fit_width: FitWidth,
    **options: Any,
) -> Sampler:
    """Build a search algorithm; arguments as of `Sampler`, with the algorithm's own
    options.

    Raises:
        ConfigError: for an unknown name or option, or a wrong value.
    """
    allowed = sampler_options_of(sampler)
    for key in options:
        if key not in (*allowed, *SHARED_OPTIONS):
            raise ConfigError(
                f"sampler {sampler_name(sampler)} has no option {key!r}"
                f"{did_you_mean(key, allowed)}; allowed: {', '.join(allowed) or 'none'}"
            )
    return sampler_class(sampler)(space=space, seed=seed, fit_width=fit_width, **options)
