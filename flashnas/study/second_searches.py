"""Searches beside a search: for the cheapest network that is as good as a model, within whose cost is
then searched; and for what the recommended network is compared with, the best one of each family that
programs load and the best free mix."""

import dataclasses
from collections.abc import Iterator
from operator import attrgetter

import numpy as np
from scipy.special import ndtr

from flashnas.architecture import Architecture
from flashnas.architecture.architecture import compressed
from flashnas.architecture.networks import taken
from flashnas.architecture.source import load_architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError
from flashnas.families.family import families
from flashnas.latency.fitting import Fitter, TableCosts
from flashnas.latency.metrics import SERVING, SIZES, Budget
from flashnas.space import OperatorSpace, load_operator_space
from flashnas.space.served import ServedSpace
from flashnas.study.comparison import TOGETHER
from flashnas.study.config import DEFAULT_SPACE
from flashnas.study.limits import fitter_of, floor_of
from flashnas.study.loop import search
from flashnas.study.next_trainings import published_alone
from flashnas.study.problem import Problem
from flashnas.study.scorer import ALIKE, Scorer
from flashnas.study.trials import Trials

COSTS = ("latency_ms", *SIZES)  # of which one can be minimised
LIKELY = 0.9  # probability of the second network that is named
ROUNDING = 1e-9  # share by which a cost may exceed itself as a limit; least standard deviation

FREE_MIX = "free mix"  # title of the best network of the free space, which is of no family
FREE = "free"  # the space of mixes that no program loads, and ..
FREE_PROPOSALS = 2_000  # .. of its genotypes that are looked at beside served ones
STATELESS = ("qwen3", "ministral")  # spaces of transformers without and with windows


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

    trials = search(dataclasses.replace(problem, trainings=None))
    cost = trials.columns[metric]

    def by_cost(by: Scorer, values: np.ndarray) -> Iterator[tuple[int, float]]:
        """Of the trials that rank no lower than the model, also with what it is charged, from the one
        that costs least, with the probability that the loss is no higher. values: of all trials [N]."""
        candidates = trials.ranked[values[trials.ranked] <= by.values([model])[0]]
        candidates = candidates[np.argsort(cost[candidates], kind="stable")]
        for start in range(0, len(candidates), TOGETHER):
            part = candidates[start : start + TOGETHER]
            joint = by.posterior([model, *taken(trials.networks, part)])
            mean = np.round(joint.mean - joint.mean[0], ALIKE)
            sd = np.maximum(joint.sd_to(0), ROUNDING)
            yield from zip(part.tolist(), ndtr(-mean / sd)[1:].tolist(), strict=True)

    def cheapest(by: Scorer, values: np.ndarray, least: float = 0.5) -> int | None:
        found = (index for index, probability in by_cost(by, values) if probability >= least)
        return next(found, None)

    found, surer = (cheapest(scorer, trials.value, least) for least in (0.5, LIKELY))
    without_own = None
    if bare := published_alone(scorer):
        without_own = cheapest(bare, bare.values(trials.networks))
    if found is None:
        best, value = trials.best, scorer.values([model])[0]
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
        without_own=None if without_own is None else trials.networks[without_own],
    )


def rivals_of(problem: Problem, trials: Trials) -> dict[str, Architecture]:
    """What the recommended network is compared with, by title, the best one first: of each family
    that programs load the best network within the limits, and, where these are what is searched, the
    best free mix; where a metric of serving is asked for, transformers without and with windows."""
    space = problem.space
    if not isinstance(space, OperatorSpace):
        return {}
    found: dict[str, Architecture] = {}
    own = isinstance(space, ServedSpace)
    served = trials if own else elsewhere(problem, trials, DEFAULT_SPACE)
    beside = own and not problem.config.runtime
    if beside and (mixed := elsewhere(problem, trials, FREE)):
        found[FREE_MIX] = mixed.networks[mixed.best]
    if served is not None:
        for name, index in served.of_each(attrgetter("family")).items():
            found[families()[name].title] = served.networks[index]
    asked = {*problem.objectives, *(budget.metric for budget in problem.fitter.budgets)}
    for name in STATELESS if asked & {*SERVING} else ():
        title = families()[name].title
        if title not in found and (other := elsewhere(problem, trials, name)):
            found[title] = other.networks[other.best]
    return found


def elsewhere(problem: Problem, trials: Trials, name: str) -> Trials | None:
    """A shipped space within the limits of a search, by what ranks there; None where it has no such
    network, or where the networks of the search are smaller."""
    own, config = problem.space, problem.config
    assert isinstance(own, OperatorSpace)
    space = load_operator_space(name, "a comparison", vocab=own.model.vocab)
    largest = max(network.params for network in own.probes())
    if min(network.params for network in space.probes()) > largest:
        return None
    try:
        fitter = fitter_of(config, space, problem.costs, problem.fitter.budgets, lambda _: None)
        return search(
            dataclasses.replace(
                problem,
                space=fitter.space,
                fitter=fitter,
                scorer=trials.scorer,
                trainings=None,
                sampler=None,
                proposals=FREE_PROPOSALS,
                earlier=None,
                target=None,
                min_recall=floor_of(config, space),
            )
        )
    except (BudgetError, ConfigError, MissingRowsError):
        return None
