"""How long one training of a search may take, and whether its recipe can end in that time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.latency.fitting import Fitter
from flashnas.proxy.tasks import task_tokens
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.training.cost import (
    ASSUMED_RATES,
    FASTEST_RATES,
    expected_seconds,
    least_seconds,
    training_flops,
    training_seconds,
)
from flashnas.training.recipe import Recipe

SLACK = 4             # the limit over the time that is expected
LOOKED_AT = 32        # genotypes, for the range of the trainings' FLOPs
LONG_S = 3600.0       # of one training, beyond which a search says what it costs
DEVICES = {"cpu": "a CPU thread", "cuda": "a GPU"}


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Of one training.

    Attributes:
        seconds: the limit.
        flops: of the longest training among those looked at; 0 where no recipe trains.
        expected_s: its time at the assumed rate (flashnas.training.cost).
        candidate_s, mean_flops: the mean time and FLOPs that are expected of what the search draws.
    """

    seconds: float
    flops: float = 0.0
    expected_s: float = 0.0
    candidate_s: float = 0.0
    mean_flops: float = 0.0


def find_time_limit(config: SearchConfig, recipe: Recipe | None, fitter: Fitter[Any],
                    baselines: Sequence[Any],
                    note: Callable[[str], None]) -> TimeLimit:
    """The limit that the user gives, or that of the recipe: TIMEOUT_S, and for longer trainings SLACK times
    the time that is expected of the longest one, in whole minutes.

    Args:
        config, fitter: of the search.
        recipe: of the trainings; None where the user's evaluator scores the networks.
        baselines: the networks that are trained first.
        note: receives a line where a training is expected to take longer than the limit, or hours.

    Raises:
        SettingError: no training could end within the limit on any device of today.
    """
    given = config.candidate_timeout_s
    drawn = [] if recipe is None else _trained(recipe, fitter, baselines, config.seed)
    if recipe is None or not drawn:
        return TimeLimit(seconds=given or TIMEOUT_S)
    flops = [training_flops(network, recipe) for network in drawn]
    expected_s = expected_seconds(max(flops), recipe)
    by_recipe_s = max(TIMEOUT_S, 60.0 * math.ceil(SLACK * expected_s / 60))
    limit = TimeLimit(seconds=given or by_recipe_s, flops=max(flops), expected_s=expected_s,
                      mean_flops=float(np.mean(flops[len(baselines):] or flops)),
                      candidate_s=float(np.mean([training_seconds(network, recipe) for network in
                                                 drawn[len(baselines):] or drawn])))
    where = DEVICES[recipe.device]
    if given is not None and least_seconds(min(flops), recipe) > given:
        config.wrong("candidate_timeout_s",
                     f"must be above {math.ceil(least_seconds(min(flops), recipe)):,}: recipe {recipe.name!r}"
                     f" takes {min(flops):.1e} FLOP for the smallest network, and {where} computes at most"
                     f" {FASTEST_RATES[recipe.device]:.1e} FLOP/s; got {given:g}")
    cost = (f"recipe {recipe.name!r} takes up to {max(flops):.1e} FLOP a training, {expected_s / 3600:,.1f} h"
            f" on {where} at an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s")
    if expected_s > limit.seconds:
        note(f"{cost}; --candidate-timeout-s {limit.seconds:g} may end it before")
    elif expected_s > LONG_S:
        note(f"{cost}; the time limit is {limit.seconds / 3600:,.1f} h")
    return limit


def expected_s(recipe: Recipe, tasks: Sequence[str], network: Any) -> float:
    """Seconds of a training and of its synthetic tasks: of a network, or of one whose training takes so many
    seconds; 1 where nothing says it."""
    with_tasks = 1 + task_tokens(tasks, recipe) / (recipe.steps * recipe.batch_tokens)
    if isinstance(network, float):
        return with_tasks * network
    try:
        return with_tasks * training_seconds(recipe.proxy_of(network), recipe)
    except (ArchitectureError, OperatorError):  # a failed trial with its reason
        return 1.0


def _trained(recipe: Recipe, fitter: Fitter[Any], baselines: Sequence[Any],
             seed: int) -> list[Architecture]:
    """What is trained of the baselines and of some networks that the search could draw, which come last;
    empty for networks of the user's own class."""
    rng, space = np.random.default_rng(seed), fitter.space
    drawn = [fitter.latency_of(space.sample(rng))[0] for _ in range(LOOKED_AT)]
    trained = []
    for network in (*baselines, *drawn):
        if isinstance(network, Architecture):
            try:
                trained.append(recipe.proxy_of(network))
            except (ArchitectureError, OperatorError):  # a failed trial with its reason
                continue
    return trained
