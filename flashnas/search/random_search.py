"""Random search."""

from __future__ import annotations

from collections.abc import Iterator

from flashnas.search.algorithm import Genotype, SearchAlgorithm
from flashnas.search.trial import Trial


class Random(SearchAlgorithm):
    """Draws from the space: the baseline for all other algorithms."""

    name = "random"

    def _propose(self, count: int) -> Iterator[Genotype]:
        for _ in range(count):
            yield self.draw_fresh(lambda: self.space.sample(self.rng))

    def _learn(self, trial: Trial) -> None:
        pass
