"""Fuzzy in-context recall: keys and values are motifs of one to three tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task, seen_before


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(Task):
    """Keys are motifs of distinct tokens 0 .. k - 1, values of distinct tokens k .. vocab - 2; the last token pads
    on the left.

    A sequence repeats its `entries` motif pairs in random order. (In MAD each pair is drawn from all 259 keys of the
    vocabulary, and few keys come again.) Where a key comes again, the answers are the tokens of its value, each one at
    the position before it. Keys of the test set have the full size, as in MAD.
    """

    name: ClassVar[str] = "fuzzy-recall"
    group: ClassVar[str] = "recall"
    vocab: int = 16
    length: int = 64
    motif: int = 3           # most tokens of a key or value
    entries: int = 4

    @property
    def keys(self) -> int:
        """Tokens that keys are made of."""
        return (self.vocab - 1) // 2

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 1 - self.keys)

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        table_BEM, valid_BEM, same_BE = self._entries(count, rng, test)
        pairs, rows = self.length // 2, np.arange(count)[:, None]
        entry_BN = same_BE[rows, rng.integers(self.entries, size=(count, pairs))]
        tokens_BNM, valid_BNM = table_BEM[rows, entry_BN], valid_BEM[rows, entry_BN]
        fits_BN = valid_BNM.sum(-1).cumsum(-1) <= self.length
        valid_BM = (valid_BNM & fits_BN[..., None]).reshape(count, -1)
        # the answer is the token that follows: one position to the left of the value's tokens
        asked_BNM = np.zeros_like(valid_BNM)
        asked_BNM[..., self.motif:] = seen_before(entry_BN)[..., None]
        place_BM = self.length - valid_BM.sum(-1, keepdims=True) + valid_BM.cumsum(-1) - 1
        row_M, column_M = np.broadcast_to(rows, valid_BM.shape)[valid_BM], place_BM[valid_BM]
        inputs_BT = np.full((count, self.length), self.vocab - 1)
        targets_BT = np.full((count, self.length + 1), IGNORED)
        inputs_BT[row_M, column_M] = tokens_BNM.reshape(count, -1)[valid_BM]
        answers_M = np.where(asked_BNM, tokens_BNM, IGNORED).reshape(count, -1)[valid_BM]
        targets_BT[row_M, column_M] = answers_M
        return Batch(inputs_BT, targets_BT[:, 1:])

    def _entries(self, count: int, rng: np.random.Generator, test: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Motif pairs [B, E, 2 x motif] (key, then value), which tokens of them exist, and of each entry the first with
        the same key [B, E]."""
        shape = count, self.entries
        key_BEM = rng.random((*shape, self.keys)).argsort(-1)[..., :self.motif]
        value_BEM = self.keys + rng.random((*shape, self.vocab - 1 - self.keys)).argsort(-1)[..., :self.motif]
        key_size_BE = np.full(shape, self.motif) if test else rng.integers(1, self.motif + 1, shape)
        value_size_BE = rng.integers(1, self.motif + 1, shape)
        place_M = np.arange(self.motif)
        valid_BEM = np.concatenate([place_M < key_size_BE[..., None], place_M < value_size_BE[..., None]], -1)
        known_BEM = np.where(place_M < key_size_BE[..., None], key_BEM, -1)
        same_BEE = (known_BEM[:, :, None] == known_BEM[:, None]).all(-1)
        return np.concatenate([key_BEM, value_BEM], -1), valid_BEM, same_BEE.argmax(-1)
