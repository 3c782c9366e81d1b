"""Each token mixed with the one before it, in several ways at once, as RWKV7 does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from flashnas.operators.backends.core import Core

Mixed = Tensor | Sequence[Tensor]  # one for each mix


def mixed_with_the_last(x: Tensor, before: Tensor, mixes_MD: Tensor) -> Mixed:
    """x + (before - x) mix for each mix: [M, .., D]. before: of the shape of x, the token in front of each.
    """
    mixes = mixes_MD.to(x.dtype).view(len(mixes_MD), *[1] * (x.ndim - 1), -1)
    return torch.addcmul(x, before - x, mixes)


class TokenMix(nn.Module):
    """`mixed_with_the_last` by the best that is at hand. before: a tensor that nothing else reads, because a
    library may write its gradient there."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Core("token_mix", "token_mix", (mixed_with_the_last, mixed_with_the_last))

    def forward(self, x_BTD: Tensor, before_BTD: Tensor, mixes_MD: Tensor) -> Mixed:
        mixed: Mixed = self.core.of(x_BTD).forward(x_BTD, before_BTD, mixes_MD)
        return mixed

    def step(self, x_BD: Tensor, before_BD: Tensor, mixes_MD: Tensor) -> Mixed:
        mixed: Mixed = self.core.of(x_BD).step(x_BD, before_BD, mixes_MD)
        return mixed
