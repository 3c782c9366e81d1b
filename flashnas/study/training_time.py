"""How long the trainings of a search take: the time of one and its limit, one plan of all of them,
what of it is done, and the pace so far."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.base.text import duration
from flashnas.latency.fitting import Fitter
from flashnas.study.config import TIMEOUT_S, SearchConfig
from flashnas.training.cost import (
    ASSUMED_RATES,
    expected_seconds,
    training_flops,
    training_seconds,
)
from flashnas.training.recipe import Recipe

# of a training, times the logarithm of the workers: until the last one of a cycle has ended
WAIT = 0.36
ASSUMED_PACE = 1.25  # until a training says it: what is expected is the time on an idle machine
PRODUCT_S = 0.0022  # a product of `product_s` on a CPU of the expected times
MAX_SHARE = 0.95  # of a training: what the time since the last completion may take off
SLACK = 4  # the limit over the time that is expected
MAX_EXPECTED = 4096  # networks whose expected time is kept
LOOKED_AT = 32  # genotypes, for the range of the trainings' FLOPs
LONG_S = 3600.0  # of one training, beyond which a search says what it costs
DEVICES = {"cpu": "a CPU thread", "cuda": "a GPU"}


# -- the time of one training ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class TimeLimit:
    """Of one training. recipe: None where an evaluator scores. flops: of the longest one among those
    looked at. candidate_s, mean_flops: of what the search draws, on average. elsewhere: the rate
    that is assumed of a device that is not here, in words."""

    seconds: float
    recipe: Recipe | None = None
    flops: float = 0.0
    candidate_s: float = 1.0
    mean_flops: float = 0.0
    elsewhere: str = ""

    @functools.lru_cache(maxsize=MAX_EXPECTED)  # noqa: B019 - as long as the search
    def expected_s(self, network: Any | None) -> float:
        """Expected seconds of a training on one worker; None: of a network that the search draws. 1
        where nothing says it, such as for an evaluator."""
        if network is None:
            return self.candidate_s
        if self.recipe is None:
            return 1.0
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
    where a training is expected to take longer than the limit, or hours."""
    given = config.candidate_timeout_s
    drawn = [] if recipe is None else _trained(recipe, fitter, baselines, config.seed)
    if recipe is None or not drawn:
        return TimeLimit(seconds=given or TIMEOUT_S, recipe=recipe)
    flops = [training_flops(network, recipe) for network in drawn]
    candidates = slice(len(baselines) if len(baselines) < len(drawn) else 0, None)
    candidate_s = [training_seconds(network, recipe) for network in drawn[candidates]]
    expected_s = expected_seconds(max(flops), recipe)
    by_recipe_s = max(TIMEOUT_S, 60.0 * math.ceil(SLACK * expected_s / 60))
    limit = TimeLimit(
        seconds=given or by_recipe_s,
        recipe=recipe,
        elsewhere=_rate_elsewhere(recipe),
        flops=max(flops),
        mean_flops=float(np.mean(flops[candidates])),
        candidate_s=float(np.mean(candidate_s)),
    )
    cost = (
        f"recipe {recipe.name!r} takes up to {max(flops):.1e} FLOP a training,"
        f" {expected_s / 3600:,.1f} h"
        f" on {DEVICES[recipe.device]} at an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s"
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
    drawn = [fitter.fit_width(space.sample(rng))[0] for _ in range(LOOKED_AT)]
    trained = []
    for network in (*baselines, *drawn):
        if isinstance(network, Architecture):
            try:
                trained.append(recipe.proxy_of(network))
            except (ArchitectureError, OperatorError):  # a failed trial with its reason
                continue
    return trained


def _rate_elsewhere(recipe: Recipe) -> str:
    """The rate that is assumed of a device that is not here, in words."""
    if recipe.device == "cpu":
        return ""
    from flashnas.training.trainer import visible_devices  # loads torch

    rate = f"an assumed {ASSUMED_RATES[recipe.device]:.1e} FLOP/s of a GPU, which is not here"
    return "" if visible_devices() else rate


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """All trainings of a search.

    baselines: expected seconds of each that is not known, on one worker. candidate_s: mean seconds
    of a candidate. cycle: candidates that wait for each other. tokens: of one training; 0 where the
    user's evaluator scores. cpu_dtype: in which a CPU multiplies matrices; empty elsewhere.
    """

    baselines: Sequence[float]
    candidates: int
    candidate_s: float
    cycle: int = 1
    workers: int = 1
    tokens: int = 0
    cpu_dtype: str = ""


def training_plan(problem: Any, trainings: Any, workers: int) -> TrainingPlan:
    """Of a `flashnas.study.problem.Problem` and its `Trainings`, with so many workers side by
    side."""
    recipe, limit = trainings.recipe, trainings.time_limit
    new = {
        network.hash: network
        for _, network in problem.baselines
        if problem.each and network is not None and trainings.score(network, metrics=False) is None
    }
    return TrainingPlan(
        baselines=[limit.expected_s(network) for network in new.values()],
        candidates=int(min(trainings.at_most, problem.space.size())),
        candidate_s=limit.expected_s(None),
        cycle=problem.config.cycle_size,
        workers=workers,
        tokens=0 if recipe is None else recipe.steps * recipe.batch_tokens,
        cpu_dtype=recipe.dtype if recipe is not None and recipe.device == "cpu" else "",
    )


class Clock:
    """The remaining time of a search, from its plan and from the trainings that have ended.

    Every training counts by its expected seconds; the pace is how much longer those that have ended,
    and the parts that are done of those that run, took; until one says it, it is assumed.
    Between two messages the time runs down. Nothing is assumed of the pace of a user's
    evaluator. queued_s: expected seconds of what is left, with all workers, at no pace.
    """

    def __init__(self, plan: TrainingPlan, now: Callable[[], float] = time.monotonic) -> None:
        self.plan = plan
        self._now = now
        self._since = now()
        self.done_s = self.took_s = self.answer_s = 0.0
        self.left_s, self.queued_s = self._work(plan.baselines, plan.candidates)

    def start(self, answer_s: float) -> None:
        """The first training begins now; answer_s: of what follows the last one."""
        self._since = self._now()
        self.answer_s = answer_s

    def update(
        self,
        *,
        done: Sequence[tuple[float, float]],
        drawn: Sequence[float],
        candidates: int,
    ) -> None:
        """Where the search is, about once a second. done: expected and real seconds of each
        training that has ended, and of the part that is done of one that runs, where its worker
        says it. drawn: expected seconds of what is left of each baseline and candidate.
        candidates: how many are still to be drawn."""
        before = self.done_s
        self.done_s, self.took_s = (math.fsum(pair[index] for pair in done) for index in (0, 1))
        self.left_s, self.queued_s = self._work(drawn, candidates)
        if self.done_s != before:
            self._since = self._now()

    def _work(self, drawn: Sequence[float], candidates: int) -> tuple[float, float]:
        """Expected seconds of what is left, on one worker, and in all with the workers, which wait
        for each other at the end of a cycle."""
        plan, candidate_s = self.plan, self.plan.candidate_s
        work = math.fsum((*drawn, candidates * candidate_s))
        waits = 0 if plan.cycle == 1 else bool(drawn) + math.ceil(candidates / plan.cycle)
        return work, work / plan.workers + WAIT * math.log(plan.workers) * candidate_s * waits

    @property
    def pace(self) -> float | None:
        """Real over expected seconds; None as long as nothing says it."""
        if self.done_s:
            return self.took_s / self.done_s
        return self._assumed_pace if self.plan.tokens else None

    @functools.cached_property
    def _assumed_pace(self) -> float:
        """ASSUMED_PACE, more on a CPU that multiplies matrices of the type slowly."""
        if not self.plan.cpu_dtype:
            return ASSUMED_PACE
        from flashnas.network.precision import TYPES, product_s  # loads torch

        return ASSUMED_PACE * max(1.0, product_s("cpu", TYPES[self.plan.cpu_dtype]) / PRODUCT_S)

    @property
    def share_done(self) -> float:
        """By their time."""
        return self.done_s / (self.done_s + self.left_s) if self.left_s else 1.0

    @property
    def remaining_s(self) -> float | None:
        """None where nobody knows the pace yet."""
        if not self.left_s:
            return max(self.answer_s - (self._now() - self._since), 0.0)
        if self.pace is None:
            return None
        most_s = MAX_SHARE * self.pace * min(self.plan.candidate_s, self.queued_s)
        since_s = min(self._now() - self._since, most_s)
        return self.answer_s + self.pace * self.queued_s - since_s

    def __str__(self) -> str:
        plan, took = self.plan, self.remaining_s
        count = len(plan.baselines) + plan.candidates
        evaluations = f"trainings of {plan.tokens:,} tokens" if plan.tokens else "evaluations"
        total = f": about {plan.tokens * count:,} tokens" if plan.tokens else ""
        with_workers = f"with {plan.workers} worker{'s' * (plan.workers > 1)}"
        hours = (
            f"; about {duration(took)} {with_workers}, until the pace is measured" if took else ""
        )
        return (
            f"plan: {count} {evaluations}, {len(plan.baselines)} baselines and {plan.candidates}"
            f" candidates{total}{hours}"
        )
