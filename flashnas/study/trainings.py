"""The trainings of a search: their recipe, whether it suits the space and this machine, how long one
may take, and the scores that a bench and earlier runs have already."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import (
    ArchitectureError,
    BenchError,
    ConfigError,
    DeviceError,
    OperatorError,
    RunError,
)
from flashnas.bench.answers import Answers, find_answers
from flashnas.data.dataset import Dataset
from flashnas.executors.job import UserEvaluator, evaluator_name
from flashnas.latency.fitting import Fitter
from flashnas.reuse.earlier_runs import EarlierRuns, difference, training, training_of
from flashnas.space import OperatorSpace, SearchSpace
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

DEFAULT_RECIPE = "cpu"
MIN_PROXY_WIDTH = 16  # a narrower network would say nothing
MAX_OFFERED = 1024  # of the width factors that a message offers
SLACK = 4  # the limit over the time that is expected
MAX_EXPECTED = 4096  # networks whose expected time is kept
LOOKED_AT = 32  # genotypes, for the range of the trainings' FLOPs
LONG_S = 3600.0  # of one training, beyond which a search says what it costs
DEVICES = {"cpu": "a CPU thread", "cuda": "a GPU"}


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
    """Raise ConfigError where this machine cannot train by the recipe, or its width factor does not
    suit; return a line for each operator that it trains slowly. plan: the device may be
    elsewhere."""
    # loads torch, which a user's evaluator may not need
    from flashnas.training.trainer import check_device, check_kernels

    try:
        check_device(recipe)
    except DeviceError:
        if not plan:
            raise
        check_scalable(space, recipe, own=config.recipe is None)
        return []
    check_scalable(space, recipe, own=config.recipe is None)
    if recipe.device == "cuda" and isinstance(space, OperatorSpace):
        smallest = min(space.hidden_sizes)
        trained = recipe.proxy_of(space.build(space.kinds(), smallest))
        return check_kernels(dict.fromkeys(trained.operators), trained.hidden, recipe)
    return []


def _rate_elsewhere(recipe: Recipe) -> str:
    """The rate that is assumed of a device that is not here, in words."""
    if recipe.device == "cpu":
        return ""
    from flashnas.training.trainer import visible_devices  # loads torch

    return (
        ""
        if visible_devices()
        else (f"an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s of a GPU, which is not here")
    )


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


# -- the time of one training ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Of one training. recipe: None where an evaluator scores. flops: of the longest one among those
    looked at. candidate_s, mean_flops: of what the search draws, on average. elsewhere: the rate
    that is assumed of a device that is not here, in words."""

    seconds: float
    recipe: Recipe | None = None
    flops: float = 0.0
    candidate_s: float = 0.0
    mean_flops: float = 0.0
    elsewhere: str = ""

    @functools.lru_cache(maxsize=MAX_EXPECTED)  # noqa: B019 - as long as the search
    def expected_s(self, network: Any | None) -> float:
        """Expected seconds of a training on one worker; None: of a network that the search draws. 1
        where nothing says it, such as for an evaluator."""
        if self.recipe is None or (network is None and not self.candidate_s):
            return 1.0
        if network is None:
            return self.candidate_s
        try:
            return training_seconds(self.recipe.proxy_of(network), self.recipe)
        except (ArchitectureError, OperatorError):  # a failed trial with its reason
            return 1.0


def find_time_limit(
    config: SearchConfig,
    recipe: Recipe | None,
    fitter: Fitter[Any],
    baselines: Sequence[Any],
    note: Callable[[str], None],
) -> TimeLimit:
    """The limit that the user gives, or that of the recipe: TIMEOUT_S, and for longer trainings
    SLACK times the time that is expected of the longest one, in whole minutes. note receives a line
    where a training is expected to take longer than the limit, or hours. Raises SettingError if no
    training could end within the limit on any device of today."""
    given = config.candidate_timeout_s
    drawn = [] if recipe is None else _trained(recipe, fitter, baselines, config.seed)
    if recipe is None or not drawn:
        return TimeLimit(seconds=given or TIMEOUT_S, recipe=recipe)
    flops = [training_flops(network, recipe) for network in drawn]
    expected_s = expected_seconds(max(flops), recipe)
    by_recipe_s = max(TIMEOUT_S, 60.0 * math.ceil(SLACK * expected_s / 60))
    limit = TimeLimit(
        seconds=given or by_recipe_s,
        recipe=recipe,
        elsewhere=_rate_elsewhere(recipe),
        flops=max(flops),
        mean_flops=float(np.mean(flops[len(baselines) :] or flops)),
        candidate_s=float(
            np.mean(
                [training_seconds(network, recipe) for network in drawn[len(baselines) :] or drawn]
            )
        ),
    )
    where = DEVICES[recipe.device]
    if given is not None and least_seconds(min(flops), recipe) > given:
        config.wrong(
            "candidate_timeout_s",
            f"must be above {math.ceil(least_seconds(min(flops), recipe)):,}: recipe"
            f" {recipe.name!r} takes {min(flops):.1e} FLOP for the smallest network, and {where}"
            f" computes at most {FASTEST_RATES[recipe.device]:.1e} FLOP/s; got {given:g}",
        )
    cost = (
        f"recipe {recipe.name!r} takes up to {max(flops):.1e} FLOP a training,"
        f" {expected_s / 3600:,.1f} h"
        f" on {where} at an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s"
    )
    if expected_s > limit.seconds:
        note(f"{cost}; candidate_timeout_s {limit.seconds:g} may end it before")
    elif expected_s > LONG_S:
        note(f"{cost}; the time limit is {limit.seconds / 3600:,.1f} h")
    return limit


def _trained(
    recipe: Recipe, fitter: Fitter[Any], baselines: Sequence[Any], seed: int
) -> list[Architecture]:
    """What is trained of the baselines and of some networks that the search could draw, which come
    last; empty for networks of the user's own class."""
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


@dataclass(frozen=True, eq=False)
class Scores:
    """What a bench and earlier runs know in one search. earlier: the earlier runs, or None.
    with_metrics: a score of theirs has its metrics, since no cost function gives them. recipe,
    dataset: of the trainings; None where an evaluator scores, of which a bench knows nothing."""

    config: SearchConfig
    earlier: EarlierRuns | None
    with_metrics: bool
    recipe: Recipe | None = None
    dataset: Dataset | None = None

    @property
    def bench(self) -> Answers | None:
        """What a bench answers, or None."""
        return self._answers if isinstance(self._answers, Answers) else None

    def no_bench(self) -> str:
        """Why no bench answers, in words; empty if one does or none is asked. Raises BenchError if
        the bench that the user names cannot be read, or answers nothing."""
        answers = self._answers
        if isinstance(answers, Answers):
            return ""
        if answers and self.config.bench_table is not None:
            raise BenchError(
                f"bench {self.config.bench_table}: answers nothing in this search: {answers}"
            )
        return answers

    @functools.cached_property
    def _answers(self) -> Answers | str:
        """What a bench answers, or why nothing; empty where there is none to ask."""
        config, dataset = self.config, self.dataset
        if self.recipe is None or dataset is None or not config.bench:
            return ""
        answers = find_answers(
            config.bench_table,
            self.recipe,
            dataset=dataset.digest,
            vocab=dataset.vocab,
            seed=config.seed,
        )
        return "" if answers is None else answers

    def check(self, evaluator: UserEvaluator | None) -> None:
        """Raise BenchError if the bench that the user names answers nothing, and RunError if the
        earlier runs trained otherwise than this search does."""
        self.no_bench()
        if self.earlier is None or not self.config.trials:
            return
        own = training(
            self.recipe,
            None if self.dataset is None else self.dataset.digest,
            self.config.seed,
            None if evaluator is None else evaluator_name(evaluator),
        )
        if reason := difference(
            training_of(self.earlier.runs[0]), own, "in the run", "in this search"
        ):
            raise RunError(
                f"{self.earlier.runs[0].path}: a search cannot start from its networks: {reason}"
            )

    def score(self, network: Any) -> dict[str, Any] | None:
        """The score of a network, or None."""
        if self.earlier is not None:
            score = self.earlier.score(network, metrics=self.with_metrics)
            if score is not None:
                return score
        return None if self.bench is None else self.bench.score(network)

    def networks(self, space: SearchSpace[Any]) -> Iterator[tuple[Any, Any, str]]:
        """Genotype, network and source of all known networks of a space: the runs', then the
        bench's.
        """
        for trained in () if self.earlier is None else self.earlier.networks:
            genotype, network = trained.genotype, trained.network
            if trained.run.entry("space", "hash") != space.hash:
                genotype = (
                    space.locate(network)
                    if isinstance(space, OperatorSpace)
                    and isinstance(network, Architecture)
                    and space.contains(network)
                    else None
                )
            if genotype is not None and network is not None:
                yield genotype, network, f"run {trained.run.name}"
        if self.bench is not None and isinstance(space, OperatorSpace):
            for entry in self.bench.known:
                if (genotype := space.locate(entry.architecture)) is not None:
                    network = space.architecture(genotype, entry.architecture.hidden)
                    yield genotype, network, f"bench {entry.origin}"
