"""A search space of bit strings: small, its optimum known."""

from __future__ import annotations

from dataclasses import dataclass

import optuna

from flashnas.architecture import Architecture, parse_operators
from flashnas.space import SearchSpace


@dataclass(frozen=True)
class Bits:
    bits: tuple[int, ...]


class BitSpace(SearchSpace[Bits]):
    """`length` bits; a 1 is attention, a 0 is DeltaNet; one hidden size."""

    name = "bits"

    def __init__(self, length):
        self.length = length

    def sample(self, rng):
        return Bits(tuple(int(bit) for bit in rng.integers(0, 2, self.length)))

    def mutate(self, genotype, rng):
        index = int(rng.integers(self.length))
        return Bits(tuple(bit ^ (i == index) for i, bit in enumerate(genotype.bits)))

    def encode(self, genotype):
        return {f"bit{i}": bit for i, bit in enumerate(genotype.bits)}

    def decode(self, params):
        return Bits(tuple(int(params[f"bit{i}"]) for i in range(self.length)))

    def distributions(self):
        return {
            f"bit{i}": optuna.distributions.CategoricalDistribution([0, 1])
            for i in range(self.length)
        }

    def operators(self, genotype):
        return parse_operators(" ".join("da"[bit] for bit in genotype.bits))

    def architectures(self, genotype):
        return [Architecture(hidden=256, operators=self.operators(genotype), vocab=512)]

    def fit_width(self, genotype):
        """1 ms a layer plus 0.1 ms an attention; everything fits."""
        return self.architectures(genotype)[0], self.length + 0.1 * sum(genotype.bits)
