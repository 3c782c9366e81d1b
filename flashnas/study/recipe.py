"""The recipe of the trainings of a search, and whether it suits the space and this machine."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flashnas.base.errors import ArchitectureError, ConfigError, DeviceError, OperatorError
from flashnas.reuse.known import KnownRuns
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.training.cost import ASSUMED_RATES
from flashnas.training.recipe import Recipe

DEFAULT_RECIPE = "cpu"
MIN_PROXY_WIDTH = 16      # a narrower network would say nothing
MAX_OFFERED = 1024        # of the width factors that a message offers


def recipe_of(config: SearchConfig, space: SearchSpace[Any], given: Recipe | None,
              known: KnownRuns | None) -> Recipe:
    """The recipe of the trainings: the one given or named, else that of the earlier runs, else the default at
    the space's own width factor."""
    recipe, of_runs = given, None if known is None else known.runs[0].entry("question", "recipe")
    if recipe is None and config.recipe is None and of_runs is not None:
        recipe = Recipe.from_dict(of_runs)
    elif recipe is None:
        recipe = Recipe.load(config.recipe or DEFAULT_RECIPE)
        factor = space.width_factor if isinstance(space, OperatorSpace) else None
        if config.recipe is None and factor is not None:
            recipe = dataclasses.replace(recipe, width_factor=factor)
    return recipe if config.tokens is None else dataclasses.replace(recipe, tokens=config.tokens)


def check_trainable(config: SearchConfig, space: SearchSpace[Any], recipe: Recipe, *,
                    plan: bool = False) -> None:
    """Raise ConfigError where this machine cannot train by the recipe, or where its width factor does not
    suit. plan: of a search that is only planned, whose device may be elsewhere."""
    # loads torch, which a user's evaluator may not need
    from flashnas.training.trainer import check_device, check_kernels

    try:
        check_device(recipe)
    except DeviceError:
        if not plan:
            raise
        check_scalable(space, recipe, own=config.recipe is None)
        return
    if config.processes_per_candidate > 1:
        from flashnas.training.distributed import Ranks

        Ranks(size=config.processes_per_candidate).check(recipe)
    check_scalable(space, recipe, own=config.recipe is None)
    if recipe.device == "cuda" and isinstance(space, OperatorSpace):
        smallest = min(space.hidden_sizes)
        trained = recipe.proxy_of(space.build(space.kinds(), smallest))
        check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)


def rate_elsewhere(recipe: Recipe) -> str:
    """The rate that is assumed of the recipe's device, in words, where it is not here; else empty."""
    from flashnas.training.trainer import visible_devices  # loads torch

    return "" if recipe.device == "cpu" or visible_devices() else (
        f"an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s of a GPU, which is not here")


def check_scalable(space: SearchSpace[Any], recipe: Recipe, *, own: bool) -> None:
    """Raise ConfigError before anything is trained if the recipe's width factor does not suit an operator of
    the space.

    Args:
        space: a search space; one that does not name its operators passes.
        recipe: of the trainings.
        own: True if the user named no recipe, so that the width factor is that of the space or the default.
    """
    if not isinstance(space, OperatorSpace):
        return
    if (unsuited := _unsuited(space, recipe.width_factor, recipe.least_head_dim)) is None:
        return
    spec, hidden, reason = unsuited
    common = math.gcd(*space.hidden_sizes)
    working = [factor for factor in range(1, min(common, MAX_OFFERED) + 1)
               if common % factor == 0 and _unsuited(space, factor, recipe.least_head_dim) is None]
    factor = space.width_factor
    own_factor = f"; leave out --recipe to train at the space's own factor {factor}"
    offer = own_factor if factor in working and not own else (
        f"; give a recipe, or the space, the width_factor {' or '.join(map(str, working))}" if working else
        "")
    raise ConfigError(f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the width"
                      f" factor {recipe.width_factor} of recipe {recipe.name!r}: {reason}{offer}")


def _unsuited(space: OperatorSpace[Any], factor: int, min_head_dim: int) -> tuple[Any, int, str] | None:
    """The first operator and width that the factor does not suit, with the reason."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds():
            if factor > 1 and hidden < MIN_PROXY_WIDTH * factor:
                return spec, hidden, f"a trained network must be at least {MIN_PROXY_WIDTH} wide"
            try:
                space.build((spec,), hidden).scaled(factor, min_head_dim)
            except (ArchitectureError, OperatorError) as error:
                return spec, hidden, str(error)
    return None
