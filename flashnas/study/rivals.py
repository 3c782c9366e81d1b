"""What a recommended network is compared with: the best network of each family that programs load,
and the best free mix."""

from __future__ import annotations

from operator import attrgetter

from flashnas.architecture import Architecture
from flashnas.base.errors import BudgetError, ConfigError, MissingRowsError
from flashnas.families.family import families
from flashnas.latency.fitting import Fitter
from flashnas.space import OperatorSpace, load_space
from flashnas.space.served import ServedSpace
from flashnas.study.answer import FREE_MIX
from flashnas.study.config import DEFAULT_SPACE
from flashnas.study.explore import Explored, explore
from flashnas.study.limits import limited, rules_of
from flashnas.study.problem import Problem, answerable
from flashnas.study.scorer import Scorer

FREE = "free"  # the space of mixes that no program loads, and ..
FREE_TRIED = 2_000  # .. of its genotypes that are looked at beside served ones


def rivals_of(
    problem: Problem, scorer: Scorer | None, explored: Explored
) -> dict[str, Architecture]:
    """What the recommended network is compared with, by title, the best one first: of each family
    that programs load the best network within the limits, and, where these are what is searched, the
    best free mix."""
    space = problem.space
    if not problem.config.baselines or not isinstance(space, OperatorSpace) or scorer is None:
        return {}
    found: dict[str, Architecture] = {}
    own = isinstance(space, ServedSpace)
    served = explored if own else elsewhere(problem, scorer, DEFAULT_SPACE)
    beside = own and not problem.config.runtime
    if beside and (mixed := elsewhere(problem, scorer, FREE, FREE_TRIED)):
        found[FREE_MIX] = mixed.networks[mixed.best]
    if served is not None:
        for name, index in served.of_each(attrgetter("family")).items():
            found[families()[name].title] = served.networks[index]
    return found


def elsewhere(
    problem: Problem, scorer: Scorer, name: str, most: int | None = None
) -> Explored | None:
    """A shipped space within the limits of a search; None where it has no such network, or where
    the networks of the search are smaller."""
    config = problem.config
    own = problem.space
    space = load_space(name)
    assert isinstance(space, OperatorSpace)
    assert isinstance(own, OperatorSpace)
    space = space.with_vocab(own.model.vocab)
    largest = max(network.params for network in own.probes())
    if min(network.params for network in space.probes()) > largest:
        return None
    try:
        if isinstance(space, ServedSpace):
            space = limited(config, space)
            if problem.model is not None:
                space = answerable(space, problem.model, lambda _: None)
        fitter = Fitter(space, problem.costs, problem.fitter.budgets, rules_of(config, space))
        return explore(space, fitter, scorer, seed=0, min_recall=problem.min_recall, most=most)
    except (BudgetError, ConfigError, MissingRowsError):
        return None
