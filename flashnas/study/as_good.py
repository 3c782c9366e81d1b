"""The cheapest network whose loss is expected to be no higher than that of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import SIZES, Fitter, TableCosts
from flashnas.latency.metrics import Budget
from flashnas.run_folder.recorded_answer import AsGood
from flashnas.study.comparison import against
from flashnas.study.explore import ALIKE, explore
from flashnas.study.problem import Problem

COSTS = ("latency_ms", *SIZES)  # of which one can be minimised
LIKELY = 0.9  # probability of the second network that is named
TRIED = 3_000  # genotypes of a space that is not enumerated, before the limit is known
ROUNDING = 1e-9  # share by which a cost may exceed itself as a limit; least standard deviation


def aimed(problem: Problem) -> Problem:
    """The problem within what the cheapest network costs that is as good as the model, with that
    network as its aim.

    Raises:
        BudgetError: no network is as good; with the nearest one.
        SettingError: the search has no cost that can be minimised.
    """
    config, costs, scorer = problem.config, problem.costs, problem.scorer
    fitter, metric = problem.fitter, problem.objectives[1]
    space: Any = problem.space
    timed = isinstance(costs, TableCosts) and costs.model.workload.batch != "max"
    if not timed or metric not in COSTS:
        rule = f"needs a latency table, a number of sequences, and one of {', '.join(COSTS)}"
        config.wrong("as_good_as", f"{rule} as second objective; got {metric}")
    assert scorer is not None
    model = load_architecture(str(config.as_good_as))
    model = dataclasses.replace(model, vocab=space.any_network().vocab)

    def narrowest(genotypes: Iterable[Any], probability: float = 0.5) -> dict[Any, Any]:
        """Of each genotype the smallest network within the budgets whose loss is no higher than that
        of the model with this probability, also with what it is charged; and its latency_ms."""
        sizes = [
            (genotype, network)
            for genotype in genotypes
            for network in space.architectures(genotype)
            if fitter.fits_network(network)
        ]
        networks = [model, *(network for _, network in sizes)]
        joint, values = scorer.posterior(networks), scorer.values(networks)
        mean, sd = np.round(joint.mean - joint.mean[0], ALIKE), np.maximum(joint.sd_to(0), ROUNDING)
        good = (values <= values[0]) & (ndtr(-mean / sd) >= probability)
        found = zip(sizes, costs.latencies(networks[1:]), good[1:], strict=True)
        return {genotype: (network, ms) for (genotype, network), ms, holds in found if holds}

    def cheapest(probability: float) -> list[tuple[float, Any, Architecture]]:
        """Its cost, its genotype and the network; nothing where none is as good."""
        found = narrowest(explored.genotypes, probability)
        cost = {
            genotype: ms if metric == "latency_ms" else costs.size(metric, network)
            for genotype, (network, ms) in found.items()
        }
        least = sorted(cost, key=cost.__getitem__)[:1]
        return [(cost[each], each, found[each][0]) for each in least]

    asked: dict[str, Any] = {"min_recall": problem.min_recall, "objectives": problem.objectives}
    search = partial(explore, space, fitter, scorer, seed=config.seed, **asked)
    try:
        explored = search(most=TRIED, fit=narrowest)
    except BudgetError:
        explored = search()
        behind = explored.value[explored.best] - scorer.values([model])[0]
        raise BudgetError(
            f"no network of space {space.name!r} within the limits is expected to be as"
            f" good as {config.as_good_as}; the nearest one ranks {behind:.3f} nats behind it, with"
            f" {explored.latency_ms[explored.best]:,.0f} ms:"
            f" {compressed(explored.networks[explored.best].notation)}"
        ) from None
    [(least, target, _)] = cheapest(0.5)
    likely = [network for *_, network in cheapest(LIKELY)]
    others = (budget for budget in fitter.budgets if budget.metric != metric)
    budgets = [*others, Budget(metric, least * (1 + ROUNDING))]
    fitter = Fitter(space, costs, budgets, fitter.rules)
    return dataclasses.replace(problem, fitter=fitter, aim=model, target=target, likely=likely)


def beside_model(problem: Problem, chosen: Architecture) -> AsGood:
    """The recommended network beside the model; nothing where no model was named."""
    if problem.aim is None or problem.scorer is None:
        return {}
    networks = [problem.aim, chosen, *problem.likely]
    model, beside, *likely = against(problem.costs, problem.scorer, networks)
    return {
        "name": str(problem.config.as_good_as),
        "model": model,
        "chosen": beside,
        "likely": likely[0] if likely else None,
    }
