"""What is checked of a search before anything is trained: parts that do not fit together are errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import (
    ArchitectureError,
    BudgetError,
    ConfigError,
    MissingRowsError,
    OperatorError,
    SpaceError,
)
from flashnas.base.hints import warn
from flashnas.base.registry import foreign_errors
from flashnas.base.settings import SettingError
from flashnas.executors.base import Executor
from flashnas.executors.job import Job, UserEvaluator, evaluator_name
from flashnas.latency.costs import Costs
from flashnas.latency.prediction import LatencyModel
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.training.recipe import Recipe

LEAST_PROXY_WIDTH = 16    # a narrower network would say nothing
LARGEST_FACTOR = 1024     # of the width factors that a message offers


def check_without_table(config: SearchConfig, costs: Costs, evaluator: UserEvaluator | None) -> None:
    """Raise ConfigError for what only a latency table can answer."""
    if config.confidence is not None:
        raise ConfigError("search.confidence needs a latency table; got table=None or a function")
    if config.weights is not None:
        raise ConfigError(f"search.weights needs a latency table; got weights {config.weights} and table=None or a"
                          " function")
    if config.strict:
        raise ConfigError("search.strict needs a latency table, whose device times the finalists")
    if costs.known:
        return
    if evaluator is None:
        raise ConfigError("search.table must name a latency table, or be a function network -> latency_ms, where"
                          " flashnas trains the networks; got None")
    if config.budgets:
        raise ConfigError(f"a budget on {next(iter(config.budgets))} needs metrics before the evaluation: give"
                          " table=FUNCTION, network -> latency_ms or a mapping of metrics; got table=None")


def check_space(space: SearchSpace[Any]) -> None:
    """Call a space of another package once, so that a method that cannot be called is an error before the search.

    Raises:
        PluginError: a method raises.
        ConfigError: a genotype is not hashable, or has no network.
    """
    if type(space).__module__.startswith("flashnas."):
        return
    rng = np.random.default_rng(0)
    with foreign_errors(("space", space)):
        genotype = space.sample(rng)
        with contextlib.suppress(SpaceError):  # a space of one genotype
            space.mutate(genotype, rng)
        space.decode(space.encode(genotype))
        space.distributions()
        sizes = space.architectures(genotype)
    if not isinstance(genotype, Hashable):
        raise ConfigError(f"space {space.name!r}: its genotypes must be hashable; got {type(genotype).__name__}")
    if not len(sizes):
        raise ConfigError(f"space {space.name!r}: architectures must return at least one network; got none for"
                          f" {genotype}")


def check_networks(space: SearchSpace[Any], *, trained: bool, timed: bool) -> None:
    """Raise ConfigError if the space builds networks that flashnas would have to train or to time, and cannot."""
    if isinstance(space, OperatorSpace):
        return
    network = any_network(space)
    for name in ("notation", "hash", "to_dict"):
        if not hasattr(network, name):
            raise ConfigError(f"space {space.name!r}: its networks need {name!r}; got {type(network).__name__}")
    if isinstance(network, Architecture):
        return
    if trained:
        raise ConfigError(f"space {space.name!r} builds {type(network).__name__} objects, which flashnas cannot train;"
                          " give an evaluator")
    if timed:
        raise ConfigError(f"space {space.name!r} builds {type(network).__name__} objects, which a latency table cannot"
                          " answer; give table=None or a function network -> latency_ms")


def check_answerable(space: SearchSpace[Any], model: LatencyModel, config: SearchConfig) -> None:
    """Raise MissingRowsError before anything is trained when the table lacks what the space needs.

    Each operator is looked up at each width in a pure model, and not alone: the largest batch of a single operator
    would be one that no network of the space has."""
    if not isinstance(space, OperatorSpace):
        return
    models = [operators for _, operators in space.pure_models()]
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            operators = next((operators for operators in models if spec in operators), (spec,))
            try:
                model.estimate(space.build(operators, hidden))
            except BudgetError:
                continue  # not even one sequence fits the memory; the budgets say what does
            except MissingRowsError as error:
                raise MissingRowsError(f"table {config.table!r} does not cover space {space.name!r}: {error}"
                                       ) from None


def check_without_workers(config: SearchConfig, job: Job) -> None:
    """Warn that an evaluator runs in this process, because worker processes cannot load it or its networks.

    Raises:
        SettingError: for a limit that the user gives and that only worker processes keep.
    """
    assert job.evaluator is not None
    network = type(job.architecture)
    what = f"the evaluator {evaluator_name(job.evaluator)}"
    if dataclasses.replace(job, architecture=None).portable():
        what = f"the networks {network.__module__}:{network.__qualname__}"
    why, fix = f"worker processes cannot load {what}", "put it into a module of its own"
    if (config.workers or 1) > 1:
        config.wrong("workers", f"must be 1: {why}; {fix}; got {config.workers}")
    if config.candidate_timeout_s is not None:
        config.wrong("candidate_timeout_s", f"needs worker processes: {why}; {fix}; got {config.candidate_timeout_s:g}")
    for name, value in config.executor_options.items():  # worker_memory_gb
        raise SettingError(config.where, config.setting("executor_options"),
                           f"needs worker processes: {why}; {fix}; got {value}", name)
    warn(f"{why}: the evaluator scores one network after another in this process, without limits of time and memory;"
         f" {fix}")


def any_network(space: SearchSpace[Any]) -> Any:
    """Some network of the space, always the same, to look at its class."""
    return space.architectures(space.sample(np.random.default_rng(0)))[-1]


def check_scalable(space: SearchSpace[Any], recipe: Recipe, *, own: bool) -> None:
    """Raise ConfigError before anything is trained if the recipe's width factor does not suit an operator of the space.

    Args:
        space: a search space; one that does not name its operators passes.
        recipe: of the trainings.
        own: True if the user named no recipe, so that the width factor is that of the space or the default.
    """
    if not isinstance(space, OperatorSpace):
        return
    if (found := _unscalable(space, recipe.width_factor, recipe.least_head_dim)) is None:
        return
    spec, hidden, reason = found
    common = math.gcd(*space.hidden_sizes)
    working = [factor for factor in range(1, min(common, LARGEST_FACTOR) + 1)
               if common % factor == 0 and _unscalable(space, factor, recipe.least_head_dim) is None]
    factor = space.width_factor
    offer = f"; leave out --recipe to train at the space's own factor {factor}" if factor in working and not own else (
        f"; give a recipe, or the space, the width_factor {' or '.join(map(str, working))}" if working else "")
    raise ConfigError(f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the width factor"
                      f" {recipe.width_factor} of recipe {recipe.name!r}: {reason}{offer}")


def _unscalable(space: OperatorSpace[Any], factor: int, least_dim: int) -> tuple[Any, int, str] | None:
    """The first operator and width that the factor does not suit, with the reason."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            if factor > 1 and hidden < LEAST_PROXY_WIDTH * factor:
                return spec, hidden, f"a trained network must be at least {LEAST_PROXY_WIDTH} wide"
            try:
                space.build((spec,), hidden).scaled(factor, least_dim)
            except (ArchitectureError, OperatorError) as error:
                return spec, hidden, str(error)
    return None


def side_by_side(config: SearchConfig, executor: Executor, note: Callable[[str], None]) -> int:
    """How many workers evaluate at one time. A cycle keeps no more of them busy than it has candidates, which is noted
    where their number is known."""
    workers = executor.workers
    if config.asynchronous or workers <= config.cycle_size:
        return workers
    if executor.shown_workers == workers:
        note(f"cycles of {config.cycle_size} candidates keep at most {config.cycle_size} of {workers} workers busy;"
             f" --cycle-size {workers} or --asynchronous keeps all")
    return config.cycle_size
