"""The trainings of a search: their recipe, and whether it suits the space, this machine and the
earlier runs that the search starts from."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from flashnas.base.errors import (
    ArchitectureError,
    ConfigError,
    DeviceError,
    OperatorError,
    RunError,
)
from flashnas.data.dataset import Dataset
from flashnas.executors.job import UserEvaluator, evaluator_name
from flashnas.loss.composition import KINDS
from flashnas.run_folder.earlier_runs import EarlierRuns, difference, training, training_of
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.training.recipe import Recipe

DEFAULT_RECIPE = "cpu"
MIN_PROXY_WIDTH = 16  # a narrower network would say nothing
MAX_OFFERED = 1024  # of the width factors that a message offers


def load_trainings(
    config: SearchConfig,
    space: SearchSpace[Any],
    recipe: Recipe | None,
    earlier: EarlierRuns | None,
    notes: list[str],
    *,
    own_scorer: bool,
    plan: bool,
) -> tuple[SearchConfig, Recipe | None]:
    """The recipe of the short trainings; None and no trials where no training can change the answer.
    notes: takes lines on them."""
    recipe = recipe_of(config, space, recipe, earlier)
    if not own_scorer and (reason := untrained(config, space, recipe)):
        notes.append(reason)
        return dataclasses.replace(config, trials=0), None
    notes += check_trainable(config, space, recipe, plan=plan)
    return config, recipe


def untrained(config: SearchConfig, space: SearchSpace[Any], recipe: Recipe) -> str:
    """Why a search trains nothing although it may, in a sentence; empty where it trains."""
    if config.rank_by == "short" or config.train_anyway or not isinstance(space, OperatorSpace):
        return ""
    kinds = [spec.kind for spec in space.kinds() if spec.mixes_tokens]
    unknown = [kind for kind in kinds if kind not in KINDS]
    anyway = "; --train-anyway trains all the same, for the record"
    if not unknown:
        return (
            f"nothing is trained: publications have trained {', '.join(dict.fromkeys(kinds))} in"
            f" full, and a short training cannot change what is expected of them{anyway}"
        )
    return ""


def recipe_of(
    config: SearchConfig, space: SearchSpace[Any], given: Recipe | None, known: EarlierRuns | None
) -> Recipe:
    """The recipe given or named, else that of the earlier runs, else the default at the space's own
    width factor."""
    recipe = given
    if recipe is None and config.recipe is None and known is not None and known.recipe is not None:
        recipe = known.recipe
    elif recipe is None:
        recipe = Recipe.load(config.recipe or DEFAULT_RECIPE)
        factor = space.width_factor if isinstance(space, OperatorSpace) else None
        if config.recipe is None and factor is not None:
            recipe = dataclasses.replace(recipe, width_factor=factor)
    return dataclasses.replace(
        recipe,
        tokens=config.tokens or recipe.tokens,
        short_text=config.short_text or recipe.short_text,
    )


def check_trainable(
    config: SearchConfig, space: SearchSpace[Any], recipe: Recipe, *, plan: bool = False
) -> list[str]:
    """Raise ConfigError where an operator has no layer, this machine cannot train by the recipe, or
    its width factor does not suit; return a line for each operator that it trains slowly. plan: the
    device may be elsewhere."""
    # loads torch, which a user's evaluator may not need
    from flashnas.training.trainer import check_device, check_kernels

    try:
        for spec in space.kinds() if isinstance(space, OperatorSpace) else ():
            spec.check_layer()
    except OperatorError as error:
        raise ConfigError(f"space {space.name!r}: {error}; search it with --trials 0") from None
    here = True
    try:
        check_device(recipe)
    except DeviceError:
        if not plan:
            raise
        here = False
    check_scalable(space, recipe, own=config.recipe is None)
    if here and recipe.device == "cuda" and isinstance(space, OperatorSpace):
        smallest = min(space.hidden_sizes)
        trained = recipe.proxy_of(space.build(space.kinds(), smallest))
        return check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    return []


def check_scalable(space: SearchSpace[Any], recipe: Recipe, *, own: bool) -> None:
    """Raise ConfigError if the recipe's width factor does not suit an operator of the space. own:
    the user named no recipe, so that the factor is that of the space or the default."""
    if not isinstance(space, OperatorSpace):
        return
    if (unsuited := _unsuited(space, recipe.width_factor, recipe.least_head_dim)) is None:
        return
    spec, hidden, reason = unsuited
    common = math.gcd(*space.hidden_sizes)
    working = [
        factor
        for factor in range(1, min(common, MAX_OFFERED) + 1)
        if common % factor == 0 and _unsuited(space, factor, recipe.least_head_dim) is None
    ]
    factor = space.width_factor
    own_factor = f"; leave out --recipe to train at the space's own factor {factor}"
    offer = (
        own_factor
        if factor in working and not own
        else (
            f"; give a recipe, or the space, the width_factor {' or '.join(map(str, working))}"
            if working
            else ""
        )
    )
    raise ConfigError(
        f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the width"
        f" factor {recipe.width_factor} of recipe {recipe.name!r}: {reason}{offer}"
    )


def _unsuited(
    space: OperatorSpace[Any], factor: int, min_head_dim: int
) -> tuple[Any, int, str] | None:
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


def check_comparable(
    earlier: EarlierRuns,
    config: SearchConfig,
    recipe: Recipe | None,
    dataset: Dataset | None,
    evaluator: UserEvaluator | None,
) -> None:
    """Raise RunError if the earlier runs trained otherwise than this search does."""
    own = training(
        recipe,
        None if dataset is None else dataset.digest,
        config.seed,
        None if evaluator is None else evaluator_name(evaluator),
    )
    if reason := difference(training_of(earlier.runs[0]), own, "in the run", "in this search"):
        raise RunError(f"{earlier.runs[0].path}: a search cannot start from its networks: {reason}")
