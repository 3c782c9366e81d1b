"""Selective copying: tokens that are scattered among blanks must be repeated in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task


@dataclass(frozen=True, kw_only=True)
class SelectiveCopying(Task):
    """`copied` tokens at random positions among blanks (token vocab - 2), the copy sign (vocab - 1), then `copied`
    blanks, at which the answers are the tokens."""

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
