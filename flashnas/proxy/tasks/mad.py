"""The six synthetic tasks of MAD (arXiv 2403.17844): what a network keeps and finds again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task, seen_before

_MAP_SEED = 12345        # of memorisation: the map is part of the task, and every network learns the same one


@dataclass(frozen=True, kw_only=True)
class InContextRecall(Task):
    """Key, value, key, value, ..; where a key comes again, the answer is its value, at the position of the
    key.

    Each sequence pairs keys and values anew, and values may repeat. The last key always has an answer. MAD
    trains on all next tokens of 12,800 fixed sequences; here only answers count and sequences are always new,
    which teaches the same in far fewer steps.
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
        inputs_BN2[noise_BN] = rng.integers(self.vocab - self.noise_vocab, self.vocab,
                                            (int(noise_BN.sum()), 2))
        targets_BN2 = np.full_like(inputs_BN2, IGNORED)
        targets_BN2[..., 0] = np.where(asked_BN, answer_BN, IGNORED)
        return Batch(inputs_BN2.reshape(count, -1), targets_BN2.reshape(count, -1))


@dataclass(frozen=True, kw_only=True)
class NoisyRecall(InContextRecall):
    """In-context recall in which pairs are noise with probability `noise`, of tokens of their own."""

    name: ClassVar[str] = "noisy-recall"
    vocab: int = 32
    noise: float = 0.2
    noise_vocab: int = 16


@dataclass(frozen=True, kw_only=True)
class FuzzyRecall(Task):
    """In-context recall whose keys and values are motifs of one to three tokens.

    Keys are motifs of distinct tokens 0 .. k - 1, values of distinct tokens k .. vocab - 2; the last token
    pads on the left.

    A sequence repeats its `entries` motif pairs in random order. (In MAD each pair is drawn from all 259 keys
    of the vocabulary, and few keys come again.) Where a key comes again, the answers are the tokens of its
    value, each one at the position before it. Keys of the test set have the full size, as in MAD.
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

    def _entries(self, count: int, rng: np.random.Generator, test: bool,
                 ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Motif pairs [B, E, 2 x motif] (key, then value), which tokens of them exist, and of each entry the
        first with the same key [B, E]."""
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


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """Tokens that are scattered among blanks must be repeated in their order."""

    name: ClassVar[str] = "selective-copying"
    vocab: int = 16
    length: int = 128
    copied: int = 8

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 2)

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        inputs_BT = np.full((count, self.length), self.vocab - 2)
        answers_BN = rng.integers(self.vocab - 2, size=(count, self.copied))
        room = self.length - self.copied - 1
        place_BN = np.sort(rng.random((count, room)).argsort(-1)[:, :self.copied], -1)
        np.put_along_axis(inputs_BT, place_BN, answers_BN, 1)
        inputs_BT[:, room] = self.vocab - 1
        targets_BT = np.full_like(inputs_BT, IGNORED)
        targets_BT[:, room + 1:] = answers_BN
        return Batch(inputs_BT, targets_BT)


@dataclass(frozen=True, kw_only=True)
class Compression(Task):
    """The output of the last token must hold a whole random sequence: from it and the number of a position, a
    small decoder reads back the token of that position."""

    name: ClassVar[str] = "compression"
    from_last: ClassVar[bool] = True
    vocab: int = 16
    length: int = 32

    @property
    def chance(self) -> float:
        return 1 / (self.vocab - 1)

    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        inputs_BT = rng.integers(self.vocab - 1, size=(count, self.length))
        inputs_BT[:, -1] = self.vocab - 1
        targets_BT = inputs_BT.copy()
        targets_BT[:, -1] = IGNORED
        return Batch(inputs_BT, targets_BT)


@dataclass(frozen=True, kw_only=True)
class Memorisation(Task):
    """The weights must keep a map from keys to values, which is the same in every sequence. Inputs never hold
    values."""

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
