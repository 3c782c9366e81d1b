"""Searches beside a search: what the recommended network is compared with, the best one of each family
that programs load and the best free mix."""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError
from flashnas.families.family import families
from flashnas.latency.fitting import Fitter
from flashnas.latency.metrics import SERVING
from flashnas.space import OperatorSpace, load_space
from flashnas.space.served import ServedSpace
from flashnas.study.config import DEFAULT_SPACE
from flashnas.study.limits import limited, rules_of
from flashnas.study.load import answerable, floor_of
from flashnas.study.loop import search
from flashnas.study.problem import Problem
from flashnas.study.trials import Trials

FREE_MIX = "free mix"  # title of the best network of the free space, which is of no family
FREE = "free"  # the space of mixes that no program loads, and ..
FREE_PROPOSALS = 2_000  # .. of its genotypes that are looked at beside served ones
STATELESS = ("qwen3", "ministral")  # spaces of transformers without and with windows


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
    space = load_space(name)
    assert isinstance(space, OperatorSpace)
    space = space.with_vocab(own.model.vocab)
    largest = max(network.params for network in own.probes())
    if min(network.params for network in space.probes()) > largest:
        return None
    try:
        if isinstance(space, ServedSpace):
            space = limited(config, space)
            if problem.model is not None:
                space = answerable(space, problem.model, lambda _: None)
        return scored(
            problem,
            trials,
            space=space,
            fitter=Fitter(space, problem.costs, problem.fitter.budgets, rules_of(config, space)),
            sampler=None,
            proposals=FREE_PROPOSALS,
            earlier=None,
            target=None,
            min_recall=floor_of(config, space, trained=False),
        )
    except (BudgetError, ConfigError, MissingRowsError):
        return None


def scored(problem: Problem, trials: Trials, **changes: Any) -> Trials:
    """Another search by what ranks these trials, which trains nothing."""
    changes |= {"scorer": trials.scorer, "trainings": None}
    return search(dataclasses.replace(problem, **changes))
