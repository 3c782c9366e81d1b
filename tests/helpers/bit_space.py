"""A search space of bit strings with the interface of flashnas.space: small, enumerable, its
optimum known.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import optuna

from flashnas.architecture import Architecture, parse_operators


@dataclass(frozen=True)
class Bits:
    bits: tuple[int, ...]


class BitSpace:
    """`length` bits; a 1 is attention, a 0 is DeltaNet; one hidden size."""

    hidden_sizes = (256,)

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

    def features(self, genotype):
        return np.array(genotype.bits, dtype=float)

    def size(self):
        return 2**self.length

    def enumerate(self):
        return (Bits(bits) for bits in itertools.product((0, 1), repeat=self.length))

    def fit_width(self, genotype):
        """1 ms a layer plus 0.1 ms an attention; everything fits."""
        architecture = Architecture(hidden=256, operators=self.operators(genotype), vocab=512)
        return architecture, self.length + 0.1 * sum(genotype.bits)
