"""Aging evolution with a latency budget: algorithm 1 of Nemotron-Flash (arXiv 2511.18890), after
Real et al. 2019."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from flashnas.samplers.sampler import Genotype, Sampler, check_whole
from flashnas.trials.pareto import crowded_ranks
from flashnas.trials.trial import Trial


class AgingEvolution(Sampler):
    """Tournament winners of a population are mutated; the oldest members leave.

    The first `population` candidates are random. After that every candidate of a cycle comes from
    its own tournament of `tournament` distinct members over the same population: the member with
    the lowest loss is mutated once. With other goals it is the member on the lowest front of the
    population; among several, the one with the most room (NSGA-II).

    The paper leaves two choices open. Here, infeasible and failed candidates never join the
    population, so that a cycle of failures cannot push good members out; and while the population
    is empty, candidates are random. The default population suits tens of candidates; hundreds need
    a larger one.
    """

    name = "aging-evolution"

    def __init__(self, *, population: int = 10, tournament: int = 5, **shared: Any) -> None:
        super().__init__(**shared)
        self.population_size = check_whole("aging-evolution: population", population, 1)
        self.tournament_size = check_whole("aging-evolution: tournament", tournament, 1)
        self.population: deque[Trial] = deque(maxlen=self.population_size)  # oldest first
        self._drawn = 0

    def _propose(self, count: int) -> Iterator[Genotype]:
        fitness = self._fitness()
        for _ in range(count):
            initial = self._drawn < self.population_size
            self._drawn += 1
            if initial or not self.population:
                yield self.draw_random()
            else:
                yield self._offspring(fitness)

    def _offspring(self, fitness: Sequence[float]) -> Genotype:
        size = min(self.tournament_size, len(self.population))
        entrants = self.rng.choice(len(self.population), size=size, replace=False)
        parent = self.population[min(map(int, entrants), key=lambda i: fitness[i])].genotype
        return self.draw_fresh(lambda: self.space.mutate(parent, self.rng))

    def _fitness(self) -> list[float]:
        """Of the members of the population; lower is better."""
        points = [member.point for member in self.population]
        if self.goals is None:
            return [point[0] for point in points]
        return crowded_ranks(points).tolist() if points else []

    def _learn_unasked(self, trial: Trial) -> None:
        self._drawn += 1  # it takes the place of a random member of the first population
        self._learn(trial)

    def _learn(self, trial: Trial) -> None:
        if trial.complete:
            self.population.append(trial)
