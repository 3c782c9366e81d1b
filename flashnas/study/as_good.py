"""The cheapest network whose loss is expected to be no higher than that of a model."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.architecture.networks import taken
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import BudgetError
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import SIZES, Budget
from flashnas.run_folder.recorded_answer import AsGood
from flashnas.study.comparison import TOGETHER
from flashnas.study.loop import search
from flashnas.study.problem import Problem
from flashnas.study.scorer import ALIKE
from flashnas.study.side_by_side import against

COSTS = ("latency_ms", *SIZES)  # of which one can be minimised
LIKELY = 0.9  # probability of the second network that is named
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
    timed = isinstance(costs, TableCosts) and costs.model.workload.batch != "max"
    if not timed or metric not in COSTS:
        rule = f"needs a latency table, a number of sequences, and one of {', '.join(COSTS)}"
        config.wrong("as_good_as", f"{rule} as second objective; got {metric}")
    assert scorer is not None
    model = load_architecture(str(config.as_good_as))
    model = dataclasses.replace(model, vocab=problem.space.any_network().vocab)

    value = scorer.values([model])[0]
    trials = search(dataclasses.replace(problem, trainings=None))
    cost = trials.columns[metric]

    def by_cost() -> Iterator[tuple[int, float]]:
        """Of the trials that rank no lower than the model, also with what it is charged, from the one
        that costs least, with the probability that the loss is no higher."""
        candidates = trials.ranked[trials.value[trials.ranked] <= value]
        candidates = candidates[np.argsort(cost[candidates], kind="stable")]
        for start in range(0, len(candidates), TOGETHER):
            part = candidates[start : start + TOGETHER]
            joint = scorer.posterior([model, *taken(trials.networks, part)])
            mean = np.round(joint.mean - joint.mean[0], ALIKE)
            sd = np.maximum(joint.sd_to(0), ROUNDING)
            yield from zip(part.tolist(), ndtr(-mean / sd)[1:].tolist(), strict=True)

    found, surer = (
        next((index for index, probability in by_cost() if probability >= least), None)
        for least in (0.5, LIKELY)
    )
    if found is None:
        best = trials.best
        raise BudgetError(
            f"no network of space {problem.space.name!r} within the limits is expected to be as"
            f" good as {config.as_good_as}; the nearest one ranks"
            f" {trials.value[best] - value:.3f} nats behind it, with"
            f" {trials.latency_ms[best]:,.0f} ms: {compressed(trials.networks[best].notation)}"
        )
    others = (budget for budget in fitter.budgets if budget.metric != metric)
    budgets = [*others, Budget(metric, float(cost[found]) * (1 + ROUNDING))]
    return dataclasses.replace(
        problem,
        fitter=Fitter(problem.space, costs, budgets, fitter.rules),
        aim=model,
        target=(trials.genotypes[found], trials.networks[found]),
        likely=[] if surer is None else [trials.networks[surer]],
    )


def beside_model(problem: Problem, chosen: Architecture) -> AsGood:
    """The recommended network beside the model."""
    assert problem.aim is not None
    assert problem.scorer is not None
    networks = [problem.aim, chosen, *problem.likely]
    model, beside, *likely = against(problem.costs, problem.scorer, problem.training, networks)
    return {
        "name": str(problem.config.as_good_as),
        "model": model,
        "chosen": beside,
        "likely": likely[0] if likely else None,
    }
