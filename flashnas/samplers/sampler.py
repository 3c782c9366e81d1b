"""What every search algorithm shares: ask/tell, its memory, and drawing candidates that waste no
training; and the algorithms that learn nothing, which draw from a space or list it.

All draws come from one seeded generator. The same seed and the same results therefore give the same
candidates, and a search is continued by building the algorithm again and replaying what was
recorded.
"""

import functools
import itertools
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from flashnas.base.errors import ConfigError
from flashnas.space import SearchSpace
from flashnas.trials.trial import Trial

Genotype = Hashable
FitWidth = Callable[[Any], tuple[Any | None, float | None]]
"""Genotype -> its width-fitted network and the exact `latency_ms` of that. Without a width that
meets the budgets there is not a network, and the latency may be that of the smallest width, as a
measure of the distance to the budget."""

DRAWS = 64  # tries for one fresh candidate; then a repeated or infeasible one is accepted
ENUMERABLE = 2048  # spaces of up to so many genotypes are searched to the last one
REMEMBERED = 16_384  # genotypes whose fitted networks are kept
MOST = 1_000_000  # genotypes of a space that the exhaustive one lists; any option
FAR = 1e12  # milliseconds: from a budget, of a genotype whose latency is not known


@dataclass(frozen=True)
class Goals:
    """Objectives other than one trained quality and `latency_ms`; all are minimised.

    exact: for each objective, True if its value is known before a training. exact_of: network ->
    the values of these, in order.
    """

    exact: tuple[bool, ...]
    exact_of: Callable[[Any], tuple[float, ...]]


class Sampler(ABC):
    """Proposes candidates by `ask` and learns from `tell`.

    A subclass with options of its own takes them by name and passes the others on.

    Args:
        fit_width: genotype -> fitted network and latency_ms; cheap, since it may be called
            thousands of times a cycle. `fitted` is the same, remembered.
        cycle_size: candidates that are drawn together, for any number of workers.
        goals: None for one trained quality against `latency_ms`.
    """

    name: ClassVar[str]
    # of one that fits a model to all of them
    max_proposals: ClassVar[int | None] = None
    # whether a search ends when nothing better comes; else when the sampler has nothing left
    until_quiet: ClassVar[bool] = True

    def __init__(
        self,
        *,
        space: SearchSpace[Any],
        seed: int,
        fit_width: FitWidth,
        cycle_size: int = 10,
        goals: Goals | None = None,
    ) -> None:
        self.space = space
        self.goals = goals
        # before a training
        self._exact_objectives = (False, True) if goals is None else goals.exact
        self.cycle_size = check_whole("cycle_size", cycle_size, 1)
        self.rng = np.random.default_rng(seed)
        self.history: list[Trial] = []
        self.pending: deque[Genotype] = deque()  # asked, not yet told
        self.asked = 0  # candidates in all, and of them ..
        self.drawn_at_random = 0  # .. those that nothing was learnt for
        self.fitted: FitWidth = functools.lru_cache(maxsize=REMEMBERED)(fit_width)
        self._proposed: set[Genotype] = set()  # all that was ever asked
        self._remaining: list[Genotype] | None = None  # of an enumerable space, once it is needed

    # -- the interface

    def ask(self, n: int | None = None) -> list[Genotype]:
        """The next `n` (default: a cycle of) candidates: distinct, new and within the budget where
        the space allows."""
        count = self.cycle_size if n is None else check_whole("ask: n", n, 1)
        batch: list[Genotype] = []
        for genotype in self._propose(count):
            batch.append(genotype)
            self.asked += 1
            self._proposed.add(genotype)
            self.pending.append(genotype)
        return batch

    def tell(self, trials: Iterable[Trial]) -> None:
        """Learn from results, in the order in which they were asked for; a part of a cycle is
        allowed. Raises ValueError for a candidate that is told out of that order."""
        for trial in trials:
            if not self.pending or self.pending[0] != trial.genotype:
                raise ValueError(f"{self.name}: told {trial.genotype} out of the order asked")
            self.pending.popleft()
            self.history.append(trial)
            self._learn(trial)

    def start_from(self, trials: Iterable[Trial]) -> None:
        """Learn, at any time, from candidates that were evaluated elsewhere. They are not proposed
        again.
        """
        for trial in trials:
            self._proposed.add(trial.genotype)
            self.history.append(trial)
            self._learn_unasked(trial)

    @abstractmethod
    def _propose(self, count: int) -> Iterable[Genotype]:
        """Yield `count` candidates; each one is on `pending` before the next is drawn."""

    @abstractmethod
    def _learn(self, trial: Trial) -> None:
        """Take in one result; `history` holds it already. `trial.point` of a complete one has the
        values of the objectives, which are minimised."""

    def _learn_unasked(self, trial: Trial) -> None:
        """Take in a trial of `start_from`, which this algorithm did not ask for."""
        self._learn(trial)

    # -- what algorithms build on

    def complete(self) -> list[Trial]:
        """In the order told."""
        return [trial for trial in self.history if trial.complete]

    def feasible(self, genotype: Genotype) -> bool:
        return self.fitted(genotype)[0] is not None

    def fresh(self, genotype: Genotype) -> bool:
        """True if it is within the budget and was never asked (equal genotypes build equal
        networks).
        """
        return genotype not in self._proposed and self.feasible(genotype)

    def draw_fresh(self, draw: Callable[[], Genotype]) -> Genotype:
        """A fresh candidate from `draw`, within a bounded number of tries.

        After half of the tries the last candidate is mutated instead, which leaves an exhausted
        neighbourhood and never increases the distance to the budget. An enumerable space is then
        listed. Without a fresh candidate the result is, in this order: feasible and not pending,
        infeasible and not pending, any.
        """
        current: Genotype | None = None
        best: Genotype | None = None
        excess, best_rank = 0.0, (False, 0.0)
        pending: set[Genotype] = set()  # self.pending, once a candidate is not fresh
        for attempt in range(DRAWS):
            if current is not None and attempt >= DRAWS // 2:
                candidate = self.space.mutate(current, self.rng)
            else:
                candidate = draw()
            if self.fresh(candidate):
                return candidate
            pending = pending or set(self.pending)
            found = self._excess(candidate)
            rank = candidate in pending, found
            if best is None or rank < best_rank:
                best, best_rank = candidate, rank
            if current is None or found <= excess:
                current, excess = candidate, found
        if self._remaining is None:
            self._remaining = (
                list(self.space.enumerate()) if self.space.size() <= ENUMERABLE else []
            )
        self._remaining = [genotype for genotype in self._remaining if self.fresh(genotype)]
        if self._remaining:
            return self._remaining[self.rng.integers(len(self._remaining))]
        assert best is not None
        return best

    def draw_random(self) -> Genotype:
        """A fresh candidate that nothing has been learnt for."""
        self.drawn_at_random += 1
        return self.draw_fresh(lambda: self.space.sample(self.rng))

    def _excess(self, genotype: Genotype) -> float:
        """0 within the budget; else the latency of the smallest width, or FAR without one."""
        architecture, latency_ms = self.fitted(genotype)
        if architecture is not None:
            return 0.0
        return FAR if latency_ms is None else latency_ms


class Random(Sampler):
    """Draws from the space: the baseline for all other algorithms."""

    name = "random"

    def _propose(self, count: int) -> Iterator[Genotype]:
        for _ in range(count):
            yield self.draw_random()

    def _learn(self, trial: Trial) -> None:
        pass


class Exhaustive(Sampler):
    """Lists the space: every genotype once, in its order; the default where networks are scored and
    the space is small."""

    name = "exhaustive"
    until_quiet = False

    def __init__(self, **shared: Any) -> None:
        super().__init__(**shared)
        if self.space.size() > MOST:
            raise ConfigError(
                f"search.sampler: exhaustive lists spaces of up to {MOST:,} compositions; space"
                f" {self.space.name!r} has {self.space.size():.3g}"
            )
        self._left = self.space.enumerate()

    def _propose(self, count: int) -> Iterator[Genotype]:
        fresh = (genotype for genotype in self._left if genotype not in self._proposed)
        return itertools.islice(fresh, count)

    def _learn(self, trial: Trial) -> None:
        pass


def check_whole(name: str, value: Any, least: int) -> int:
    """A whole number from `least` to MOST, or a ConfigError that names it."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ConfigError(f"{name} must be a whole number of at least {least}; got {value!r}")
    if value > MOST:
        raise ConfigError(f"{name} must be at most {MOST:,}; got {value!r}")
    return int(value)
