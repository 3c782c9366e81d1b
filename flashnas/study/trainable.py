"""Whether the networks of a space can be trained here, checked before anything is, and which executor
trains them."""

import dataclasses
from typing import Any

import numpy as np

from flashnas.base.errors import ArchitectureError, ConfigError, OperatorError
from flashnas.base.registry import code_name
from flashnas.base.text import warn_in_a_line
from flashnas.data.dataset import prepare_dataset
from flashnas.executors import EXECUTORS, Executor, Work
from flashnas.executors.job import Job, UserEvaluator, run_job
from flashnas.executors.local import InProcess
from flashnas.loss.own import MAX_OWN_ROWS
from flashnas.space import OperatorSpace, SearchSpace
from flashnas.study.config import SearchConfig
from flashnas.study.problem import Note, Problem
from flashnas.study.scorer import EvidenceScorer
from flashnas.study.trainings import Trainings, flops_of, time_limit
from flashnas.training.recipe import Recipe
from flashnas.trials.pareto import QUALITY

DEFAULT_RECIPE = "cpu"
MIN_PROXY_WIDTH = 16  # a narrower network would say nothing
LOOKED_AT = 32  # genotypes, for the range of the trainings' FLOPs


def with_trainings(
    problem: Problem,
    at_most: int,
    evaluator: UserEvaluator | None,
    recipe: Recipe | None,
    *,
    dtype: str | None,
) -> Problem:
    """The problem with its trainings: prepare the text, and check that the recipe suits the space and
    this machine.

    Args:
        problem: its `notes` are added to.
        at_most: trainings.
        evaluator, recipe: the user's own.
        dtype: in which the run that is continued multiplies matrices; None: the default of the
            device.

    Raises:
        ConfigError, DeviceError, OperatorError: what is asked for cannot be trained here.
        RunError: an evaluator's scores do not compare with those of the earlier runs.
    """
    config, space, earlier = problem.config, problem.space, problem.earlier
    known = len(problem.scorer.own) if isinstance(problem.scorer, EvidenceScorer) else 0
    if problem.scorer is not None and at_most + known > MAX_OWN_ROWS:
        config.wrong(
            "trials",
            f"must be at most {MAX_OWN_ROWS - known}, because the model takes {MAX_OWN_ROWS}"
            f" trainings of yours; got {at_most}",
        )
    dataset, flops = None, list[float]()
    if evaluator is not None:
        recipe = None
    else:
        if recipe is None and config.recipe is None and earlier is not None:
            recipe = earlier.recipe
        recipe = recipe_of(config, space, recipe)
        problem.notes.extend(check_trainable(space, recipe))
        dataset = prepare_dataset(config.data, recipe, config.tokenizer)
        problem.notes.extend(dataset.notes)
        rng = np.random.default_rng(config.seed)
        drawn = [problem.fitter.fit_width(space.sample(rng))[0] for _ in range(LOOKED_AT)]
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
        timeout_s=config.candidate_timeout_s or time_limit(recipe, flops),
        typical_flops=flops or [1.0],
    )
    if earlier is not None:
        earlier = earlier.with_facts(trainings.facts, strict=evaluator is not None)
    return dataclasses.replace(problem, trainings=trainings, earlier=earlier)


def recipe_of(config: SearchConfig, space: SearchSpace[Any], given: Recipe | None) -> Recipe:
    """The recipe given or named, else the default at the space's own width factor."""
    recipe = given
    if recipe is None:
        recipe = Recipe.load(config.recipe or DEFAULT_RECIPE)
        factor = space.width_factor if isinstance(space, OperatorSpace) else None
        if config.recipe is None and factor is not None:
            recipe = dataclasses.replace(recipe, width_factor=factor)
    return dataclasses.replace(recipe, tokens=config.tokens or recipe.tokens)


def check_trainable(space: SearchSpace[Any], recipe: Recipe) -> list[str]:
    """Raise ConfigError where an operator has no layer, this machine cannot train by the recipe, or
    its width factor does not suit; return a line for each operator that it trains slowly."""
    # loads torch, which a user's evaluator may not need
    from flashnas.training.trainer import check_device, check_kernels

    try:
        for spec in space.kinds() if isinstance(space, OperatorSpace) else ():
            spec.check_layer()
    except OperatorError as error:
        raise ConfigError(f"space {space.name!r}: {error}; search it without --trials") from None
    check_device(recipe)
    if not isinstance(space, OperatorSpace):
        return []
    check_scalable(space, recipe)
    if recipe.device == "cuda":
        smallest = min(space.hidden_sizes)
        trained = recipe.proxy_of(space.build(space.kinds_at(smallest), smallest))
        return check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    return []


def check_scalable(space: OperatorSpace[Any], recipe: Recipe) -> None:
    """Raise ConfigError if the recipe's width factor does not suit an operator of the space."""
    factor = recipe.width_factor
    for hidden in space.hidden_sizes:
        for spec in space.kinds_at(hidden):
            try:
                if factor > 1 and hidden < MIN_PROXY_WIDTH * factor:
                    raise ArchitectureError(
                        f"a trained network must be at least {MIN_PROXY_WIDTH} wide"
                    )
                space.build((spec,), hidden).scaled(factor, recipe.least_head_dim)
            except (ArchitectureError, OperatorError) as error:
                raise ConfigError(
                    f"space {space.name!r}: operator {spec} at width {hidden} cannot be shrunk by the"
                    f" width factor {factor} of recipe {recipe.name!r}: {error}; leave out"
                    " --recipe, or give it or the space another width_factor"
                ) from None


# -- where they run --------------------------------------------------------------------------------


def executor_of(problem: Problem, note: Note) -> Executor:
    """The executor that the search asks for; this process for an evaluator that no other one can
    load. Raises ConfigError for what the executor cannot do."""
    config, trainings = problem.config, problem.trainings
    assert trainings is not None
    recipe, dataset = trainings.recipe, trainings.dataset
    gpu = recipe is not None and recipe.device == "cuda"
    devices: tuple[str, ...] = ()
    if gpu:
        from flashnas.training.trainer import visible_devices  # loads torch

        devices = visible_devices()
    work = Work(
        function=run_job,
        workers=config.workers,
        timeout_s=trainings.timeout_s,
        gpu=gpu,
        devices=devices,
        dataset=None if dataset is None else str(dataset.folder),
        note=note,
    )
    job, kind = trainings.job(problem.space.any_network()), EXECUTORS[config.executor]
    if kind.runs_here and not job.portable():
        _check_without_workers(config, job)
        return InProcess(work, None)
    executor = kind(work, kind.Options.build(**config.executor_options))
    executor.check(job)
    return executor


def _check_without_workers(config: SearchConfig, job: Job) -> None:
    """Warn that an evaluator runs in this process, since no worker can load it or its networks; raise
    SettingError for what only workers keep."""
    assert job.evaluator is not None
    network = type(job.architecture)
    what = f"the evaluator {code_name(job.evaluator)}"
    if dataclasses.replace(job, architecture=None).portable():
        what = f"the networks {network.__module__}:{network.__qualname__}"
    why, fix = f"worker processes cannot load {what}", "put it into a module of its own"
    given = {
        "workers": (config.workers or 1) > 1,
        "candidate_timeout_s": config.candidate_timeout_s is not None,
        "executor_options": bool(config.executor_options),
    }
    for name, unusable in given.items():
        if unusable:
            config.wrong(name, f"needs worker processes: {why}; {fix}")
    warn_in_a_line(
        f"{why}: the evaluator scores one network after another in this process, without limits of"
        f" time and memory; {fix}"
    )
