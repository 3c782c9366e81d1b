"""Memorisation: the weights must keep a map from keys to values, which is the same in every sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task

_MAP_SEED = 12345        # the map is part of the task: every network learns the same one


@dataclass(frozen=True, kw_only=True)
class Memorisation(Task):
    """Key, sign (vocab - 1), key, sign, ..; the answer at a sign is the value of the key. Inputs never hold values."""

    name: ClassVar[str] = "memorisation"
    vocab: int = 256
    length: int = 32

    @property
    def keys(self) -> int:
        return (self.vocab - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / self.keys

    def value_of(self) -> np.ndarray:
        """The value of each key [K]; no two keys share one."""
        return self.keys + np.random.default_rng(_MAP_SEED).permutation(self.keys)

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        key_BN = rng.integers(self.keys, size=(count, self.length // 2))
        inputs_BN2 = np.stack([key_BN, np.full_like(key_BN, self.vocab - 1)], -1)
        targets_BN2 = np.stack([np.full_like(key_BN, IGNORED), self.value_of()[key_BN]], -1)
        return Batch(inputs_BN2.reshape(count, -1), targets_BN2.reshape(count, -1))
