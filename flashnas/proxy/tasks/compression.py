"""Compression: the output of the last token must hold a whole random sequence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from flashnas.proxy.tasks.base import IGNORED, Batch, Task


@dataclass(frozen=True, kw_only=True)
class Compression(Task):
    """Random tokens and, last, the compression sign (vocab - 1). From the output at the sign and the number of
    a position, a small decoder reads back the token of that position."""

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
