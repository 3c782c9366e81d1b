"""The trainings of a search, and whether the networks of its space can be trained here; checked before
anything is."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from flashnas.base.errors import ArchitectureError, ConfigError, DeviceError, OperatorError
from flashnas.data.dataset import prepare_dataset
from flashnas.executors.job import UserEvaluator
from flashnas.loss.own import MAX_OWN_ROWS
from flashnas.run_folder.earlier_runs import EarlierRuns
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Problem
from flashnas.study.scorer import EvidenceScorer
from flashnas.study.trainings import Trainings, flops_of, time_limit
from flashnas.training.recipe import Recipe
from flashnas.trials.objectives import QUALITY

DEFAULT_RECIPE = "cpu"
MIN_PROXY_WIDTH = 16  # a narrower network would say nothing
LOOKED_AT = 32  # genotypes, for the range of the trainings' FLOPs
MAX_OFFERED = 1024  # of the width factors that a message offers


def load_trainings(
    problem: Problem,
    at_most: int,
    evaluator: UserEvaluator | None,
    recipe: Recipe | None,
    *,
    dtype: str | None,
    plan: bool,
) -> Trainings:
    """Prepare the text, and check that the recipe suits the space and this machine.

    Args:
        problem: the Problem, as yet without trainings; its `notes` are added to.
        at_most: trainings.
        evaluator, recipe: the user's own.
        dtype: in which the run that is continued multiplies matrices; None: the one that the device
            multiplies faster.
        plan: the device may be elsewhere.

    Raises:
        ConfigError, DeviceError, OperatorError: what is asked for cannot be trained here.
        RunError: an evaluator's scores do not compare with those of the earlier runs.
    """
    config = problem.config
    if isinstance(problem.scorer, EvidenceScorer):
        known = len(problem.scorer.own)
        if at_most + known > MAX_OWN_ROWS:
            config.wrong(
                "trials",
                f"must be at most {MAX_OWN_ROWS - known}, because the model takes {MAX_OWN_ROWS}"
                f" trainings of yours; got {at_most}",
            )
    fitter, earlier = problem.fitter, problem.earlier
    dataset, flops = None, list[float]()
    if evaluator is not None:
        recipe = None
    else:
        recipe = recipe_of(config, fitter.space, recipe, earlier)
        problem.notes.extend(check_trainable(config, fitter.space, recipe, plan=plan))
        dataset = prepare_dataset(config.data, recipe, config.tokenizer)
        problem.notes.extend(dataset.notes)
        rng = np.random.default_rng(config.seed)
        drawn = [fitter.fit_width(fitter.space.sample(rng))[0] for _ in range(LOOKED_AT)]
        flops = flops_of(recipe, [*(network for _, network in problem.baselines), *drawn])
        recipe = recipe.with_dtype(dtype)
        problem.notes.append(f"trainings multiply matrices in {recipe.dtype}")
    trainings = Trainings(
        at_most=at_most,
        seed=config.seed,
        evaluator=evaluator,
        needed=tuple(
            name
            for name in problem.objectives
            if name != "loss" and (name in QUALITY or not problem.costs.known)
        ),
        recipe=recipe,
        dataset=dataset,
        earlier=earlier,
        timeout_s=config.candidate_timeout_s or time_limit(recipe, flops),
        typical_flops=flops or [1.0],
    )
    if earlier is None:
        return trainings
    own = earlier.with_facts(trainings.facts, strict=evaluator is not None)
    return dataclasses.replace(trainings, earlier=own)


def recipe_of(
    config: SearchConfig, space: SearchSpace[Any], given: Recipe | None, earlier: EarlierRuns | None
) -> Recipe:
    """The recipe given or named, else that of the earlier runs, else the default at the space's own
    width factor."""
    recipe = given
    if recipe is None and config.recipe is None and earlier is not None:
        recipe = earlier.recipe
    if recipe is None:
        recipe = Recipe.load(config.recipe or DEFAULT_RECIPE)
        factor = space.width_factor if isinstance(space, OperatorSpace) else None
        if config.recipe is None and factor is not None:
            recipe = dataclasses.replace(recipe, width_factor=factor)
    return dataclasses.replace(recipe, tokens=config.tokens or recipe.tokens)


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
        raise ConfigError(f"space {space.name!r}: {error}; search it without --trials") from None
    here = True
    try:
        check_device(recipe)
    except DeviceError:
        if not plan:
            raise
        here = False
    if not isinstance(space, OperatorSpace):
        return []
    check_scalable(space, recipe, own=config.recipe is None)
    if here and recipe.device == "cuda":
        smallest = min(space.hidden_sizes)
        trained = recipe.proxy_of(space.build(space.kinds_at(smallest), smallest))
        return check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    return []


def check_scalable(space: OperatorSpace[Any], recipe: Recipe, *, own: bool) -> None:
    """Raise ConfigError if the recipe's width factor does not suit an operator of the space. own:
    the user named no recipe, so that the factor is that of the space or the default."""
    if (unsuited := _unsuited(space, recipe.width_factor, recipe.least_head_dim)) is None:
        return
    spec, hidden, reason = unsuited
    common = math.gcd(*space.hidden_sizes)
    working = [
        factor
        for factor in range(1, min(common, MAX_OFFERED) + 1)
        if common % factor == 0 and _unsuited(space, factor, recipe.least_head_dim) is None
    ]
    factor, offer = space.width_factor, ""
    if factor in working and not own:
        offer = f"; leave out --recipe to train at the space's own factor {factor}"
    elif working:
        offer = f"; give a recipe, or the space, the width_factor {' or '.join(map(str, working))}"
    raise ConfigError(
        f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the width"
        f" factor {recipe.width_factor} of recipe {recipe.name!r}: {reason}{offer}"
    )


def _unsuited(
    space: OperatorSpace[Any], factor: int, min_head_dim: int
) -> tuple[Any, int, str] | None:
    """The first operator and width that the factor does not suit, with the reason."""
    for hidden in space.hidden_sizes:
        for spec in space.kinds_at(hidden):
            if factor > 1 and hidden < MIN_PROXY_WIDTH * factor:
                return spec, hidden, f"a trained network must be at least {MIN_PROXY_WIDTH} wide"
            try:
                space.build((spec,), hidden).scaled(factor, min_head_dim)
            except (ArchitectureError, OperatorError) as error:
                return spec, hidden, str(error)
    return None
