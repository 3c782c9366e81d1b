"""State tracking: the word problem of the permutations of three things; arXiv 2404.08819."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import Batch, Task

PERMUTATIONS = tuple(itertools.permutations(range(3)))  # a token is the number of one of them


@dataclass(frozen=True, kw_only=True)
class StateTracking(Task):
    """Random permutations; after each token the answer is the product of all tokens so far, the last one applied last.

    The answer follows from the previous answer and one token, so that a recurrence of two dimensions solves it.
    """

    name: ClassVar[str] = "state-tracking"
    vocab: int = len(PERMUTATIONS)
    length: int = 32

    @property
    def chance(self) -> float:
        return 1 / len(PERMUTATIONS)

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        inputs_BT = rng.integers(len(PERMUTATIONS), size=(count, self.length))
        targets_BT = np.empty_like(inputs_BT)
        product_PP = multiplication_table()
        state_B = np.zeros(count, dtype=np.int64)  # number 0 is the identity
        for t in range(self.length):
            state_B = product_PP[state_B, inputs_BT[:, t]]
            targets_BT[:, t] = state_B
        return Batch(inputs_BT, targets_BT)


def multiplication_table() -> np.ndarray:
    """[first, second] -> the number of the permutation that applies `first` and then `second`."""
    return np.array([[PERMUTATIONS.index(tuple(first[place] for place in second)) for second in PERMUTATIONS]
                     for first in PERMUTATIONS])
