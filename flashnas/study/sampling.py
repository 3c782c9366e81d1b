"""The sampler of a search that trains each proposal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flashnas.base.registry import foreign_errors
from flashnas.latency.fitting import metric_of
from flashnas.samplers import Goals, Sampler, make_sampler
from flashnas.trials.objectives import QUALITY, RECALL, minimised


def algorithm_of(problem: Any) -> Sampler:
    """A fresh sampler of a Problem."""
    config = problem.config
    with foreign_errors(*problem.foreign()):
        return make_sampler(
            problem.sampler,
            space=problem.space,
            seed=config.seed,
            fit_width=problem.fitter.fit_width,
            cycle_size=config.cycle_size,
            goals=goals_of(problem),
            **config.sampler_options,
        )


def goals_of(problem: Any) -> Goals | None:
    """None for one trained quality against a latency_ms that is known."""
    names, costs = problem.objectives, problem.costs
    if costs.known and names[1] == "latency_ms" and len(names) == 2:
        return None
    exact = [name for name in names if name not in QUALITY] if costs.known else []

    def exact_of(network: Any) -> tuple[float, ...]:
        figures: Mapping[str, Any] = costs.metrics(network)
        if RECALL in exact and problem.scorer is not None:
            figures = {**figures, **problem.scorer.figures(network)}
        return tuple(minimised(name, metric_of(name, figures)) for name in exact)

    return Goals(tuple(name in exact for name in names), exact_of)
