"""A sampler of another package, and that of the example, keep the contract and learn."""

from pathlib import Path

import pytest
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
        return self.space.mutate(min(known, key=lambda trial: trial.values[0]).genotype, self.rng)

    def _learn(self, trial):
        pass


def test_a_good_sampler_passes_and_learns():
    check_sampler(Good, {"start": 6})
    check_beats_random(Good)


def test_the_example_passes_and_learns(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES / "flashnas-sampler")
    from flashnas_sampler.annealing import Annealing

    check_sampler(Annealing, {"initial": 4})
    check_beats_random(Annealing, {"initial": 4}, seeds=15)


def test_a_sampler_that_does_not_learn_does_not_beat_random():
    with pytest.raises(
        AssertionError, match=r"sampler 'random': the median of 7 seeds must be below \d\.\d+ nats"
    ):
        check_beats_random("random")
