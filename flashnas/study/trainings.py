"""The trainings of a search: their recipe and text, or the user's evaluator, and what one costs.
Imported by a search that trains something."""

import contextlib
import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from flashnas.architecture import Architecture
from flashnas.base.errors import ArchitectureError, OperatorError
from flashnas.base.registry import code_name
from flashnas.data.dataset import Dataset
from flashnas.executors.job import Job, UserEvaluator
from flashnas.observations.losses import ObservedLoss
from flashnas.run_folder.earlier_runs import group_of, training
from flashnas.study.config import TIMEOUT_S
from flashnas.training.cost import ASSUMED_RATES, training_flops
from flashnas.training.recipe import Recipe

SLACK = 4  # the time limit over the time of the longest training at the assumed rate


@dataclass(frozen=True, kw_only=True, eq=False)
class Trainings:
    """What a network is scored by: a training, or the user's evaluator.

    recipe, dataset: None where an evaluator scores. needed: what an evaluator must return besides
    the loss. timeout_s: the time limit of one. typical_flops: of some of them.
    """

    at_most: int
    seed: int
    evaluator: UserEvaluator | None
    needed: tuple[str, ...]
    recipe: Recipe | None
    dataset: Dataset | None
    timeout_s: float
    typical_flops: Sequence[float]

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """All that a loss depends on, by the names that a message uses."""
        corpus = None if self.dataset is None else self.dataset.digest
        evaluator = None if self.evaluator is None else code_name(self.evaluator)
        return training(self.recipe, corpus, self.seed, evaluator)

    @property
    def tokens(self) -> int:
        """Of each training; 0 where an evaluator scores."""
        return 0 if self.recipe is None else self.recipe.steps * self.recipe.batch_tokens

    def job(self, network: Any) -> Job:
        """The evaluation of a network."""
        if self.recipe is None or self.dataset is None:
            return Job(
                architecture=network,
                evaluator=self.evaluator,
                needed=self.needed,
                seed=self.seed,
            )
        return Job(
            architecture=network,
            dataset=str(self.dataset.folder),
            recipe=self.recipe.to_dict(),
            seed=self.seed,
        )

    def flops(self, network: Architecture) -> float:
        """What a training costs."""
        assert self.recipe is not None
        return training_flops(self.recipe.proxy_of(network), self.recipe)

    def observed(self, network: Architecture, nats: float = 0.0) -> ObservedLoss:
        """The loss of a training as an observation, in one group with all of this recipe and
        text."""
        assert self.recipe is not None
        assert self.dataset is not None
        return ObservedLoss.of(
            self.recipe.proxy_of(network, self.dataset.vocab),
            nats=nats,
            tokens=float(self.tokens),
            group=group_of(self.facts),
        )


def flops_of(recipe: Recipe, networks: Iterable[Any]) -> list[float]:
    """Of the trainings of those networks that it suits; none of a user's own class."""
    found = []
    for network in networks:
        if isinstance(network, Architecture):
            with contextlib.suppress(ArchitectureError, OperatorError):  # a failed trial
                found.append(training_flops(recipe.proxy_of(network), recipe))
    return found


def time_limit(recipe: Recipe | None, flops: Sequence[float]) -> float:
    """In seconds: TIMEOUT_S, and for longer trainings SLACK times what the longest of these takes at
    the assumed rate, in whole minutes."""
    if recipe is None or not flops:
        return TIMEOUT_S
    assumed_s = max(flops) / ASSUMED_RATES[recipe.device]
    return max(TIMEOUT_S, 60.0 * math.ceil(SLACK * assumed_s / 60))
