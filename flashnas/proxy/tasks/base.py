"""What every task shares: sequences drawn from a seed, a test set of its own, no torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

IGNORED = -100           # target of a position where no prediction counts
_TEST, _TRAIN = 0x7E57, 0x7EA1


class Batch(NamedTuple):
    """inputs_BT, targets_BT: int64 [B, T]; the target of a position is the answer after reading its token, or -100."""

    inputs_BT: np.ndarray
    targets_BT: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A synthetic task of MAD (arXiv 2403.17844). Its fields are its difficulty; two equal tasks draw equal sequences.

    vocab: tokens, special ones included. length: tokens of a sequence. A task with `from_last` asks for all answers
    from the output of the last position alone; the others ask for each answer at its own position.
    """

    name: ClassVar[str]
    from_last: ClassVar[bool] = False
    vocab: int
    length: int

    @abstractmethod
    def draw(self, count: int, rng: np.random.Generator, *, test: bool = False) -> Batch:
        """`count` sequences; `test` as the task is examined, which may be harder than it is trained."""

    @property
    @abstractmethod
    def chance(self) -> float:
        """Accuracy of guessing among the possible answers."""

    def test_set(self, count: int, seed: int) -> Batch:
        """The examination: the same sequences for every network of that seed."""
        return self.draw(count, np.random.default_rng([seed, _TEST]), test=True)

    def batches(self, count: int, seed: int, apart_from: Batch) -> Iterator[Batch]:
        """Endless training batches of `count` sequences, none of which stands in `apart_from`."""
        rng, held_out = np.random.default_rng([seed, _TRAIN]), _rows(apart_from.inputs_BT)
        while True:
            batch = self.draw(count, rng)
            while (known := np.isin(_rows(batch.inputs_BT), held_out)).any():
                again = self.draw(int(known.sum()), rng)
                batch.inputs_BT[known], batch.targets_BT[known] = again
            yield batch


def _rows(tokens_BT: np.ndarray) -> np.ndarray:
    """Each sequence as one comparable value [B]."""
    return np.ascontiguousarray(tokens_BT).view(f"V{tokens_BT.shape[1] * tokens_BT.itemsize}").reshape(-1)


def seen_before(tokens_BN: np.ndarray) -> np.ndarray:
    """Bool [B, N]: does an equal entry stand further left in the row?"""
    equal_BNN = tokens_BN[:, :, None] == tokens_BN[:, None, :]
    return np.tril(equal_BNN, k=-1).any(-1)
