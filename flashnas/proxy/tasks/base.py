"""What every task shares: sequences drawn from a seed, a test set of its own, no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

IGNORED = -100           # target of a position without an answer
_TEST, _TRAIN = 0x7E57, 0x7EA1


class Batch(NamedTuple):
    """inputs_BT, targets_BT: int64 [B, T]. A target is the answer after the token of its position, or
    IGNORED."""

    inputs_BT: np.ndarray
    targets_BT: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A synthetic task. Its fields are its difficulty; two equal tasks draw equal sequences from equal seeds.

    name: in the registry and of the score, in lower-case words with hyphens between them. from_last: all
    answers are read from the output of the last position. group: tasks of one package with the same group,
    which need one `length` and one `from_last`, are learned by one network at once; "": a network of its own.
    Tasks that need the same skill belong together. vocab: number of tokens, special ones included. length:
    tokens of a sequence.
    """

    name: ClassVar[str]
    from_last: ClassVar[bool] = False
    group: ClassVar[str] = ""
    vocab: int
    length: int

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        """Sequences and their answers.

        Args:
            rng: the only source of randomness.
            test: True for the test set, which may be harder than the training.

        Returns:
            inputs_BT with tokens in 0..vocab-1 and targets_BT, int64 [count, length]. At least one target of
            each sequence is not IGNORED.
        """

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing among the possible answers, in 0..1."""

    def test_set(self, count: int, seed: int) -> Batch:
        """The test set: the same sequences for every network of that seed."""
        return self.draw(count, np.random.default_rng([seed, _TEST]), test=True)

    def batches(self, count: int, seed: int, apart_from: Batch) -> Iterator[Batch]:
        """Endless training batches of `count` sequences, none of which is in `apart_from`."""
        rng, held_out = np.random.default_rng([seed, _TRAIN]), _rows(apart_from.inputs_BT)
        while True:
            batch = self.draw(count, rng)
            while (repeated := np.isin(_rows(batch.inputs_BT), held_out)).any():
                again = self.draw(int(repeated.sum()), rng)
                batch.inputs_BT[repeated], batch.targets_BT[repeated] = again
            yield batch


def _rows(tokens_BT: np.ndarray) -> np.ndarray:
    """Each sequence as one comparable value [B]."""
    return np.ascontiguousarray(tokens_BT).view(f"V{tokens_BT.shape[1] * tokens_BT.itemsize}").reshape(-1)


def seen_before(tokens_BN: np.ndarray) -> np.ndarray:
    """Bool [B, N]: True where an equal entry is further left in the row."""
    equal_BNN = tokens_BN[:, :, None] == tokens_BN[:, None, :]
    return np.tril(equal_BNN, k=-1).any(-1)
