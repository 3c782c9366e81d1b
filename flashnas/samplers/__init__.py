"""The search algorithms by name. One is imported when it is made: optuna only with its own."""

import inspect

from flashnas.base.errors import ConfigError
from flashnas.base.registry import Registry
from flashnas.samplers.sampler import Goals, Sampler
from flashnas.trials.trial import Trial

__all__ = [
    "SAMPLERS",
    "Goals",
    "Sampler",
    "Trial",
    "options_of",
]

SAMPLERS: Registry[type[Sampler]] = Registry(
    "sampler",
    "flashnas.samplers",
    {
        "exhaustive": "flashnas.samplers.sampler:Exhaustive",
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


def options_of(sampler: type[Sampler]) -> list[str]:
    """The names of its own options."""
    parameters = inspect.signature(sampler).parameters.values()
    own = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    return [name for name in own if name not in SHARED_OPTIONS]
