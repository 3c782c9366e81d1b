"""The contract refuses each way in which a search algorithm can be wrong, in one line that names
the rule.
"""

from pathlib import Path

import numpy as np
import pytest
import sampler_contract as contract
from offenders import every
from one_line import one_line
from sampler_contract import check_beats_random, check_sampler

from flashnas.search.algorithm import SearchAlgorithm

EXAMPLES = Path(__file__).parents[2] / "examples"


class Good(SearchAlgorithm):
    """Random at first, later mutants of the best."""

    name = "good"

    def __init__(self, *, start=8, **shared):
        super().__init__(**shared)
        self.start = start

    def _propose(self, count):
        for _ in range(count):
            yield self.draw_fresh(self.draw)

    def draw(self):
        known = self.complete()
        if len(known) < self.start:
            return self.space.sample(self.rng)
        return self.space.mutate(
            min(known, key=lambda evaluation: evaluation.loss).genotype, self.rng
        )

    def _learn(self, evaluation):
        pass


def test_a_good_sampler_passes_and_learns():
    check_sampler(Good, {"start": 6})
    check_beats_random(Good)


def test_the_example_passes_and_learns(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "flashnas-sampler")
    from flashnas_sampler.annealing import Annealing

    check_sampler(Annealing, {"initial": 4})
    check_beats_random(Annealing, {"initial": 4}, seeds=15)


class OwnSeed(Good):
    def draw(self):
        self.rng = np.random.default_rng()
        return super().draw()


class OneSeed(Good):
    def __init__(self, **shared):
        super().__init__(**{**shared, "seed": 0})


class Global(Good):
    def draw(self):
        self.rng = np.random.default_rng(np.random.randint(2**31))  # noqa: NPY002
        return super().draw()


class Repeats(Good):
    def _propose(self, count):
        for number in range(count):
            yield (
                self.draw_fresh(self.draw)
                if number or not self.history
                else self.history[0].genotype
            )


class OverBudget(Good):
    """Does not look at the latency."""

    def feasible(self, genotype):
        return True


class TakesAnyOrder(Good):
    def tell(self, evaluations):
        for evaluation in evaluations:
            self.pending.remove(evaluation.genotype)
            self.history.append(evaluation)


class StopsAtFailures(Good):
    def _learn(self, evaluation):
        if len(self.history) > 3:
            self.best = min(e.loss for e in self.history[-6:] if e.complete)


class AsksAhead(Good):
    """Draws with the whole number asked for, so that a longer run differs from its beginning."""

    def _propose(self, count):
        self.rng = np.random.default_rng([self.seed, count, len(self.history), len(self.pending)])
        yield from super()._propose(count)


class Forgets(Good):
    """Its draws depend on what it was asked and not on what it was told."""

    asked = 0

    def __init__(self, **shared):
        super().__init__(**shared)
        type(self).asked += 1
        self.rng = np.random.default_rng([self.seed, type(self).asked % 3])


class OneTooMany(Good):
    def ask(self, n=None):
        return super().ask(n) + super().ask(1)


@every(
    case=[
        (OwnSeed, "the same seed and results must give the same candidates"),
        (OneSeed, "another seed must give other candidates"),
        (Repeats, "a candidate must not be proposed twice"),
        (OverBudget, "candidates must be within the budget"),
        (TakesAnyOrder, "tell out of the order asked must raise ValueError"),
        (AsksAhead, "asking for fewer candidates must give the first of them"),
        (Forgets, "must give the same"),
        (OneTooMany, "must"),
    ]
)
def test_a_broken_sampler_is_refused(case):
    sampler, words = case
    assert words in one_line(AssertionError, check_sampler, sampler)


def test_global_random_state_is_refused_and_restored():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    with pytest.raises(
        AssertionError, match="candidates must not depend on numpy's or torch's global seed"
    ):
        contract.check_global_random_state(contract.World(Global))
    with pytest.raises(AssertionError, match="sampler 'good': the same seed"):
        contract.check_seed_fixes_the_trajectory(contract.World(Global))
    assert len(before) == 624


def test_a_sampler_that_cannot_live_with_failures_shows_its_own_error():
    with pytest.raises(ValueError, match="min"):
        contract.check_lost_cycles(contract.World(StopsAtFailures), "failed", 0)


def test_a_sampler_that_does_not_learn_does_not_beat_random():
    with pytest.raises(
        AssertionError, match=r"sampler 'random': the median of 7 seeds must be below \d\.\d+ nats"
    ):
        check_beats_random("random")
