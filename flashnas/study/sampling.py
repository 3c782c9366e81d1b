"""Which sampler proposes the networks of a search."""

from __future__ import annotations

from typing import Any

from flashnas.base.errors import ConfigError
from flashnas.base.registry import foreign_errors
from flashnas.latency.fitting import metric_of
from flashnas.samplers import Goals, Sampler, make_sampler, sampler_class, sampler_name
from flashnas.study.problem import BAYES, Problem
from flashnas.trials.objectives import QUALITY, minimised

LISTED = 20_000  # networks up to which `exhaustive` is the default of a scored search
CYCLE = 200  # genotypes of a scored search that are proposed together
EXHAUSTIVE, EVOLUTION = "exhaustive", "aging-evolution"
# options where thousands are scored
SCORED = {EVOLUTION: {"population": 300, "tournament": 30}, "nsga2": {"population": 100}}


def proposer(problem: Problem) -> str | type[Sampler]:
    """What proposes networks: the sampler that is named, or the default. Where networks of flashnas
    are trained, `bayes` is the acquisition, which chooses among what the default proposes."""
    named = problem.sampler
    if problem.train_each:
        return BAYES if named is None else named
    if named is None or (named == BAYES and problem.trainings is not None):
        return EXHAUSTIVE if problem.space.count_networks() <= LISTED else EVOLUTION
    return named


def sampler_of(problem: Problem) -> Sampler:
    """A fresh sampler. Raises ConfigError for an unknown one or option, or one that cannot serve the
    search."""
    sampler, config = proposer(problem), problem.config
    name = sampler_name(sampler)
    with foreign_errors(*problem.foreign()):
        kind = sampler_class(sampler)
        if name == BAYES and not problem.train_each:
            raise ConfigError(
                "search.sampler: bayes chooses what is trained or evaluated, and this search does"
                f" neither; give --trials N, or take {EXHAUSTIVE}, {EVOLUTION}, nsga2 or random"
            )
        proposals = min(problem.proposals, problem.space.size())
        if kind.max_proposals is not None and proposals > kind.max_proposals:
            raise ConfigError(
                f"search.sampler: {name} fits a model to all that it proposed and serves up to"
                f" {kind.max_proposals:,} proposals; this search makes up to {proposals:,.0f}; take"
                f" {EXHAUSTIVE}, {EVOLUTION}, nsga2 or random"
            )
        options = dict(config.sampler_options)
        if problem.train_each:
            cycle, fit_width = config.cycle_size, problem.fitter.fit_width
        else:  # what is not within the limits is found for a whole cycle at once
            cycle, fit_width = CYCLE, _within
            options = {**SCORED.get(name, {}), **options}
        if name == EXHAUSTIVE and not problem.train_each:
            cycle = LISTED
        return make_sampler(
            sampler,
            space=problem.space,
            seed=config.seed,
            fit_width=fit_width,
            cycle_size=cycle,
            goals=goals_of(problem),
            **options,
        )


def _within(genotype: Any) -> tuple[Any, None]:
    return genotype, None


def goals_of(problem: Problem) -> Goals | None:
    """None for one trained quality against a latency_ms that is known."""
    names, costs = problem.objectives, problem.costs
    if not problem.train_each:
        return Goals((True,) * len(names), _not_asked)
    if costs.known and names[1] == "latency_ms" and len(names) == 2:
        return None
    exact = [name for name in names if name not in QUALITY] if costs.known else []

    def exact_of(network: Any) -> tuple[float, ...]:
        metrics = costs.metrics(network)
        return tuple(minimised(name, metric_of(name, metrics)) for name in exact)

    return Goals(tuple(name in exact for name in names), exact_of)


def _not_asked(network: Any) -> tuple[float, ...]:
    raise AssertionError("all objectives of a scored network are told with it")
