"""In-context recall: key, value, key, value, ..; where a key comes again, the answer is its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task, seen_before


@dataclass(frozen=True, kw_only=True)
class InContextRecall(Task):
    """Keys are tokens 0 .. k - 1, values the next k. Each sequence pairs them anew, and values may repeat.

    The answer is at the position of the key. Only keys that came before have an answer; the last key always has one.
    MAD trains on all next tokens of 12,800 fixed sequences. Here only answers count and sequences are always new, which
    teaches the same in far fewer steps.
    """

    name: ClassVar[str] = "in-context-recall"
    group: ClassVar[str] = "recall"
    vocab: int = 16
    length: int = 64
    noise: float = 0.0       # share of pairs that are noise
    noise_vocab: int = 0     # the last tokens of the vocabulary

    @property
    def keys(self) -> int:
        return (self.vocab - self.noise_vocab) // 2

    @property
    def chance(self) -> float:
        return 1 / self.keys

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        pairs, rows = self.length // 2, np.arange(count)
        value_BK = rng.integers(self.keys, 2 * self.keys, (count, self.keys))
        key_BN = rng.integers(self.keys, size=(count, pairs))
        noise_BN = rng.random((count, pairs)) < self.noise
        noise_BN[rows, rng.integers(pairs - 1, size=count)] = False   # at least one pair with an answer
        noise_BN[:, -1] = False
        asked_N = np.where(noise_BN, -1, rng.random((count, pairs)))[:, :-1].argmax(1)
        key_BN[:, -1] = key_BN[rows, asked_N]
        answer_BN = np.take_along_axis(value_BK, key_BN, 1)
        asked_BN = seen_before(np.where(noise_BN, -1 - np.arange(pairs), key_BN)) & ~noise_BN
        inputs_BN2 = np.stack([key_BN, answer_BN], -1)
        inputs_BN2[noise_BN] = rng.integers(self.vocab - self.noise_vocab, self.vocab, (int(noise_BN.sum()), 2))
        targets_BN2 = np.full_like(inputs_BN2, IGNORED)
        targets_BN2[..., 0] = np.where(asked_BN, answer_BN, IGNORED)
        return Batch(inputs_BN2.reshape(count, -1), targets_BN2.reshape(count, -1))
