"""The time limit of one training of a search, by its FLOPs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.latency.fitting import Fitter
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.training.cost import ASSUMED_RATES, training_flops
from flashnas.training.recipe import Recipe

SLACK = 4  # the limit over the time of the longest training at the assumed rate
LOOKED_AT = 32  # genotypes, for the range of the trainings' FLOPs
LONG_S = 3600.0  # of one training, beyond which a search says what it costs
DEVICES = {"cpu": "a CPU thread", "cuda": "a GPU"}


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Of one training. flops: of the longest one among those looked at; mean_flops: of what the search
    draws, on average. An evaluation by the user counts as 1."""

    seconds: float
    flops: float = 1.0
    mean_flops: float = 1.0


def find_time_limit(
    config: SearchConfig,
    recipe: Recipe | None,
    fitter: Fitter[Any],
    baselines: Sequence[Any],
    note: Callable[[str], None],
) -> TimeLimit:
    """The limit that the user gives, or that of the recipe: TIMEOUT_S, and for longer trainings
    SLACK times what the longest one takes at the assumed rate, in whole minutes. note receives a line
    where a training takes longer than the limit at that rate, or hours."""
    given = config.candidate_timeout_s
    drawn = [] if recipe is None else _trained(recipe, fitter, baselines, config.seed)
    if recipe is None or not drawn:
        return TimeLimit(seconds=given or TIMEOUT_S)
    flops = [training_flops(network, recipe) for network in drawn]
    candidates = slice(len(baselines) if len(baselines) < len(drawn) else 0, None)
    assumed_s = max(flops) / ASSUMED_RATES[recipe.device]
    seconds = given or max(TIMEOUT_S, 60.0 * math.ceil(SLACK * assumed_s / 60))
    cost = (
        f"recipe {recipe.name!r} takes up to {max(flops):.1e} FLOP a training,"
        f" {assumed_s / 3600:,.1f} h"
        f" on {DEVICES[recipe.device]} at an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s"
    )
    if assumed_s > seconds:
        note(f"{cost}; candidate_timeout_s {seconds:g} may end it before")
    elif assumed_s > LONG_S:
        note(f"{cost}; the time limit is {seconds / 3600:,.1f} h")
    return TimeLimit(
        seconds=seconds, flops=max(flops), mean_flops=float(np.mean(flops[candidates]))
    )


def _trained(
    recipe: Recipe, fitter: Fitter[Any], baselines: Sequence[Any], seed: int
) -> list[Architecture]:
    """What is trained of the baselines and of some networks that the search could draw, which come
    last; empty for networks of the user's own class."""
    rng, space = np.random.default_rng(seed), fitter.space
    drawn = [fitter.fit_width(space.sample(rng))[0] for _ in range(LOOKED_AT)]
    trained = []
    for network in (*baselines, *drawn):
        if isinstance(network, Architecture):
            try:
                trained.append(recipe.proxy_of(network))
            except (ArchitectureError, OperatorError):  # a failed trial with its reason
                continue
    return trained
